"""Augmentations for `load(augment=...)`: functions of a batch of samples, mostly images, and a seed.

Those here take tensors of TensorFlow, in `tf.data` pipelines, and NumPy arrays, in Grain's. The two draw other numbers.
"""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from keras_bikd import checks
from keras_bikd.types import Tensor

Augmentation: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""A function of a batch of samples and a seed, two integers, that returns samples.

In a Grain data set the batch is a single sample, an array, and the seed depends on the sample and on the pass.
"""

Augmentations: TypeAlias = Augmentation | tuple[Augmentation | None, Augmentation | None] | None
"""What `load(augment=...)` takes: one function for training and meta samples, or a pair of them."""


def gaussian_noise(stddev: float) -> Augmentation:
    """Add independent normal noise to every pixel, or to every number of a table.

    Args:
        stddev: Standard deviation, at least 0, for images scaled to 0..1.

    Returns:
        A function `(images, seed) -> images`, `seed` being two integers. It raises a `ValueError` for integers, such as
        the tokens of a text.

    Examples:
        >>> gaussian_noise(0.5)(np.zeros((2, 8, 8, 1), "float32"), seed=(1, 2)).shape
        (2, 8, 8, 1)
    """
    return _GaussianNoise(checks.number("gaussian_noise", "stddev", stddev, at_least=0))


@dataclasses.dataclass(frozen=True)  # so that manifests and headers can describe it
class _GaussianNoise:
    stddev: float

    def __call__(self, images: Tensor, seed: Tensor) -> Tensor:
        if "float" not in str(images.dtype):
            raise ValueError(
                "`gaussian_noise` is for images and tables of floats, not for tokens or other integers. "
                f"Received: samples of dtype {images.dtype} and shape {tuple(images.shape)}"
            )
        if isinstance(images, np.ndarray):
            noise = np.random.default_rng(seed).normal(0.0, self.stddev, images.shape)
            return images + np.asarray(noise, images.dtype)
        import tensorflow as tf

        return images + self.stddev * tf.random.stateless_normal(tf.shape(images), seed, dtype=images.dtype)


def pad_crop_flip(padding: int = 4, *, flip: bool = True) -> Augmentation:
    """Pad with zeros, crop at a random place, and mirror with probability 1/2: the CIFAR augmentation.

    Args:
        padding: Pixels on every side.
        flip: Whether to mirror; leave it out for digits and letters.

    Returns:
        A function `(images, seed) -> images`, `seed` being two integers. It raises a `ValueError` for what is no image.

    Examples:
        >>> pad_crop_flip(4)(np.zeros((2, 32, 32, 3), "float32"), seed=(1, 2)).shape
        (2, 32, 32, 3)

    Reference: He et al., arXiv 1512.03385, section 4.2.
    """
    return _PadCropFlip(checks.integer("pad_crop_flip", "padding", padding, at_least=0), flip)


@dataclasses.dataclass(frozen=True)
class _PadCropFlip:
    padding: int
    flip: bool

    def __call__(self, images: Tensor, seed: Tensor) -> Tensor:
        if len(images.shape) != 4:
            raise ValueError(
                "`pad_crop_flip` is for images, in batches of shape (batch, height, width, channels). "
                f"Received: samples of dtype {images.dtype} and shape {tuple(images.shape)}"
            )
        padding = self.padding
        if isinstance(images, np.ndarray):
            return _padded_cropped_flipped(images, np.random.default_rng(seed), padding, self.flip)
        import tensorflow as tf

        batch, height, width, _ = tf.unstack(tf.shape(images))
        offsets = tf.random.stateless_uniform((batch, 2), seed, 0, 2 * padding + 1, dtype="int32")
        padded = tf.pad(images, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
        rows = tf.gather(padded, offsets[:, :1] + tf.range(height), axis=1, batch_dims=1)
        columns = offsets[:, 1:] + tf.range(width)
        if self.flip:
            mirrored = tf.random.stateless_uniform((batch, 1), seed + 1) < 0.5
            columns = tf.where(mirrored, columns[:, ::-1], columns)
        return tf.ensure_shape(tf.gather(rows, columns, axis=2, batch_dims=1), images.shape)


def _padded_cropped_flipped(images: np.ndarray, random: np.random.Generator, padding: int, flip: bool) -> np.ndarray:
    batch, height, width, channels = images.shape
    offsets = random.integers(0, 2 * padding + 1, (batch, 2))
    # `np.pad` takes four times as long, and a single image is padded at a time.
    padded = np.zeros((batch, height + 2 * padding, width + 2 * padding, channels), images.dtype)
    padded[:, padding : padding + height, padding : padding + width] = images
    rows, columns = offsets[:, :1] + np.arange(height), offsets[:, 1:] + np.arange(width)
    if flip:
        columns = np.where(random.random((batch, 1)) < 0.5, columns[:, ::-1], columns)
    return padded[np.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]
