"""Streams of batches for long and for shared trainings: resumed at any batch, shared among processes."""

from typing import Any

import numpy as np
from keras import tree

from keras_bikd.backend import processes
from keras_bikd.keras_private import is_grain_dataset, is_tf_dataset
from keras_bikd.types import Tensor


def resumable(data: Any) -> tuple[Any, Any]:
    """Turn a data set into an endless stream that starts at a given position.

    The batches are those of `data.repeat()`. A restarted process makes the same stream from the same seeds and skips
    the batches that have been trained on. In `tf.data`, and with a `grain.IterDataset`, the cost of resuming is the
    time to produce these again; the Grain data sets of `load`, and a `grain.MapDataset`, start at any batch at once.
    Call `keras.utils.set_random_seed` before you make the data set: otherwise a shuffle without a seed differs every
    time.

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
        return _resumable_in_tf_data(data)
    if not is_grain_dataset(data):
        raise ValueError(
            f"`resumable(data=...)` takes a `tf.data.Dataset` or a Grain data set. Received: {type(data).__name__}"
        )
    from keras_bikd.batches.grain_data import endless

    stream = endless(data)
    return stream, stream.position


def _resumable_in_tf_data(data: Any) -> tuple[Any, Any]:
    import tensorflow as tf

    position = tf.Variable(0, dtype="int64", trainable=False, name="position")
    # Inside a function the variable is read when an iterator is made, not now.
    stream = tf.data.Dataset.range(1).flat_map(lambda _: data.repeat().skip(position))
    return stream.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)), position


def share_of_process(data: Any) -> Any:
    """Keep only the rows of every batch that belong to this process.

    For `keras.distribution.DataParallel(auto_shard_dataset=False)` on JAX, because Keras' own sharding does not support
    pairs of batches, and for PyTorch after `torch.distributed.init_process_group`. Every process must read the same
    batches in the same order, so set the same seeds in all. The global batch is then the batch of a training in a
    single process. If the rows of a batch are no multiple of the number of devices, the last rows are dropped; a batch
    with fewer rows than devices repeats its rows.

    Args:
        data: `tf.data.Dataset` or Grain data set of batches, or of pairs of batches as from `pair`.

    Returns:
        A data set of the same kind and structure.

    Raises:
        ValueError: If `data` is of another kind.

    Examples:
        >>> import tensorflow as tf
        >>> batches = tf.data.Dataset.range(5).batch(4)
        >>> # One process with one device has it all.
        >>> [batch.tolist() for batch in share_of_process(batches).as_numpy_iterator()]
        [[0, 1, 2, 3], [4]]
    """
    if not is_tf_dataset(data) and not is_grain_dataset(data):
        raise ValueError(
            "`share_of_process(data=...)` takes a `tf.data.Dataset` or a Grain data set. "
            f"Received: {type(data).__name__}"
        )
    process, count, devices = processes()
    if devices == 1:
        return data

    def rows(array: np.ndarray) -> np.ndarray:
        share = max(len(array) // devices, 1) * devices // count
        return array[np.arange(process * share, (process + 1) * share) % len(array)]

    if is_grain_dataset(data):
        return data.map(lambda batch: tree.map_structure(rows, batch))
    import tensorflow as tf

    def gathered(tensor: Tensor) -> Tensor:
        length = tf.shape(tensor)[0]
        share = tf.maximum(length // devices, 1) * devices // count
        return tf.gather(tensor, tf.range(process * share, (process + 1) * share) % length)

    return data.map(lambda *batch: tf.nest.map_structure(gathered, batch if len(batch) > 1 else batch[0]))
