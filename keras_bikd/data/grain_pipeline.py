"""Batches in Grain: which samples of a split are drawn, and what is done to a sample.

The rules are those of `tf_pipeline`. All is a function of seed and index, so that a training can continue at any batch,
and view `v` of sample `i` can be made again.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from keras_bikd.data.augment import Augmentation
from keras_bikd.data.sources import Rows, Source, Tfds
from keras_bikd.data.split import Split
from keras_bikd.types import Batch

try:
    import grain

    from keras_bikd.batches.grain_data import IndexedBatches
except ImportError as error:
    raise ImportError(
        "`keras_bikd.data` makes its data sets with Grain, except on the TensorFlow backend, and precomputed logits on "
        "every backend. Install it with `pip install keras_bikd[grain]`."
    ) from error


def training(source: Source, split: Split, batch_size: int, augment: Augmentation | None) -> IndexedBatches:
    """The training set in batches, drawn as `split.cut` says, in another order on every pass."""
    return _drawn(split, batch_size, lambda ids, seed: _shuffled(source, split, ids, seed, augment))


def with_logits(
    source: Source, split: Split, batch_size: int, augment: Augmentation | None, logits: np.ndarray
) -> IndexedBatches:
    """As `training`, with the logits of a teacher for the views in turn.

    Args:
        source: As in `training`.
        split: As in `training`.
        batch_size: As in `training`.
        augment: As in `training`.
        logits: Of all views of the training samples, in the order of `split.train`: `(views, samples, outputs)`.

    Returns:
        Batches of `(samples, {"labels": labels, "teacher_logits": logits})`.
    """
    row_of = np.zeros(len(split.labels), int)
    row_of[split.train] = np.arange(len(split.train))

    def shuffled(ids: np.ndarray, seed: int) -> grain.MapDataset:
        rows = source.rows(ids, split.labels)
        view_of = _view(rows, split.seed, augment)

        def sample(index: int, _: int) -> Batch:
            visit, position = divmod(index, len(ids))
            view = visit % len(logits)
            x, label = view_of(view * len(ids) + position, rows[position])
            known = np.asarray(logits[view, row_of[ids[position]]], "float32")
            return x, {"labels": label, "teacher_logits": known}

        return _in_random_order(grain.MapDataset.range(len(ids)).map_with_index(sample), seed)

    return _drawn(split, batch_size, shuffled)


def inputs_between(samples: grain.MapDataset, start: int, stop: int, batch_size: int) -> Iterator[np.ndarray]:
    """The samples at the indices from `start` to `stop` in batches, without labels; threads make them ahead."""
    inputs = grain.MapDataset.range(start, stop).map(lambda i: samples[int(i)][0])
    return iter(IndexedBatches(inputs.batch(batch_size)))


def _drawn(split: Split, batch_size: int, shuffled: Callable[[np.ndarray, int], grain.MapDataset]) -> IndexedBatches:
    """Batches as `split.cut` says, from samples of chosen ids in an order that a seed decides."""
    cut, seed = split.cut, split.seed
    samples = _class_balanced(split, shuffled) if cut.sampling == "class_balanced" else shuffled(split.train, seed)
    if not isinstance(cut.meta_in_train, bool):
        meta = shuffled(split.meta, seed + 2)
        mixed = grain.MapDataset.mix([samples, meta], [1 - cut.meta_in_train, cut.meta_in_train])
        # As many samples as both hold: a `MapDataset` can be read beyond its end.
        length = len(split.train) + len(split.meta)
        samples = grain.MapDataset.range(length).map_with_index(lambda i, _: mixed[i])
    return IndexedBatches(samples.batch(batch_size))


def held_out(
    source: Source,
    split: Split,
    ids: np.ndarray,
    batch_size: int,
    *,
    seed: int | None = None,
    augment: Augmentation | None = None,
) -> IndexedBatches:
    """Samples held out from training in batches; in another order on every pass unless `seed` is None."""
    if seed is None:
        return IndexedBatches(views(source.rows(ids, split.labels)).batch(batch_size))
    return IndexedBatches(_shuffled(source, split, ids, seed, augment).batch(batch_size))


def own_test(source: Tfds, batch_size: int) -> IndexedBatches:
    """The source's own test split in batches, in its own order."""
    return IndexedBatches(views(source.test_rows()).batch(batch_size))


