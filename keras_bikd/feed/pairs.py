"""Pairs of training and meta batches, for as long as the training lasts."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_bikd.feed.batches import as_tf_dataset, batches, require_end
from keras_bikd.types import Batch

__all__ = ["PairedPyDataset", "is_pair", "pair", "require_pair", "require_unpaired"]

_UNKNOWN_LENGTH_BUFFER = 64  # batches, for a meta data set that does not know its length


def pair(train: Any, meta: Any) -> Any:
    """Pair each training batch with a meta batch.

    There are as many pairs as training batches. A shorter meta set is repeated, and its batches are reshuffled on
    every pass. A longer one is reshuffled too, so that all of its batches are used in time. If both have the same
    number of batches, their order is kept.

    Args:
        train: `tf.data.Dataset` or `keras.utils.PyDataset` of batches `(x, y)` or `(x, y, sample_weight)`.
        meta: The meta set, batched, in either form.

    Returns:
        A data set of `((x, y), (meta_x, meta_y))`, of the same kind as `train`.

    Raises:
        ValueError: If one of the two is no data set, if `meta` is empty, or if `train` is a `PyDataset` and `meta`
            never ends.

    Examples:
        >>> import numpy as np, tensorflow as tf
        >>> train = tf.data.Dataset.from_tensor_slices((np.zeros((8, 3)), np.zeros(8, "int32"))).batch(2)
        >>> meta = tf.data.Dataset.from_tensor_slices((np.ones((2, 3)), np.ones(2, "int32"))).batch(2)
        >>> len(pair(train, meta))
        4
    """
    for name, data in (("train", train), ("meta", meta)):
        if not isinstance(data, (tf.data.Dataset, keras.utils.PyDataset)):
            raise ValueError(
                f"`pair({name}=...)` takes a batched `tf.data.Dataset` or `keras.utils.PyDataset`. "
                f"Received: {type(data).__name__}"
            )
    if isinstance(train, keras.utils.PyDataset):
        require_end("pair(meta=...)", meta)
        return PairedPyDataset(train, list(batches(meta)))
    meta = as_tf_dataset(meta)
    length = int(meta.cardinality())
    if length == 0:
        raise ValueError("`pair(meta=...)` received an empty data set.")
    is_as_long = 0 < length == int(train.cardinality())
    if not is_as_long and length != tf.data.INFINITE_CARDINALITY:
        meta = meta.shuffle(length if length > 0 else _UNKNOWN_LENGTH_BUFFER).repeat()
    return tf.data.Dataset.zip((train, meta))


class PairedPyDataset(keras.utils.PyDataset):
    """A `PyDataset` of pairs. The meta batch depends only on the epoch and the index of the batch."""

    def __init__(self, train: keras.utils.PyDataset, meta_batches: list[Any]) -> None:
        super().__init__(
            workers=train.workers,
            use_multiprocessing=train.use_multiprocessing,
            max_queue_size=train.max_queue_size,
        )
        if not meta_batches:
            raise ValueError("`pair(meta=...)` received an empty data set.")
        self.train = train
        self.meta_batches = meta_batches
        self.epoch = -1
        # Drawn once, so that `keras.utils.set_random_seed` fixes the order of the meta batches.
        self.seed = np.random.randint(2**31)

    @property
    def num_batches(self) -> int | None:
        return self.train.num_batches

    def __getitem__(self, index: int) -> tuple[Batch, Batch]:
        length, meta_length = self.num_batches, len(self.meta_batches)
        if length == meta_length:
            return self.train[index], self.meta_batches[index]
        lap, position = divmod(max(self.epoch, 0) * (length or 0) + index, meta_length)
        order = np.random.default_rng([self.seed, lap]).permutation(meta_length)
        return self.train[index], self.meta_batches[order[position]]

    def on_epoch_begin(self) -> None:
        self.epoch += 1
        self.train.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.train.on_epoch_end()


def is_pair(pair: Any) -> bool:
    """Whether `pair` is `((x, y), (meta_x, meta_y))`, each perhaps with sample weights."""
    return (
        isinstance(pair, (tuple, list))
        and len(pair) >= 2
        and all(isinstance(batch, (tuple, list)) and len(batch) in (2, 3) for batch in pair[:2])
    )


def require_pair(pair: Any) -> None:
    """Raise unless `is_pair(pair)`."""
    if is_pair(pair):
        require_unpaired("meta_data", pair[0])
        return
    shapes = tree.map_structure(lambda tensor: None if tensor is None else tuple(np.shape(tensor)), pair)
    raise ValueError(
        "BiKD learns its weights on a small class-balanced meta set, and needs a meta batch (x, y) for every "
        "training batch (x, y); sample weights may be a third element. Pass `fit(..., meta_data=...)`, or a data "
        f"set of ((x, y), (meta_x, meta_y)) as made by `keras_bikd.data.pair`. Received batches of shape {shapes}"
    )


def require_unpaired(argument: str, batch: Any) -> None:
    """Raise if `batch` is a pair: `argument` cannot be applied to pairs."""
    if is_pair(batch):
        raise ValueError(
            f"With pairs of training and meta batches as `x`, `fit` takes no `{argument}`. Pass the training set as "
            "`x` and the meta set as `meta_data`: `fit` pairs them."
        )
