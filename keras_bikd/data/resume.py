"""A stream of batches that can begin anywhere: what exact resuming needs of the data."""

import tensorflow as tf


def resumable(data):
    """Turn a data set into an endless stream whose first batch is given by a position.

    The batches are those of `data.repeat()`. A process that was started again makes the same stream from the same
    seeds and lets the batches go by that have been trained on; producing them is all that a resume costs. Call
    `keras.utils.set_random_seed` before making the data set: without it, an unseeded shuffle is another every time.

    Args:
        data: `tf.data.Dataset` of batches, or of pairs of batches as from `pair`.

    Returns:
        `(stream, position)`: an endless `tf.data.Dataset`, and a scalar int64 `tf.Variable`, the number of batches
        to let go by, which is read whenever an iterator is made. `callbacks.ExactBackup` sets it.

    Raises:
        ValueError: If `data` is no `tf.data.Dataset`.

    Examples:
        >>> stream, position = resumable(tf.data.Dataset.range(3))
        >>> _ = position.assign(4)
        >>> [int(number) for number in stream.take(4)]
        [1, 2, 0, 1]
    """
    if not isinstance(data, tf.data.Dataset):
        raise ValueError(f"`resumable(data=...)` takes a `tf.data.Dataset`. Received: {type(data).__name__}")
    position = tf.Variable(0, dtype="int64", trainable=False, name="position")
    # Inside a function the variable is read when an iterator is made, and not now.
    stream = tf.data.Dataset.range(1).flat_map(lambda _: data.repeat().skip(position))
    return stream.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)), position
