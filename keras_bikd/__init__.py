"""Knowledge distillation that works on long-tailed data."""

import importlib
import importlib.metadata
from typing import Any

from keras_bikd import (
    bilevel,
    callbacks,
    long_tail,
    losses,
    metrics,
    models,
    networks,
    objectives,
    plots,
    results,
)
from keras_bikd.bilevel.optimizer import BilevelOptimizer
from keras_bikd.bilevel.weight_net import MetaWeightNet
from keras_bikd.models.bikd import BiKDModel
from keras_bikd.models.distillation import DistillationModel
from keras_bikd.models.rwkd import RWKDModel
from keras_bikd.objectives.combined import LearnedWeights
from keras_bikd.teachers import Experts, StoredTeacher, TeacherReference

__all__ = [
    "BiKDModel",
    "BilevelOptimizer",
    "DistillationModel",
    "Experts",
    "LearnedWeights",
    "MetaWeightNet",
    "RWKDModel",
    "StoredTeacher",
    "TeacherReference",
    "__version__",
    "bilevel",
    "callbacks",
    "long_tail",
    "losses",
    "metrics",
    "models",
    "networks",
    "objectives",
    "plots",
    "results",
]

__version__ = importlib.metadata.version("keras_bikd")


def __getattr__(name: str) -> Any:
    if name in ("comparison", "data", "tuner"):  # They need optional packages, or are slow to import.
        return importlib.import_module(f"keras_bikd.{name}")
    if name in ("Protocol", "compare"):
        return getattr(importlib.import_module("keras_bikd.comparison"), name)
    raise AttributeError(f"module 'keras_bikd' has no attribute {name!r}")
