"""Batches in `tf.data`: which samples of a split are drawn, how they are decoded, and what is done to a batch.

`grain_pipeline` has the same functions: `training`, `held_out`, `own_test` and `of_classes`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bikd.data.augment import Augmentation
from keras_bikd.data.sources import Arrays, Folder, Source, Tfds, fits_in_memory
from keras_bikd.data.split import Split
from keras_bikd.types import Batch, Tensor

_GATHERED = 256  # samples fetched at a time where classes are drawn evenly: one by one takes twice as long
_SHUFFLE_BUFFER = 20_000  # records of a tfds set that is too large to keep in memory


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


def samples(source: Source, ids: np.ndarray, labels: np.ndarray, seed: int | None) -> tf.data.Dataset:
    """Stream chosen samples of a source.

    Args:
        source: A `Tfds`, `Arrays` or `Folder`.
        ids: Ids of the samples, integer array.
        labels: The label of every id of the source, integer array.
        seed: Seed of the order, which is another one on every pass. `None` for the order of the source.

    Returns:
        A `tf.data.Dataset` of `(sample, label)`, of known length.
    """
    if isinstance(source, Arrays):
        rows = tf.data.Dataset.from_tensor_slices((source.x[ids], labels[ids]))
        return rows if seed is None else rows.shuffle(len(ids), seed=seed)
    if isinstance(source, Folder):
        return _images(source, ids, labels, seed)
    mask = np.zeros(len(labels), dtype=bool)
    mask[ids] = True
    chosen, label_of = tf.constant(mask), tf.constant(labels)
    records = source.streamed.split(source.streamed.usable).enumerate().filter(lambda i, _: chosen[i])
    records = records.map(lambda i, record: {**record, source.streamed.label_key: label_of[i]})
    return _decoded_records(source, records.apply(tf.data.experimental.assert_cardinality(len(ids))), seed)


def own_test_samples(source: Tfds) -> tf.data.Dataset:
    """Stream the set's own test split, in its own order."""
    return _decoded_records(source, source.streamed.split(source.test_split), None)


def _images(source: Folder, ids: np.ndarray, labels: np.ndarray, seed: int | None) -> tf.data.Dataset:
    def decode(file: Tensor, label: Tensor) -> Batch:
        image = tf.io.decode_image(tf.io.read_file(file), channels=3, expand_animations=False)
        image.set_shape((None, None, 3))
        return _resized(image, source.image_size), label

    # Names are small, and stand in the order of the classes: a buffer of a part would train class after class.
    names = tf.data.Dataset.from_tensor_slices((source.files[ids], labels[ids]))
    return _shuffled_and_decoded(names, decode, shape=source.sample_shape, seed=seed, buffer=len(ids))


def _decoded_records(source: Tfds, records: tf.data.Dataset, seed: int | None) -> tf.data.Dataset:
    own, size = source.streamed, source.image_size

    def decode(record: dict[str, Tensor]) -> Batch:
        sample = record[own.input_key]
        if own.has_images:
            sample = own.feature.decode_example(sample)
            sample = sample if size is None else _resized(sample, size)
        elif sample.dtype == "uint8":  # of which images are made
            sample = tf.cast(sample, "int32")
        return sample, record[own.label_key]

    return _shuffled_and_decoded(records, decode, shape=source.sample_shape, seed=seed, buffer=_SHUFFLE_BUFFER)


def _resized(image: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    """A uint8 image at another size; uint8 again, because a decoded set may be kept in memory."""
    image = tf.image.resize(image, image_size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), "uint8")


def _shuffled_and_decoded(
    records: tf.data.Dataset, decode: Callable[..., Any], *, shape: tuple[int, ...], seed: int | None, buffer: int
) -> tf.data.Dataset:
    """Decode records in parallel: once, into memory, if the set is small; else on every pass, after shuffling.

    Of a large set, `buffer` records are shuffled at a time.
    """
    count = len(records)
    if fits_in_memory(count, shape):
        records = records.map(decode, num_parallel_calls=tf.data.AUTOTUNE).cache()
        return records if seed is None else records.shuffle(count, seed=seed)
    if seed is not None:
        records = records.shuffle(min(count, buffer), seed=seed)
    return records.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
