"""What an objective sees of the two networks: their logits, and outputs of layers inside them."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from keras_bikd.objectives.base import Objective
from keras_bikd.types import Tensor


class Outputs(NamedTuple):
    """What a network returns for a batch.

    Attributes:
        logits: `(batch, classes)`.
        layers: Name of a layer to its output, for the layers that an objective asks for.
    """

    logits: Tensor
    layers: Mapping[str, Tensor] = {}


class LayerNames(NamedTuple):
    """The layers whose outputs an objective compares.

    Attributes:
        teacher: Names of layers of the teacher, each once.
        student: Names of layers of the student, each once.
    """

    teacher: tuple[str, ...] = ()
    student: tuple[str, ...] = ()


@runtime_checkable
class OfOutputs(Protocol):
    """An objective that may need more of the networks than their logits."""

    @property
    def layer_names(self) -> LayerNames:
        """The layers whose outputs it needs."""

    def of_outputs(self, labels: Tensor, teacher: Outputs, student: Outputs) -> Tensor:
        """The loss of every sample, `(batch,)`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputsObjective(Objective):
    """Base of the objectives that define `layer_names` and `of_outputs`; given logits, these are all they see."""

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        return self.of_outputs(labels, Outputs(teacher_logits), Outputs(student_logits))

    def of_outputs(self, labels: Tensor, teacher: Outputs, student: Outputs) -> Tensor:
        """The loss of every sample, `(batch,)`."""
        raise NotImplementedError(f"{type(self).__name__} must define `of_outputs`.")


def layers_of(objectives: Iterable[Callable[..., Tensor]]) -> LayerNames:
    """The layers that any of `objectives` needs."""
    teacher: dict[str, None] = {}
    student: dict[str, None] = {}
    for objective in objectives:
        if isinstance(objective, OfOutputs):
            teacher |= dict.fromkeys(objective.layer_names.teacher)
            student |= dict.fromkeys(objective.layer_names.student)
    return LayerNames(tuple(teacher), tuple(student))


def loss_of(objective: Callable[..., Tensor], labels: Tensor, teacher: Outputs, student: Outputs) -> Tensor:
    """The loss of every sample under any objective, `(batch,)`."""
    if isinstance(objective, OfOutputs):
        return objective.of_outputs(labels, teacher, student)
    return objective(labels, teacher.logits, student.logits)
