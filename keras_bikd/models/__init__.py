"""The models: BiKD, RW-KD, plain distillation, and the two special teachers."""

from keras_bikd.models.bikd import BiKDModel
from keras_bikd.models.distillation import DistillationModel
from keras_bikd.models.experts import Experts
from keras_bikd.models.rwkd import RWKDModel
from keras_bikd.models.teacher_reference import TeacherReference

__all__ = ["BiKDModel", "DistillationModel", "Experts", "RWKDModel", "TeacherReference"]
