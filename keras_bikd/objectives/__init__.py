"""Objectives: what a student minimises, as functions of labels, teacher logits and student logits.

Each returns one value per sample. `DistillationModel` minimises one of them; `BiKDModel` weighs several.
"""

from keras_bikd.objectives.base import Objective
from keras_bikd.objectives.combined import LearnedWeights, TeacherTrust, WeightedSum
from keras_bikd.objectives.distillation import CrossEntropy, KnowledgeDistillation, SoftTargets, WeightedSoftLabels
from keras_bikd.objectives.experts import ExpertsObjective
from keras_bikd.objectives.layers import FeatureLoss, KerasDistillation
from keras_bikd.objectives.long_tail import (
    BalancedKnowledgeDistillation,
    BalancedSoftmax,
    ClassConditionalDistillation,
    DistillingVirtualExamples,
    LogitAdjustment,
    teacher_prior_of,
)

__all__ = [
    "BalancedKnowledgeDistillation",
    "BalancedSoftmax",
    "ClassConditionalDistillation",
    "CrossEntropy",
    "DistillingVirtualExamples",
    "ExpertsObjective",
    "FeatureLoss",
    "KerasDistillation",
    "KnowledgeDistillation",
    "LearnedWeights",
    "LogitAdjustment",
    "Objective",
    "SoftTargets",
    "TeacherTrust",
    "WeightedSoftLabels",
    "WeightedSum",
    "teacher_prior_of",
]
