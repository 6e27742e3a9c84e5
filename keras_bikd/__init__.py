"""Knowledge distillation that works on long-tailed data."""

from keras_bikd import callbacks, data, long_tail, losses, metrics, networks, objectives, plots, results
from keras_bikd.bikd_model import BiKDModel
from keras_bikd.bilevel_optimizer import BilevelOptimizer
from keras_bikd.distillation_model import DistillationModel
from keras_bikd.learned_weights import LearnedWeights
from keras_bikd.lfme_model import LFMEModel
from keras_bikd.meta_weight_net import MetaWeightNet
from keras_bikd.rwkd_model import RWKDModel
from keras_bikd.teacher_reference import TeacherReference
from keras_bikd.version import __version__

__all__ = [
    "BiKDModel",
    "BilevelOptimizer",
    "DistillationModel",
    "LFMEModel",
    "LearnedWeights",
    "MetaWeightNet",
    "RWKDModel",
    "TeacherReference",
    "__version__",
    "callbacks",
    "data",
    "long_tail",
    "losses",
    "metrics",
    "networks",
    "objectives",
    "plots",
    "results",
]


def __getattr__(name):
    # Keras Tuner is an optional dependency, and slow to import.
    if name != "tuner":
        raise AttributeError(f"module 'keras_bikd' has no attribute {name!r}")
    import importlib

    return importlib.import_module("keras_bikd.tuner")