def of_classes(data: Any, places: np.ndarray, batch_size: int) -> IndexedBatches:
    """The training set of a `LongTailedData` without the classes whose place is -1; the others get their place."""
    labels = places[data.split.labels]
    train, meta = (ids[labels[ids] >= 0] for ids in (data.split.train, data.split.meta))
    names = [data.class_names[label] for label in np.argsort(places)[(places < 0).sum() :]]
    split = dataclasses.replace(data.split, labels=labels, train=train, meta=meta, class_names=names)
    return training(data.source, split, batch_size, data.augment[0])


def views(rows: Rows, seed: int = 0, augment: Augmentation | None = None) -> grain.MapDataset:
    """Single samples, augmented: on pass `v`, sample `i` is a function of `seed`, `i` and `v`.

    Args:
        rows: The samples; uint8 is scaled to float32 in 0..1.
        seed: Seed of the augmentation, an integer.
        augment: Function `(samples, seed) -> samples`, called for a batch of one.

    Returns:
        A `grain.MapDataset` of `(sample, label)`, in the order of `rows`.
    """
    return grain.MapDataset.source(rows).map_with_index(_view(rows, seed, augment))


def _view(rows: Rows, seed: int, augment: Augmentation | None) -> Callable[[int, Batch], Batch]:
    """Function from an index, `visit * len(rows) + position`, and the sample of this position to its view."""

    def view(index: int, sample: Batch) -> Batch:
        x, label = sample
        if x.dtype == "uint8":
            x = x.astype("float32") * np.float32(1 / 255)  # bit for bit as in `tf.image`
        if augment is None:
            return x, label
        visit, position = divmod(index, len(rows))
        seeds = np.array([seed, visit * len(rows.labels) + rows.ids[position]])
        return np.asarray(augment(x[None], seeds))[0], label

    return view


def _shuffled(
    source: Source, split: Split, ids: np.ndarray, seed: int, augment: Augmentation | None
) -> grain.MapDataset:
    """Views of samples in another order on every pass."""
    return _in_random_order(views(source.rows(ids, split.labels), seed, augment), seed)


def _in_random_order(samples: grain.MapDataset, seed: int) -> grain.MapDataset:
    """As `samples.shuffle(seed)`, which takes 0.2 ms per sample where there are only hundreds (Grain 0.2.18)."""
    length = len(samples)

    @functools.lru_cache(maxsize=4)
    def order(visit: int) -> np.ndarray:
        return np.random.default_rng([seed, visit, length]).permutation(length)

    def sample(index: int, _: int) -> Batch:
        visit, position = divmod(index, length)
        return samples[visit * length + int(order(visit)[position])]

    return grain.MapDataset.range(length).map_with_index(sample)


def _class_balanced(split: Split, shuffled: Callable[[np.ndarray, int], grain.MapDataset]) -> grain.MapDataset:
    """As many samples as there are, the same number of each class, give or take one."""
    ids, num_classes = split.train, len(split.class_counts)
    per_class = [ids[split.labels[ids] == own] for own in range(num_classes)]
    streams = [shuffled(own, split.seed + label) for label, own in enumerate(per_class)]
    drawn = grain.MapDataset.select_from_datasets(streams, _InTurn(num_classes, len(ids)))
    return _in_random_order(drawn, split.seed)


@dataclasses.dataclass(frozen=True)
class _InTurn(grain.transforms.DatasetSelectionMap):
    """One sample of every data set after the other. `grain.MapDataset.mix` would look through all for each sample."""

    count: int
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[int, int]:
        return index % self.count, index // self.count
