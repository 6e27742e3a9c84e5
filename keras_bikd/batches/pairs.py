"""Pairs of training and meta batches, for as long as the training lasts."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from keras import tree

from keras_bikd.batches.adapters import (
    SHUFFLE_BUFFER,
    ChangedBatches,
    adapter_of,
    batches,
    first_batches,
    is_dataset,
    reads_once,
    require_end,
)
from keras_bikd.keras_private import DataAdapter, TFDatasetAdapter, is_grain_dataset, is_tf_dataset
from keras_bikd.types import Batch


def pair(train: Any, meta: Any) -> Any:
    """Pair each training batch with a meta batch.

    There are as many pairs as training batches. A shorter meta set is repeated, and its batches are reshuffled on
    every pass. A longer one is reshuffled too, so that all of its batches are used in time. If both have the same
    number of batches, their order is kept.

    Args:
        train: Whatever yields batches `(x, y)` or `(x, y, sample_weight)` to `keras.Model.fit`: a `tf.data.Dataset`,
            a `keras.utils.PyDataset`, a torch `DataLoader`, a Grain data set, a generator.
        meta: The meta set, batched, in any of these forms, or another iterable of batches.

    Returns:
        A data set of `((x, y), (meta_x, meta_y))`, a `tf.data.Dataset` if `train` is one and `meta` is no generator, a
        Grain data set if both are Grain data sets of `load`, else a data adapter of Keras.

    Raises:
        ValueError: If one of the two is no data set, if `meta` is empty, or if `train` is no `tf.data.Dataset` and
            `meta` never ends.

    Examples:
        >>> import numpy as np, tensorflow as tf
        >>> train = tf.data.Dataset.from_tensor_slices(
        ...     (np.zeros((8, 3)), np.zeros(8, "int32"))
        ... ).batch(2)
        >>> meta = tf.data.Dataset.from_tensor_slices(
        ...     (np.ones((2, 3)), np.ones(2, "int32"))
        ... ).batch(2)
        >>> len(pair(train, meta))
        4
    """
    for name, data in (("train", train), ("meta", meta)):
        if not is_dataset(data):
            raise ValueError(
                f"`pair({name}=...)` takes a data set that yields batches, such as a `tf.data.Dataset`, a "
                f"`keras.utils.PyDataset` or a torch `DataLoader`. Received: {type(data).__name__}"
            )
    if is_tf_dataset(train) and (is_tf_dataset(meta) or not reads_once(meta)):
        from keras_bikd.batches.tf_data import zipped

        return zipped(train, meta)
    if is_grain_dataset(train) and is_grain_dataset(meta):
        from keras_bikd.batches import grain_data

        if isinstance(train, grain_data.IndexedBatches) and isinstance(meta, grain_data.IndexedBatches):
            return grain_data.zipped(train, meta)
    require_end("pair(meta=...)", meta)
    train, meta = adapter_of(train), adapter_of(meta)
    return _PairedBatches(train, meta)


class _PairedBatches(ChangedBatches):
    """The batches of two Keras data adapters side by side; the second is repeated."""

    def __init__(self, train: DataAdapter, meta: DataAdapter) -> None:
        super().__init__(train, lambda batch: batch)
        self.meta = meta
        keep_order = train.num_batches is not None and train.num_batches == meta.num_batches
        if isinstance(meta, TFDatasetAdapter):
            from keras_bikd.batches.tf_data import repeated

            self.meta_batches = batches(repeated(meta.get_tf_dataset(), keep_order))
            return
        # Drawn at once, so that `keras.utils.set_random_seed` fixes the order of the meta batches.
        random = np.random.default_rng(np.random.randint(2**31))
        self.meta_batches = _endless(meta, None if keep_order else random)

    def get_numpy_iterator(self) -> Iterator[tuple[Batch, Batch]]:
        return zip(self.source.get_numpy_iterator(), self.meta_batches)

    def first(self, count: int) -> list[Any]:
        return list(zip(first_batches(self.source, count), itertools.cycle(first_batches(self.meta, count))))


def _endless(meta: DataAdapter, random: np.random.Generator | None) -> Iterator[Batch]:
    """The batches of a meta set, repeated, in a random order if `random` is given.

    What a generator yields is kept. Any other data set is read again on every pass, with its own augmentation.
    """
    kept: list[Batch] | None = [] if reads_once(meta) else None
    while True:
        meta.on_epoch_begin()
        count = 0
        for batch in meta.get_numpy_iterator() if random is None else _shuffled(meta.get_numpy_iterator(), random):
            count += 1
            if kept is not None:
                kept.append(batch)
            yield batch
        meta.on_epoch_end()
        if not count:
            raise ValueError("`pair(meta=...)` received an empty data set.")
        if kept is not None:
            meta, kept = adapter_of(kept), None


def _shuffled(batches: Iterator[Batch], random: np.random.Generator) -> Iterator[Batch]:
    held: list[Batch] = []
    for batch in batches:
        held.append(batch)
        if len(held) == SHUFFLE_BUFFER:
            yield held.pop(random.integers(len(held)))
    while held:
        yield held.pop(random.integers(len(held)))


def is_pair(pair: Any) -> bool:
    """Whether `pair` is `((x, y), (meta_x, meta_y))`, each perhaps with sample weights."""
    return (
        isinstance(pair, (tuple, list))
        and len(pair) >= 2
        and all(isinstance(batch, (tuple, list)) and len(batch) in (2, 3) for batch in pair[:2])
    )


def require_pair(batch: Any, meta_batch: Any = None, class_weight: Any = None) -> tuple[Batch, Batch]:
    """Return a training batch and a meta batch, which `batch` may hold both, or raise.

    Args:
        batch: A batch of `x` of `fit`.
        meta_batch: A batch of `meta_data`, if there is one.
        class_weight: That of `fit`.
    """
    refused = "meta_data" if meta_batch is not None else "class_weight" if class_weight is not None else None
    if is_pair(batch) and refused is not None:
        raise ValueError(
            f"With pairs of training and meta batches as `x`, `fit` takes no `{refused}`. Pass the training set as "
            "`x` and the meta set as `meta_data`: `fit` pairs them."
        )
    pair = batch if meta_batch is None else (batch, meta_batch)
    if is_pair(pair):
        return pair[0], pair[1]
    shapes = tree.map_structure(lambda tensor: None if tensor is None else tuple(np.shape(tensor)), pair)
    raise ValueError(
        "BiKD learns its weights on a small class-balanced meta set, and needs a meta batch (x, y) for every "
        "training batch (x, y); sample weights may be a third element. Pass `fit(..., meta_data=...)`, or a data "
        f"set of ((x, y), (meta_x, meta_y)) as made by `keras_bikd.data.pair`. Received batches of shape {shapes}"
    )
