"""Augmentations for `keras_bikd.data.load(augment=...)`: functions of a batch of images and a seed."""

import tensorflow as tf


def gaussian_noise(stddev):
    """Add independent normal noise to every pixel.

    Args:
        stddev: Standard deviation, in units of an image scaled to 0..1.

    Returns:
        A function `(images, seed) -> images`, `seed` being an integer tensor of shape `(2,)`.

    Example:
    >>> noisy = gaussian_noise(0.5)(tf.zeros((2, 8, 8, 1)), seed=tf.constant([1, 2]))
    >>> noisy.shape
    TensorShape([2, 8, 8, 1])
    """

    def augment(images, seed):
        return images + stddev * tf.random.stateless_normal(tf.shape(images), seed, dtype=images.dtype)

    return augment
