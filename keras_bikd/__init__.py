"""Knowledge distillation that works on long-tailed data."""

__version__ = "0.1.0"

from keras_bikd import losses, objectives, data
from keras_bikd.bikd_model import BiKDModel
from keras_bikd.distillation_model import DistillationModel
from keras_bikd.meta_weight_net import MetaWeightNet
