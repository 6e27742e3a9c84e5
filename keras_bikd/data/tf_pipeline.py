"""Batches in `tf.data`: which samples of a split are drawn, and what is done to a batch.

`grain_pipeline` has the same functions: `training`, `held_out`, `own_test` and `of_classes`.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_bikd.data.augment import Augmentation
from keras_bikd.data.sources import Source, Tfds
from keras_bikd.data.split import Split
from keras_bikd.data.tf_samples import own_test_samples, samples
from keras_bikd.types import Batch, Tensor

_GATHERED = 256  # samples fetched at a time where classes are drawn evenly: one by one takes twice as long


def training(source: Source, split: Split, batch_size: int, augment: Augmentation | None) -> tf.data.Dataset:
    """The training set in batches, drawn as `split.cut` says, in another order on every pass."""
    cut, seed = split.cut, split.seed
    if cut.sampling == "class_balanced":
        train = _class_balanced(source, split)
    else:
        train = samples(source, split.train, split.labels, seed)
    if not isinstance(cut.meta_in_train, bool):
        train = _mixed(train, samples(source, split.meta, split.labels, seed + 2), cut.meta_in_train, seed)
    return _batches(train, batch_size, seed=seed, augment=augment)


def held_out(
    source: Source,
    split: Split,
    ids: np.ndarray,
    batch_size: int,
    *,
    seed: int | None = None,
    augment: Augmentation | None = None,
) -> tf.data.Dataset:
    """Samples held out from training in batches; in another order on every pass unless `seed` is None."""
    return _batches(samples(source, ids, split.labels, seed), batch_size, seed=seed, augment=augment)


def own_test(source: Tfds, batch_size: int) -> tf.data.Dataset:
    """The source's own test split in batches, in its own order."""
    return _batches(own_test_samples(source), batch_size)


def of_classes(data: Any, places: np.ndarray, batch_size: int) -> tf.data.Dataset:
    """The training set of a `LongTailedData` without the classes whose place is -1; the others get their place."""

    def own(x: Tensor, labels: Tensor) -> Batch:
        place = tf.gather(places, labels)
        return x[place >= 0], place[place >= 0]

    return data.train.map(own).rebatch(batch_size)


def _class_balanced(source: Source, split: Split) -> tf.data.Dataset:
    """As many samples as there are, the same number of each class, give or take one."""
    seed, num_classes, length = split.seed, len(split.class_counts), len(split.train)
    x, labels = next(iter(samples(source, split.train, split.labels, None).batch(length)))
    rows = [tf.data.Dataset.from_tensor_slices(np.flatnonzero(labels == own)) for own in range(num_classes)]
    streams = [own.shuffle(len(own), seed=seed + label).repeat() for label, own in enumerate(rows)]
    in_turn = tf.data.Dataset.range(length).map(lambda i: i % num_classes)
    drawn = tf.data.Dataset.choose_from_datasets(streams, in_turn).shuffle(length, seed=seed).batch(_GATHERED)
    drawn = drawn.map(lambda rows: (tf.gather(x, rows), tf.gather(labels, rows))).unbatch()
    return drawn.apply(tf.data.experimental.assert_cardinality(length))


def _mixed(train: tf.data.Dataset, meta: tf.data.Dataset, probability: float, seed: int) -> tf.data.Dataset:
    """As many samples as both hold, each drawn from `meta` with the given probability."""
    weights = [1 - probability, probability]
    mixed = tf.data.Dataset.sample_from_datasets(
        [train.repeat(), meta.repeat()], weights, seed=seed, rerandomize_each_iteration=True
    )
    return mixed.take(len(train) + len(meta))


def _batches(
    samples: tf.data.Dataset, batch_size: int, *, seed: int | None = None, augment: Augmentation | None = None
) -> tf.data.Dataset:
    """Batch, then treat whole batches at a time, then prefetch: the order of the tf.data performance guide."""

    def to_float(x: Tensor, label: Tensor) -> Batch:
        return tf.image.convert_image_dtype(x, "float32") if x.dtype == "uint8" else x, label

    batched = samples.batch(batch_size).map(to_float, num_parallel_calls=tf.data.AUTOTUNE)
    if augment is not None:
        seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)
        batched = tf.data.Dataset.zip((batched, seeds)).map(
            lambda batch, seed: (augment(batch[0], seed), batch[1]), num_parallel_calls=tf.data.AUTOTUNE
        )
    # On few cores, the autotuner of tf.data can hold up the end of `fit`, at worst for as long as the training took.
    options = tf.data.Options()
    options.autotune.enabled = False
    return batched.prefetch(tf.data.AUTOTUNE).with_options(options)
