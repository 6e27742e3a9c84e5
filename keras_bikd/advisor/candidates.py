"""The methods that are compared, from the cheapest to the dearest."""

from typing import Any

import keras

from keras_bikd import objectives
from keras_bikd.bilevel.weight_net import MetaWeightNet
from keras_bikd.comparison import Call, Method, Part
from keras_bikd.models import BiKDModel, DistillationModel
from keras_bikd.objectives import LearnedWeights

_STUDENT, _TEACHER = Part("student"), Part("teacher")
_BALANCED_SOFTMAX = Call(objectives.BalancedSoftmax, class_counts=Part("counts"))
_CORRECTED_TEACHER = Call(objectives.SoftTargets, class_counts=Part("teacher_counts"))
_CANDIDATES = {"hard": _BALANCED_SOFTMAX, "soft": _CORRECTED_TEACHER}


def _fixed(objective: Any, *, meta_in_train: bool | float = True, before: Method | None = None) -> Method:
    model = Call(DistillationModel, _STUDENT, _TEACHER, objective)
    return Method(model=model, meta_in_train=meta_in_train, before=before)


def _learned(*, meta_in_train: bool = True, **arguments: Any) -> Method:
    return Method(
        model=Call(BiKDModel, _STUDENT, _TEACHER, **arguments),
        compile_arguments={"meta_optimizer": Call(keras.optimizers.Adam, 1e-3)},
        meta_data=Part("meta"),
        meta_in_train=meta_in_train,
    )


BASELINE = "cross-entropy"
"""What everything is compared with."""

SAFE_DEFAULT = "BiKD with class counts"
"""What loses least over many situations with nothing tuned."""

METHODS = {
    BASELINE: _fixed(objectives.CrossEntropy()),
    "balanced softmax": _fixed(_BALANCED_SOFTMAX),
    "KD": _fixed(objectives.KnowledgeDistillation()),
    "balanced softmax + corrected teacher": _fixed(
        Call(objectives.WeightedSum, objectives=(_BALANCED_SOFTMAX, _CORRECTED_TEACHER), weights=(0.5, 0.5))
    ),
    "BiKD as published": _learned(),
    SAFE_DEFAULT: _learned(candidate_losses=_CANDIDATES),
}
"""The default methods of `compare`: name to `Method`."""

# The first run is guided by the checked samples and not trained on them; see the results, "Wrong labels".
_DOUBLED = {
    name: Call(objectives.WeightedSum, objectives=(objective,), weights=(2.0,))
    for name, objective in _CANDIDATES.items()
}
_LOG_PRIOR = Call(MetaWeightNet, class_counts=Part("counts"))
_FIRST_RUN = _learned(candidate_losses=_CANDIDATES, weight_net=_LOG_PRIOR, meta_in_train=False)
TWO_RUNS = {
    "BiKD in two runs": _fixed(
        Call(LearnedWeights, Part("before.weight_net"), _DOUBLED), before=_FIRST_RUN, meta_in_train=0.5
    )
}
"""For labels of which many are wrong, where checked samples are at hand."""

_WITHOUT_TEACHER = {"CrossEntropy", "BalancedSoftmax", "LogitAdjustment"}


def needs_teacher(method: Method) -> bool:
    """Whether a method learns from a teacher.

    Examples:
        >>> [name for name, method in METHODS.items() if not needs_teacher(method)]
        ['cross-entropy', 'balanced softmax']
    """
    objective = method.model.config()["arguments"].get("objective", {})
    return objective.get("call", "").rpartition(".")[2] not in _WITHOUT_TEACHER
