"""Losses of `keras.distillation` as objectives."""

import dataclasses
from typing import Annotated, Any

import keras
from keras import ops

from keras_bikd.objectives.base import Objective
from keras_bikd.types import Tensor

__all__ = ["KerasDistillation"]


def _loss_of_logits(owner: str, name: str, loss: Any) -> Any:
    """Return `loss` if it is a distillation loss of Keras that needs nothing but logits, else raise."""
    if not isinstance(loss, keras.distillation.DistillationLoss):
        raise ValueError(
            f"`{owner}({name}=...)` takes a `keras.distillation.DistillationLoss`. A function (labels, teacher_logits, "
            f"student_logits) -> (batch,) needs no wrapper. Received: {name}={loss!r}"
        )
    layers = [getattr(loss, f"{role}_layer_name", None) for role in ("teacher", "student")]
    if any(layer is not None for layer in layers):
        raise ValueError(
            f"`{owner}({name}=...)` takes losses of logits: outputs of layers inside the networks are not at hand. "
            "Distil these with `keras.distillation.Distiller` first, and train the same student here afterwards. "
            f"Received: a loss of the layers {layers[0]!r} and {layers[1]!r}"
        )
    return loss


@keras.saving.register_keras_serializable(package="keras_bikd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class KerasDistillation(Objective):
    """A loss of `keras.distillation` on logits, sample by sample.

    `keras.distillation.Distiller` takes the mean of a loss over the batch. Here, every sample has a loss of its own, so
    that it can have a weight of its own. The labels are not used.

    Args:
        loss: A `keras.distillation.LogitsDistillation`, a `FeatureDistillation` without names of layers, or a
            `DistillationLoss` of your own.

    Raises:
        ValueError: If `loss` is none of these, or compares outputs of layers inside the networks.

    Examples:
        >>> import numpy as np
        >>> loss = keras.distillation.LogitsDistillation(
        ...     temperature=4.0, loss=keras.losses.KLDivergence()
        ... )
        >>> teacher, student = np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 2.0, 1.0]])
        >>> np.round(KerasDistillation(loss=loss)(np.array([2]), teacher, student), 4)
        array([1.3975])
    """

    loss: Annotated[Any, _loss_of_logits]

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        def of_one_sample(logits: tuple[Tensor, Tensor]) -> Tensor:
            teacher, student = (ops.expand_dims(part, 0) for part in logits)
            return self.loss.compute_loss(teacher, student)

        losses = ops.vectorized_map(of_one_sample, (teacher_logits, student_logits))
        return ops.cast(losses, student_logits.dtype)
