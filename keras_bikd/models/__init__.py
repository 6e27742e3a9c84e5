"""The models to compile and fit, and three special teachers.

Each model acts as its student: `predict`, `evaluate` and `export` are the student's.
"""

from keras_bikd.models.bikd import BiKDModel
from keras_bikd.models.distillation import DistillationModel
from keras_bikd.models.experts import Experts
from keras_bikd.models.rwkd import RWKDModel
from keras_bikd.models.teacher_reference import TeacherReference
from keras_bikd.stored_teacher import StoredTeacher

__all__ = ["BiKDModel", "DistillationModel", "Experts", "RWKDModel", "StoredTeacher", "TeacherReference"]
