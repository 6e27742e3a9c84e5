"""Training in several processes: each takes its share of the rows of every batch."""

from typing import Any

import numpy as np
from keras import tree
from keras.src.trainers import data_adapters

from keras_bikd.backend import processes
from keras_bikd.keras_private import is_tf_dataset
from keras_bikd.types import Tensor


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
    if not is_tf_dataset(data) and not data_adapters.is_grain_dataset(data):
        raise ValueError(
            "`share_of_process(data=...)` takes a `tf.data.Dataset` or a Grain data set. "
            f"Received: {type(data).__name__}"
        )
    process, count, devices = processes()
    if devices == 1:
        return data
    return (_in_tf_data if is_tf_dataset(data) else _in_grain)(data, process, count, devices)


def _in_grain(data: Any, process: int, count: int, devices: int) -> Any:
    def rows(array: np.ndarray) -> np.ndarray:
        share = max(len(array) // devices, 1) * devices // count
        return array[np.arange(process * share, (process + 1) * share) % len(array)]

    return data.map(lambda batch: tree.map_structure(rows, batch))


def _in_tf_data(data: Any, process: int, count: int, devices: int) -> Any:
    import tensorflow as tf

    def rows(tensor: Tensor) -> Tensor:
        length = tf.shape(tensor)[0]
        share = tf.maximum(length // devices, 1) * devices // count
        return tf.gather(tensor, tf.range(process * share, (process + 1) * share) % length)

    return data.map(lambda *batch: tf.nest.map_structure(rows, batch if len(batch) > 1 else batch[0]))
