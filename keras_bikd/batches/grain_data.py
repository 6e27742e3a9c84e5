"""Batches in Grain that can be read at any position, and that Keras reads pass after pass: data without `tf.data`."""

import itertools
import os
import sys
from collections.abc import Iterator
from typing import Any

import grain

from keras_bikd.batches.adapters import NumpyBatches
from keras_bikd.types import Batch

# Grain's own options are for single samples: 500 batches of photographs would not fit into memory.
_THREADS = os.cpu_count() or 1
_READ = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=2 * _THREADS)


class Position:
    """The batch at which the next iterator starts."""

    def __init__(self) -> None:
        self.value = 0

    def assign(self, value: int) -> None:
        """Let the next iterator start at the batch `value`."""
        self.value = int(value)


class IndexedBatches(grain.IterDataset, NumpyBatches):
    """Batches that can be read at any position. Each iteration is the next pass, of an endless set always the same.

    Grain alone starts every pass over a data set at its first batch, and so in the same order. This is a Grain data set
    and a data adapter of Keras, which thus knows its length.

    Args:
        batches: `grain.MapDataset` of batches.
        position: Where the next iteration starts; shared with what is made from this data set.

    Examples:
        >>> data = IndexedBatches(grain.MapDataset.range(4).shuffle(seed=1).batch(3))
        >>> [batch.tolist() for _ in range(2) for batch in data]
        [[1, 2, 3], [0], [0, 3, 1], [2]]
    """

    def __init__(self, batches: grain.MapDataset, position: Position | None = None) -> None:
        super().__init__()
        self.batches, self.position = batches, position or Position()

    def __iter__(self) -> Iterator[Batch]:
        start, batches = self.position.value, self.batches
        if self.num_batches is None:
            return iter(batches[start:].to_iter_dataset(_READ))
        self.position.assign(start + len(batches))
        return iter(batches.repeat()[start : start + len(batches)].to_iter_dataset(_READ))

    def __len__(self) -> int:
        return len(self.batches)

    def repeat(self) -> "IndexedBatches":
        """Return an endless stream of passes, each in its own order, from the first pass on."""
        return self if self.num_batches is None else IndexedBatches(self.batches.repeat())

    def map(self, transform: Any) -> "IndexedBatches":
        """Return the batches passed through a function; as any Grain data set has it."""
        return IndexedBatches(self.batches.map(transform), self.position)

    def first(self, count: int) -> list[Batch]:
        return [self.batches[i] for i in range(min(count, len(self)))]

    def get_numpy_iterator(self) -> Iterator[Batch]:
        return iter(self)

    @property
    def num_batches(self) -> int | None:
        return None if len(self.batches) == sys.maxsize else len(self.batches)

    @property
    def batch_size(self) -> int | None:
        return None


def zipped(train: IndexedBatches, meta: IndexedBatches) -> IndexedBatches:
    """As `pair`: the meta set is repeated, in its own order on every pass."""
    pairs = train.batches.map_with_index(lambda i, batch: (batch, meta.batches[i]))
    return IndexedBatches(pairs, train.position)


def endless(data: Any) -> Any:
    """A Grain data set, repeated, as a data set with a `position` at which its iterators start."""
    if isinstance(data, grain.MapDataset):
        data = IndexedBatches(data)
    return data.repeat() if isinstance(data, IndexedBatches) else _Skipping(data)


class _Skipping(grain.IterDataset):
    """The batches of a `grain.IterDataset`, repeated; those before the position are made, and not used."""

    def __init__(self, data: grain.IterDataset) -> None:
        super().__init__(data)
        self.position = Position()

    def __iter__(self) -> Iterator[Batch]:
        iterator = iter(grain.experimental.RepeatIterDataset(self._parent))
        for _ in itertools.islice(iterator, self.position.value):
            pass
        return iterator
