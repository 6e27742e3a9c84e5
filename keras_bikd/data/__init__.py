"""Long-tailed data sets: `tf.data` pipelines on the TensorFlow backend, Grain data sets on the others."""

from keras_bikd.batches.pairs import pair
from keras_bikd.data.augment import gaussian_noise, pad_crop_flip
from keras_bikd.data.loader import LongTailedData, load, load_split, only_classes
from keras_bikd.data.manifest import check_manifest, load_manifest, save_manifest
from keras_bikd.data.precomputed import PrecomputedTeacher, precompute_teacher
from keras_bikd.data.sources import Arrays, Folder, Tfds
from keras_bikd.data.split import LongTailCut, Split
from keras_bikd.data.streams import resumable, share_of_process

__all__ = [
    "Arrays",
    "Folder",
    "LongTailCut",
    "LongTailedData",
    "PrecomputedTeacher",
    "Split",
    "Tfds",
    "check_manifest",
    "gaussian_noise",
    "load",
    "load_manifest",
    "load_split",
    "only_classes",
    "pad_crop_flip",
    "pair",
    "precompute_teacher",
    "resumable",
    "save_manifest",
    "share_of_process",
]
