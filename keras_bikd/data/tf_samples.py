"""Streams of single samples in `tf.data`, decoded on the way and kept in memory where they are few."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bikd.data.rows import fits_in_memory
from keras_bikd.data.sources import Arrays, Folder, Source, Tfds
from keras_bikd.types import Batch, Tensor

_SHUFFLE_BUFFER = 20_000  # records of a tfds set that is too large to keep in memory


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
