"""Long-tailed data as `tf.data` pipelines."""

import importlib
from typing import Any

try:
    import tensorflow  # noqa: F401
except ImportError as error:
    raise ImportError(
        "`keras_bikd.data` reads and cuts its sets with TensorFlow Datasets, on every backend. Install them with "
        "`pip install keras_bikd[tensorflow]`. Without them, `fit` takes arrays, torch and Grain loaders, and "
        "`keras.utils.PyDataset`s."
    ) from error

from keras_bikd.data.augment import gaussian_noise, pad_crop_flip
from keras_bikd.data.loader import LongTailedData, load, only_classes
from keras_bikd.data.manifest import check_manifest, load_manifest, save_manifest
from keras_bikd.data.processes import share_of_process
from keras_bikd.data.resume import resumable
from keras_bikd.data.sources import Arrays, Folder, Tfds
from keras_bikd.data.split import LongTailCut, Split
from keras_bikd.feed import pair

__all__ = [
    "Arrays",
    "Folder",
    "LongTailCut",
    "LongTailedData",
    "Split",
    "Tfds",
    "check_manifest",
    "gaussian_noise",
    "load",
    "load_manifest",
    "only_classes",
    "pad_crop_flip",
    "pair",
    "resumable",
    "save_manifest",
    "share_of_process",
]


def __getattr__(name: str) -> Any:
    # Imported when a deprecated name is asked for; `from keras_bikd.data import ...` would ask for it here again.
    return importlib.import_module("keras_bikd.data.deprecated").renamed(name)
