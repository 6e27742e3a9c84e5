"""A stream of batches that can start at any position, to resume a training exactly."""

import tensorflow as tf

__all__ = ["resumable"]


def resumable(data: tf.data.Dataset) -> tuple[tf.data.Dataset, tf.Variable]:
    """Turn a data set into an endless stream that starts at a given position.

    The batches are those of `data.repeat()`. A restarted process makes the same stream from the same seeds and skips
    the batches that have been trained on; the cost of resuming is the time to produce these again. Call
    `keras.utils.set_random_seed` before you make the data set: otherwise a shuffle without a seed differs every time.

    Args:
        data: `tf.data.Dataset` of batches, or of pairs of batches as from `pair`.

    Returns:
        `(stream, position)`: an endless `tf.data.Dataset`, and a scalar int64 `tf.Variable`, the number of batches to
        skip. It is read whenever an iterator is made; `callbacks.ExactBackup` sets it.

    Raises:
        ValueError: If `data` is not a `tf.data.Dataset`.

    Examples:
        >>> stream, position = resumable(tf.data.Dataset.range(3))
        >>> _ = position.assign(4)
        >>> [int(number) for number in stream.take(4)]
        [1, 2, 0, 1]
    """
    if not isinstance(data, tf.data.Dataset):
        raise ValueError(f"`resumable(data=...)` takes a `tf.data.Dataset`. Received: {type(data).__name__}")
    position = tf.Variable(0, dtype="int64", trainable=False, name="position")
    # Inside a function the variable is read when an iterator is made, not now.
    stream = tf.data.Dataset.range(1).flat_map(lambda _: data.repeat().skip(position))
    return stream.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)), position
