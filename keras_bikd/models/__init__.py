"""The models to compile and fit, and three special teachers.

Each model acts as its student: `predict`, `evaluate` and `export` are the student's.
"""

from keras_bikd.models.bikd import BiKDModel
from keras_bikd.models.distillation import DistillationModel
from keras_bikd.models.rwkd import RWKDModel
from keras_bikd.teachers import Experts, StoredTeacher, TeacherReference

__all__ = ["BiKDModel", "DistillationModel", "Experts", "RWKDModel", "StoredTeacher", "TeacherReference"]
