"""A stream of batches that can start at any position, to resume a training exactly."""

from typing import Any

from keras.src.trainers import data_adapters

from keras_bikd.keras_private import is_tf_dataset


def resumable(data: Any) -> tuple[Any, Any]:
    """Turn a data set into an endless stream that starts at a given position.

    The batches are those of `data.repeat()`. A restarted process makes the same stream from the same seeds and skips
    the batches that have been trained on. In `tf.data`, and with a `grain.IterDataset`, the cost of resuming is the
    time to produce these again; what `load` gives without TensorFlow, and a `grain.MapDataset`, start at any batch at
    once. Call `keras.utils.set_random_seed` before you make the data set: otherwise a shuffle without a seed differs
    every time.

    Args:
        data: `tf.data.Dataset` or Grain data set of batches, or of pairs of batches as from `pair`.

    Returns:
        `(stream, position)`, an endless data set of the same kind, and the number of batches to skip, an object with
        the method `assign`. It is read whenever an iterator is made; `callbacks.ExactBackup` sets it.

    Raises:
        ValueError: If `data` is of another kind.

    Examples:
        >>> import tensorflow as tf
        >>> stream, position = resumable(tf.data.Dataset.range(3))
        >>> _ = position.assign(4)
        >>> [int(number) for number in stream.take(4)]
        [1, 2, 0, 1]
    """
    if is_tf_dataset(data):
        return _in_tf_data(data)
    if not data_adapters.is_grain_dataset(data):
        raise ValueError(
            f"`resumable(data=...)` takes a `tf.data.Dataset` or a Grain data set. Received: {type(data).__name__}"
        )
    from keras_bikd.batches.grain_data import endless

    stream = endless(data)
    return stream, stream.position


def _in_tf_data(data: Any) -> tuple[Any, Any]:
    import tensorflow as tf

    position = tf.Variable(0, dtype="int64", trainable=False, name="position")
    # Inside a function the variable is read when an iterator is made, not now.
    stream = tf.data.Dataset.range(1).flat_map(lambda _: data.repeat().skip(position))
    return stream.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)), position
