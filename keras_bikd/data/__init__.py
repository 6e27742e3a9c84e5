"""Long-tailed data as `tf.data` pipelines."""

from keras_bikd.data.augment import gaussian_noise
from keras_bikd.data.long_tailed import LongTailedData, load
from keras_bikd.data.pairing import pair

__all__ = ["LongTailedData", "gaussian_noise", "load", "pair"]
