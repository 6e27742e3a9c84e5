"""Long-tailed data as `tf.data` pipelines or, without TensorFlow, as Grain data sets."""

from keras_bikd.data.installed import has_grain, has_tensorflow

if not (has_tensorflow() or has_grain()):
    raise ImportError(
        "`keras_bikd.data` makes `tf.data` pipelines or Grain data sets, on every backend. Install TensorFlow with "
        "`pip install keras_bikd[tensorflow]`, or Grain with `pip install keras_bikd[grain]`. Without them, `fit` "
        "takes arrays, torch loaders and `keras.utils.PyDataset`s."
    )

from keras_bikd.batches.pairs import pair
from keras_bikd.data.augment import gaussian_noise, pad_crop_flip
from keras_bikd.data.loader import LongTailedData, load, only_classes
from keras_bikd.data.manifest import check_manifest, load_manifest, save_manifest
from keras_bikd.data.precomputed import PrecomputedTeacher, precompute_teacher
from keras_bikd.data.processes import share_of_process
from keras_bikd.data.resume import resumable
from keras_bikd.data.sources import Arrays, Folder, Tfds
from keras_bikd.data.split import LongTailCut, Split

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
    "only_classes",
    "pad_crop_flip",
    "pair",
    "precompute_teacher",
    "resumable",
    "save_manifest",
    "share_of_process",
]
