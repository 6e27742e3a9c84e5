"""Long-tailed data as `tf.data` pipelines."""

from keras_bikd.data.augment import gaussian_noise, pad_crop_flip
from keras_bikd.data.long_tailed import (
    LongTailedData,
    check_manifest,
    load,
    load_folder,
    load_manifest,
    make_long_tailed,
    only_classes,
    save_manifest,
)
from keras_bikd.data.processes import share_of_process
from keras_bikd.data.resume import resumable
from keras_bikd.data.split import Cut
from keras_bikd.feed import pair

__all__ = [
    "Cut",
    "LongTailedData",
    "check_manifest",
    "gaussian_noise",
    "load",
    "load_folder",
    "load_manifest",
    "make_long_tailed",
    "only_classes",
    "pad_crop_flip",
    "pair",
    "resumable",
    "save_manifest",
    "share_of_process",
]
