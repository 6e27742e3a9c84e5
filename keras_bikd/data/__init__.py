"""Long-tailed data as `tf.data` pipelines."""

from keras_bikd.data.pairing import pair

__all__ = ["pair"]
