"""What an objective is: a frozen record of hyper-parameters that maps labels and the two networks' outputs to one loss
per sample.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import (
    Annotated,
    Any,
    ClassVar,
    NamedTuple,
    Protocol,
    get_args,
    get_origin,
    get_type_hints,
    runtime_checkable,
)

import keras
from keras import ops

from keras_bikd import checks
from keras_bikd.long_tail import log_priors
from keras_bikd.losses import class_logits
from keras_bikd.serialization import Serializable
from keras_bikd.types import Counts, Tensor

# Types of hyper-parameters, each with its check.
Temperature = Annotated[float, functools.partial(checks.number, above=0)]
"""A number above 0."""
Factor = Annotated[float, functools.partial(checks.number, at_least=0)]
"""A number of at least 0."""
Share = Annotated[float, functools.partial(checks.number, above=0, below=1)]
"""A number between 0 and 1, both excluded."""
ClassCounts = Annotated[Counts, checks.class_counts]
"""Training samples per class."""
PerClass = Annotated[tuple[float, ...], checks.number_per_class]
"""One number per class, none negative."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective(Serializable):
    """Base of the objectives. A subclass declares its hyper-parameters as fields and defines `call`.

    Examples:
        >>> import numpy as np
        >>> from keras_bikd.losses import hard_loss
        >>> @dataclasses.dataclass(frozen=True, kw_only=True)
        ... class FocalLoss(Objective):
        ...     gamma: Factor = 2.0
        ...
        ...     def call(self, labels, teacher_logits, student_logits):
        ...         loss = hard_loss(labels, student_logits)
        ...         return (1 - ops.exp(-loss)) ** self.gamma * loss
        >>> logits = np.array([[1.0, 0.0, -1.0]])
        >>> np.round(FocalLoss(gamma=1.0)(np.array([0]), logits, logits), 4)
        array([0.1364])
    """

    uses_teacher: ClassVar[bool] = True
    """Whether the loss depends on the teacher; `False` in a subclass without one."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, check = getattr(self, field.name), self._checks().get(field.name)
            if check is not None and not (value is None and field.default is None):
                value = check(type(self).__name__, field.name, value)
            if isinstance(value, list):  # as JSON stores a tuple
                value = tuple(value)
            object.__setattr__(self, field.name, value)

    def __call__(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        """Return the loss of every sample.

        Args:
            labels: Integer ids of shape `(batch,)`, or one-hot rows.
            teacher_logits: Float tensor of shape `(batch, classes)`.
            student_logits: Float tensor of shape `(batch, classes)`.

        Returns:
            Float tensor of shape `(batch,)`, at least float32.

        Raises:
            ValueError: If a hyper-parameter with one number per class has another length than the student's output.
        """
        # A shift by log counts near 10 has no place in float16.
        student_logits = class_logits(student_logits)
        teacher_logits = ops.cast(class_logits(teacher_logits), student_logits.dtype)
        classes = student_logits.shape[-1]
        for field in dataclasses.fields(self):
            values = getattr(self, field.name)
            per_class = self._checks().get(field.name) in (checks.class_counts, checks.number_per_class)
            if per_class and values is not None and len(values) != classes:
                raise ValueError(
                    f"`{type(self).__name__}({field.name}=...)` takes one number per class, and the student has "
                    f"{classes} outputs. Received: {len(values)} numbers"
                )
        return self.call(labels, teacher_logits, student_logits)

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        """The formula: one value per sample, from logits of at least float32."""
        raise NotImplementedError(f"{type(self).__name__} must define `call`.")

    def get_config(self) -> dict[str, Any]:
        """The hyper-parameters, ready for JSON."""
        names = [field.name for field in dataclasses.fields(self)]
        return {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in names}

    @classmethod
    @functools.cache
    def _checks(cls) -> dict[str, Any]:
        """The check of every field whose type has one, also where the field is optional."""
        hints = {name: (hint, *get_args(hint)) for name, hint in get_type_hints(cls, include_extras=True).items()}
        return {name: h.__metadata__[0] for name, kinds in hints.items() for h in kinds if get_origin(h) is Annotated}


def log_prior(class_counts: ClassCounts, logits: Tensor) -> Tensor:
    """Log share of every class, in the dtype of `logits`; a class without images counts as one."""
    return ops.cast(log_priors(class_counts), logits.dtype)


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
