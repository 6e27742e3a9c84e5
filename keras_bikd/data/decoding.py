"""Streams of samples in `tf.data`, decoded on the way and kept in memory where they are few."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bikd.data.rows import fits_in_memory
from keras_bikd.data.tfds_records import StreamedRecords
from keras_bikd.types import Batch, Tensor

_SHUFFLE_BUFFER = 20_000  # records of a tfds set that is too large to keep in memory


def array_images(x: np.ndarray, labels: np.ndarray, seed: int | None) -> tf.data.Dataset:
    """Stream rows of an array; in random order on every pass unless `seed` is None."""
    rows = tf.data.Dataset.from_tensor_slices((x, labels))
    return rows if seed is None else rows.shuffle(len(labels), seed=seed)


def file_images(
    files: np.ndarray, labels: np.ndarray, image_size: tuple[int, int], seed: int | None
) -> tf.data.Dataset:
    """Stream image files at one size; in random order on every pass unless `seed` is None."""

    def decode(file: Tensor, label: Tensor) -> Batch:
        image = tf.io.decode_image(tf.io.read_file(file), channels=3, expand_animations=False)
        image.set_shape((None, None, 3))
        return _resized(image, image_size), label

    # Names are small, and stand in the order of the classes: a buffer of a part would train class after class.
    names = tf.data.Dataset.from_tensor_slices((files, labels))
    return _shuffled_and_decoded(names, decode, shape=(*image_size, 3), seed=seed, buffer=len(labels))


def with_ids(records: StreamedRecords, ids: np.ndarray, labels: np.ndarray) -> tf.data.Dataset:
    """Stream the records of `ids`, in their own order, with the labels given."""
    mask = np.zeros(len(labels), dtype=bool)
    mask[ids] = True
    chosen, label_of, label_key = tf.constant(mask), tf.constant(labels), records.label_key
    own = records.split(records.usable).enumerate().filter(lambda i, _: chosen[i])
    own = own.map(lambda i, record: {**record, label_key: label_of[i]})
    return own.apply(tf.data.experimental.assert_cardinality(len(ids)))


def record_samples(
    stream: tf.data.Dataset, records: StreamedRecords, image_size: tuple[int, int] | None, seed: int | None
) -> tf.data.Dataset:
    """Stream the samples of tfds records; in random order on every pass unless `seed` is None.

    Args:
        stream: Some of the records, a data set of known length.
        records: Where they come from.
        image_size: `(height, width)` to resize to, or `None`.
        seed: Seed of the order.

    Returns:
        A `tf.data.Dataset` of `(sample, label)`.
    """
    feature, size, has_images = records.feature, image_size, records.has_images

    def decode(record: dict[str, Tensor]) -> Batch:
        sample = record[records.input_key]
        if has_images:
            sample = feature.decode_example(sample)
            sample = sample if size is None else _resized(sample, size)
        elif sample.dtype == "uint8":  # of which images are made
            sample = tf.cast(sample, "int32")
        return sample, record[records.label_key]

    shape = feature.shape if size is None else (*size, feature.shape[-1])
    return _shuffled_and_decoded(stream, decode, shape=shape, seed=seed, buffer=_SHUFFLE_BUFFER)


def _resized(image: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    """A uint8 image at another size; uint8 again, because a decoded set may be kept in memory."""
    image = tf.image.resize(image, image_size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), "uint8")


def _shuffled_and_decoded(
    records: tf.data.Dataset,
    decode: Callable[..., Any],
    *,
    shape: tuple[int, ...],
    seed: int | None,
    buffer: int,
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
