"""One training in several processes: each takes its rows of every batch."""

import tensorflow as tf

from keras_bikd.backend import processes


def share_of_process(data):
    """Keep of every batch the rows that belong to this process.

    For `keras.distribution.DataParallel(auto_shard_dataset=False)` on JAX. Every process reads the same batches in the
    same order, so make them under the same seeds, and the global batch is the batch of a single process. Rows beyond
    a multiple of the number of devices are left out; a batch of fewer rows than devices repeats them. Keras' own
    sharding does not know pairs of batches.

    Args:
        data: `tf.data.Dataset` of batches, or of pairs of batches as from `pair`.

    Returns:
        A `tf.data.Dataset` of the same structure.

    Raises:
        ValueError: If `data` is no `tf.data.Dataset`.

    Examples:
        >>> batches = tf.data.Dataset.range(5).batch(4)
        >>> [batch.tolist() for batch in share_of_process(batches).as_numpy_iterator()]  # one process, one device
        [[0, 1, 2, 3], [4]]
    """
    if not isinstance(data, tf.data.Dataset):
        raise ValueError(f"`share_of_process(data=...)` takes a `tf.data.Dataset`. Received: {type(data).__name__}")
    process, count, devices = processes()
    if devices == 1:
        return data

    def rows(tensor):
        length = tf.shape(tensor)[0]
        share = tf.maximum(length // devices, 1) * devices // count
        return tf.gather(tensor, tf.range(process * share, (process + 1) * share) % length)

    return data.map(lambda *batch: tf.nest.map_structure(rows, batch if len(batch) > 1 else batch[0]))
