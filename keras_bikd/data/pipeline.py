"""From the images of a split to batches in `tf.data`: which images are drawn, and what is done to a batch.

`indexed` has the same functions for Grain: `training`, `held_out`, `own_test` and `of_classes`.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_bikd.data.augment import Augmentation
from keras_bikd.data.sources import Source, Tfds
from keras_bikd.data.split import Split
from keras_bikd.types import Batch, Tensor

_GATHERED = 256  # images fetched at a time where classes are drawn evenly: one by one takes twice as long


def training(source: Source, split: Split, batch_size: int, augment: Augmentation | None) -> tf.data.Dataset:
    """The training set in batches, in another order on every pass."""
    return batches(training_images(source, split), batch_size, seed=split.seed, augment=augment)


def held_out(
    source: Source,
    split: Split,
    ids: np.ndarray,
    batch_size: int,
    *,
    seed: int | None = None,
    augment: Augmentation | None = None,
) -> tf.data.Dataset:
    """Images held out from training in batches; in another order on every pass unless `seed` is None."""
    return batches(source.images(ids, split.labels, seed), batch_size, seed=seed, augment=augment)


def own_test(source: Tfds, batch_size: int) -> tf.data.Dataset:
    """The source's own test split in batches, in its own order."""
    return batches(source.test_images(), batch_size)


def of_classes(data: Any, places: np.ndarray, batch_size: int) -> tf.data.Dataset:
    """The training set of a `LongTailedData` without the classes whose place is -1; the others get their place."""

    def own(x: Tensor, labels: Tensor) -> Batch:
        place = tf.gather(places, labels)
        return x[place >= 0], place[place >= 0]

    return data.train.map(own).rebatch(batch_size)


def training_images(source: Source, split: Split) -> tf.data.Dataset:
    """Stream one pass of training images, drawn as `split.cut` says.

    Args:
        source: Where the images come from.
        split: A split of this source.

    Returns:
        A `tf.data.Dataset` of `(image, label)`, in another order on every pass.
    """
    cut, seed = split.cut, split.seed
    if cut.sampling == "class_balanced":
        train = _class_balanced(source, split)
    else:
        train = source.images(split.train, split.labels, seed)
    if isinstance(cut.meta_in_train, bool):
        return train
    return _mixed(train, source.images(split.meta, split.labels, seed + 2), cut.meta_in_train, seed)


def _class_balanced(source: Source, split: Split) -> tf.data.Dataset:
    """As many images as there are, each of a class drawn evenly."""
    seed, num_classes = split.seed, len(split.class_counts)
    images, labels = next(iter(source.images(split.train, split.labels, None).batch(len(split.train))))
    rows = [tf.data.Dataset.from_tensor_slices(np.flatnonzero(labels == own)) for own in range(num_classes)]
    streams = [own.shuffle(len(own), seed=seed + i).repeat() for i, own in enumerate(rows)]
    drawn = tf.data.Dataset.sample_from_datasets(streams, seed=seed, rerandomize_each_iteration=True)
    drawn = drawn.take(len(split.train)).batch(_GATHERED)
    drawn = drawn.map(lambda rows: (tf.gather(images, rows), tf.gather(labels, rows))).unbatch()
    return drawn.apply(tf.data.experimental.assert_cardinality(len(split.train)))


def _mixed(train: tf.data.Dataset, meta: tf.data.Dataset, probability: float, seed: int) -> tf.data.Dataset:
    """As many images as both hold, each drawn from `meta` with the given probability."""
    weights = [1 - probability, probability]
    mixed = tf.data.Dataset.sample_from_datasets(
        [train.repeat(), meta.repeat()], weights, seed=seed, rerandomize_each_iteration=True
    )
    return mixed.take(len(train) + len(meta))


def batches(
    images: tf.data.Dataset, batch_size: int, *, seed: int | None = None, augment: Augmentation | None = None
) -> tf.data.Dataset:
    """Batch, then treat whole batches at a time, then prefetch: the order of the tf.data performance guide.

    Args:
        images: `tf.data.Dataset` of `(image, label)`; uint8 images are scaled to float32 in 0..1.
        batch_size: Images per batch.
        seed: Seed of the augmentation.
        augment: Function `(images, seed) -> images` of a batch.

    Returns:
        A `tf.data.Dataset` of batches `(images, labels)`.
    """

    def to_float(image: Tensor, label: Tensor) -> Batch:
        return tf.image.convert_image_dtype(image, "float32") if image.dtype == "uint8" else image, label

    batched = images.batch(batch_size).map(to_float, num_parallel_calls=tf.data.AUTOTUNE)
    if augment is not None:
        seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)
        batched = tf.data.Dataset.zip((batched, seeds)).map(
            lambda batch, seed: (augment(batch[0], seed), batch[1]), num_parallel_calls=tf.data.AUTOTUNE
        )
    # With few cores the end of a `fit` can wait for the tuner's next turn: for as long as the training took, at worst.
    options = tf.data.Options()
    options.autotune.enabled = False
    return batched.prefetch(tf.data.AUTOTUNE).with_options(options)
