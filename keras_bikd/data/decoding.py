"""Encoded images to streams of decoded ones, kept in memory where they are few."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["checked_size", "resized", "shuffled_and_decoded"]

_CACHE_BYTES = 2**30  # a chosen set of at most this size is decoded once and kept in memory


def checked_size(owner: str, image_size: Sequence[int]) -> tuple[int, int]:
    """Return `(height, width)`, or raise in the name of `owner`."""
    sides = np.asarray(image_size)
    if sides.shape != (2,) or sides.dtype.kind not in "iu" or sides.min() < 1:
        raise ValueError(
            f"`{owner}(image_size=...)` takes (height, width), two integers of at least 1. "
            f"Received: image_size={image_size!r}"
        )
    return int(sides[0]), int(sides[1])


def resized(image: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    """A uint8 image at another size; uint8 again, because a decoded set may be kept in memory."""
    image = tf.image.resize(image, image_size, antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), "uint8")


def shuffled_and_decoded(
    records: tf.data.Dataset,
    decode: Callable[..., Any],
    *,
    shape: tuple[int, ...],
    seed: int | None,
    buffer: int,
) -> tf.data.Dataset:
    """Decode records in parallel: once, into memory, if the set is small; else on every pass, after shuffling.

    Args:
        records: What `decode` takes; a data set of known length.
        decode: Function from a record to `(image, label)`.
        shape: Shape of an image.
        seed: Seed of the order; `None` keeps the order of the records.
        buffer: How many records of a large set are shuffled at a time.

    Returns:
        A `tf.data.Dataset` of `(image, label)`.
    """
    count = len(records)
    if count * int(np.prod(shape)) <= _CACHE_BYTES:
        records = records.map(decode, num_parallel_calls=tf.data.AUTOTUNE).cache()
        return records if seed is None else records.shuffle(count, seed=seed)
    if seed is not None:
        records = records.shuffle(min(count, buffer), seed=seed)
    return records.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
