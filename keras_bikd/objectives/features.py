"""`FeatureLoss`: outputs of layers inside teacher and student, compared sample by sample."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import keras
from keras import ops

from keras_bikd import checks
from keras_bikd.objectives.outputs import LayerNames, Outputs, OutputsObjective
from keras_bikd.types import Tensor


@keras.saving.register_keras_serializable(package="keras_bikd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureLoss(OutputsObjective):
    """A loss of the outputs of two layers, one inside the teacher and one inside the student.

    A candidate loss of `BiKDModel` like any other, and a part of the objective of a `DistillationModel`. Both networks
    must be functional or sequential models, and the teacher must run: stored logits are not enough. The labels are not
    used.

    Args:
        loss: Function `(teacher_features, student_features) -> (batch,)`, such as
            `keras_bikd.losses.attention_transfer_loss`.
        teacher_layer: Name of a layer of the teacher.
        student_layer: Name of a layer of the student.

    Raises:
        ValueError: If `loss` is no function, or a name is no string.

    Examples:
        >>> import numpy as np
        >>> import keras_bikd as bikd
        >>> def network(width):
        ...     return keras.Sequential(
        ...         [
        ...             keras.Input((8, 8, 1)),
        ...             keras.layers.Conv2D(width, 3, name="features"),
        ...             keras.layers.Flatten(),
        ...             keras.layers.Dense(4),
        ...         ]
        ...     )
        >>> attention = FeatureLoss(
        ...     loss=bikd.losses.attention_transfer_loss,
        ...     teacher_layer="features",
        ...     student_layer="features",
        ... )
        >>> model = bikd.BiKDModel(
        ...     network(2),
        ...     network(16),
        ...     candidate_losses={
        ...         "hard": bikd.objectives.CrossEntropy(),
        ...         "soft": bikd.objectives.SoftTargets(),
        ...         "attention": attention,
        ...     },
        ... )
        >>> model.compile("sgd")
        >>> x, y = np.random.normal(size=(16, 8, 8, 1)), np.arange(16) % 4
        >>> history = model.fit(x, y, meta_data=(x[:8], y[:8]), verbose=0)
        >>> [name for name in sorted(history.history) if "weight" in name]
        ['attention_weight', 'hard_weight', 'soft_weight']
    """

    loss: Annotated[Callable[[Tensor, Tensor], Tensor], checks.function_of_features]
    teacher_layer: Annotated[str, checks.layer_name]
    student_layer: Annotated[str, checks.layer_name]

    @property
    def layer_names(self) -> LayerNames:
        """The two layers."""
        return LayerNames((self.teacher_layer,), (self.student_layer,))

    def of_outputs(self, labels: Tensor, teacher: Outputs, student: Outputs) -> Tensor:
        """The loss of every sample, `(batch,)`."""
        losses = self.loss(*features_at(self.layer_names, teacher, student))
        if len(losses.shape) != 1:
            raise ValueError(
                "`FeatureLoss(loss=...)` takes a function that returns one value per sample, of shape (batch,). "
                f"Received: values of shape {tuple(losses.shape)}. Take the mean over all axes but the first."
            )
        return losses


def features_at(names: LayerNames, teacher: Outputs, student: Outputs) -> tuple[Any, Any]:
    """The outputs of one layer each, in float32 or better; the logits where no layer is named."""
    missing = {*names.teacher} - {*teacher.layers} | {*names.student} - {*student.layers}
    if missing:
        raise ValueError(
            "A loss of the outputs of layers cannot be computed from logits. Pass it to `BiKDModel(candidate_losses="
            "...)` or `DistillationModel(objective=...)`, alone, in a `WeightedSum` or in a `TeacherTrust`. "
            f"Received: no outputs of {', '.join(map(repr, sorted(missing)))}"
        )
    pair = (outputs.layers[role[0]] if role else outputs.logits for role, outputs in zip(names, (teacher, student)))
    teacher_features, student_features = (
        ops.cast(part, keras.backend.result_type(part.dtype, "float32")) for part in pair
    )
    return ops.cast(teacher_features, student_features.dtype), student_features
