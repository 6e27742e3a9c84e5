"""Names of the previous version. Each works for one more release, with a warning that says what to use instead."""

import importlib
from typing import Any

import keras

from keras_bikd import checks
from keras_bikd.callbacks.pacing import ExpertPacing
from keras_bikd.models.distillation import DistillationModel
from keras_bikd.objectives.experts import ExpertsObjective
from keras_bikd.types import Counts

__all__ = ["LFMEModel", "attribute"]

_MODULES = {
    "bikd_model": "models.bikd",
    "bilevel_optimizer": "bilevel.optimizer",
    "distillation_model": "models.distillation",
    "hypergradient": "bilevel.hypergradient",
    "learned_weights": "objectives.learned",
    "lfme_model": "models.experts",
    "meta_weight_net": "bilevel.weight_net",
    "rwkd_model": "models.rwkd",
    "teacher_reference": "models.teacher_reference",
}


def attribute(name: str) -> Any:
    """`keras_bikd.<name>` of the previous version; raise an `AttributeError` if there was none."""
    if name in _MODULES:
        checks.warn_deprecated(f"keras_bikd.{name}", f"`keras_bikd.{_MODULES[name]}`")
        return importlib.import_module(f"keras_bikd.{_MODULES[name]}")
    if name == "LFMEModel":
        checks.warn_deprecated(
            "keras_bikd.LFMEModel", "`DistillationModel` with `Experts`, `ExpertsObjective` and `ExpertPacing`"
        )
        return LFMEModel
    raise AttributeError(f"module 'keras_bikd' has no attribute {name!r}")


@keras.saving.register_keras_serializable(package="keras_bikd")
class LFMEModel(DistillationModel):
    """LFME as in the previous version. Registered, so that saved models load.

    Args:
        student: `keras.Model` that outputs logits.
        teacher: `Experts`.
        class_counts: Training samples per class.
        num_groups: Number of groups and experts.
        temperature: Positive number, temperature of the soft losses.
        threshold: As in `ExpertPacing`.
        **kwargs: Keras model arguments.
    """

    ARGUMENTS = ("student", "teacher", "class_counts", "num_groups", "temperature", "threshold")

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model,
        class_counts: Counts,
        *,
        num_groups: int = 3,
        temperature: float = 2.0,
        threshold: float = 0.3,
        **kwargs: Any,
    ) -> None:
        super().__init__(student, teacher, ExpertsObjective(class_counts, num_groups, temperature), **kwargs)
        self.class_counts, self.num_groups = list(class_counts), num_groups
        self.temperature, self.threshold = temperature, threshold

    def fit(
        self, x: Any = None, y: Any = None, *, meta_data: Any, callbacks: Any = None, **kwargs: Any
    ) -> keras.callbacks.History:
        train = x if y is None else (x, y)
        callbacks = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks] if callbacks else []
        pacing = ExpertPacing(train, meta_data, self.threshold)
        return super().fit(x, y, callbacks=[pacing, *callbacks], **kwargs)
