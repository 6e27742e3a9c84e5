"""Augmentations for `load(augment=...)`: functions of a batch of images and a seed."""

from collections.abc import Callable
from typing import TypeAlias

import tensorflow as tf

from keras_bikd import checks
from keras_bikd.types import Tensor

__all__ = ["Augmentation", "Augmentations", "gaussian_noise", "pad_crop_flip"]

Augmentation: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""A function of a batch of images and a seed, an integer tensor of shape `(2,)`, that returns images."""

Augmentations: TypeAlias = Augmentation | tuple[Augmentation | None, Augmentation | None] | None
"""What `load(augment=...)` takes: one function for training and meta images, or a pair of them."""


def gaussian_noise(stddev: float) -> Augmentation:
    """Add independent normal noise to every pixel.

    Args:
        stddev: Standard deviation, at least 0, for images scaled to 0..1.

    Returns:
        A function `(images, seed) -> images`, `seed` being an integer tensor of shape `(2,)`.

    Examples:
        >>> noisy = gaussian_noise(0.5)(tf.zeros((2, 8, 8, 1)), seed=tf.constant([1, 2]))
        >>> noisy.shape
        TensorShape([2, 8, 8, 1])
    """
    checks.non_negative_number("gaussian_noise", "stddev", stddev)

    def augment(images: Tensor, seed: Tensor) -> Tensor:
        return images + stddev * tf.random.stateless_normal(tf.shape(images), seed, dtype=images.dtype)

    return augment


def pad_crop_flip(padding: int = 4, *, flip: bool = True) -> Augmentation:
    """Pad with zeros, crop at a random place, and mirror with probability 1/2: the CIFAR augmentation.

    Args:
        padding: Pixels on every side.
        flip: Whether to mirror; leave it out for digits and letters.

    Returns:
        A function `(images, seed) -> images`, `seed` being an integer tensor of shape `(2,)`.

    Examples:
        >>> pad_crop_flip(4)(tf.zeros((2, 32, 32, 3)), seed=tf.constant([1, 2])).shape
        TensorShape([2, 32, 32, 3])

    Reference: He et al., arXiv 1512.03385, section 4.2.
    """
    checks.non_negative_integer("pad_crop_flip", "padding", padding)

    def augment(images: Tensor, seed: Tensor) -> Tensor:
        batch, height, width, _ = tf.unstack(tf.shape(images))
        offsets = tf.random.stateless_uniform((batch, 2), seed, 0, 2 * padding + 1, dtype="int32")
        padded = tf.pad(images, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
        rows = tf.gather(padded, offsets[:, :1] + tf.range(height), axis=1, batch_dims=1)
        columns = offsets[:, 1:] + tf.range(width)
        if flip:
            mirrored = tf.random.stateless_uniform((batch, 1), seed + 1) < 0.5
            columns = tf.where(mirrored, columns[:, ::-1], columns)
        return tf.ensure_shape(tf.gather(rows, columns, axis=2, batch_dims=1), images.shape)

    return augment
