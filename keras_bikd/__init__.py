"""Knowledge distillation that works on long-tailed data."""

from keras_bikd import callbacks, data, long_tail, losses, metrics, networks, objectives, plots, results
from keras_bikd.bikd_model import BiKDModel
from keras_bikd.bilevel_optimizer import BilevelOptimizer
from keras_bikd.distillation_model import DistillationModel
from keras_bikd.lfme_model import LFMEModel
from keras_bikd.meta_weight_net import MetaWeightNet
from keras_bikd.rwkd_model import RWKDModel
from keras_bikd.version import __version__

__all__ = [
    "BiKDModel",
    "BilevelOptimizer",
    "DistillationModel",
    "LFMEModel",
    "MetaWeightNet",
    "RWKDModel",
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
