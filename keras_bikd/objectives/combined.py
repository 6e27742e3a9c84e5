"""Objectives made of other objectives."""

import dataclasses
from collections.abc import Callable
from typing import Annotated

import keras
from keras import ops

from keras_bikd import checks
from keras_bikd.losses import hard_loss
from keras_bikd.objectives.outputs import LayerNames, Outputs, OutputsObjective, layers_of, loss_of
from keras_bikd.types import Tensor


@keras.saving.register_keras_serializable(package="keras_bikd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightedSum(OutputsObjective):
    """A sum of objectives with constant weights, the baseline for learned weights.

    Args:
        objectives: The objectives to add.
        weights: One number per objective.

    Raises:
        ValueError: If there is not one weight per objective, or an argument is out of range.

    Examples:
        >>> import numpy as np
        >>> from keras_bikd.objectives import BalancedSoftmax, SoftTargets
        >>> parts = (BalancedSoftmax(class_counts=(100, 10, 1)), SoftTargets())
        >>> mix = WeightedSum(objectives=parts, weights=(0.5, 0.5))
        >>> teacher, student = np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 2.0, 1.0]])
        >>> np.round(mix(np.array([2]), teacher, student), 4)
        array([2.7857])
    """

    objectives: tuple[Callable[..., Tensor], ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.objectives) != len(self.weights):
            raise ValueError(
                "`WeightedSum` takes one weight per objective. "
                f"Received: {len(self.objectives)} objectives and weights={self.weights!r}"
            )
        for part, weight in zip(self.objectives, self.weights):
            checks.objective("WeightedSum", "objectives", part)
            checks.number("WeightedSum", "weights", weight, at_least=0)

    @property
    def layer_names(self) -> LayerNames:
        """The layers that its parts compare."""
        return layers_of(self.objectives)

    def of_outputs(self, labels: Tensor, teacher: Outputs, student: Outputs) -> Tensor:
        """The loss of every sample, `(batch,)`."""
        parts = [loss_of(part, labels, teacher, student) for part in self.objectives]
        return sum(weight * part for weight, part in zip(self.weights, parts))


@keras.saving.register_keras_serializable(package="keras_bikd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherTrust(OutputsObjective):
    """An objective whose samples are weighted by the probability that the teacher gives to their label.

    A fixed rule for unreliable labels, to compare learned weights with.

    Args:
        objective: The objective to weight.

    Examples:
        >>> import numpy as np
        >>> from keras_bikd.objectives import CrossEntropy
        >>> teacher, student = np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 2.0, 1.0]])
        >>> np.round(
        ...     TeacherTrust(objective=CrossEntropy())(np.array([2]), teacher, student),
        ...     4,
        ... )
        array([1.1877])
    """

    objective: Annotated[Callable[..., Tensor], checks.objective]

    @property
    def layer_names(self) -> LayerNames:
        """The layers that its objective compares."""
        return layers_of([self.objective])

    def of_outputs(self, labels: Tensor, teacher: Outputs, student: Outputs) -> Tensor:
        """The loss of every sample, `(batch,)`."""
        losses = loss_of(self.objective, labels, teacher, student)
        trust = ops.exp(-hard_loss(labels, teacher.logits))
        return ops.stop_gradient(ops.cast(trust, losses.dtype)) * losses
