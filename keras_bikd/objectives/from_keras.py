"""Losses of `keras.distillation` as objectives."""

import dataclasses
from typing import Annotated, Any

import keras
from keras import ops

from keras_bikd.objectives.features import features_at
from keras_bikd.objectives.outputs import LayerNames, Outputs, OutputsObjective
from keras_bikd.types import Tensor


def _distillation_loss(owner: str, name: str, loss: Any) -> Any:
    """Return `loss` if it is a distillation loss of Keras, else raise."""
    if not isinstance(loss, keras.distillation.DistillationLoss):
        raise ValueError(
            f"`{owner}({name}=...)` takes a `keras.distillation.DistillationLoss`. A function (labels, teacher_logits, "
            f"student_logits) -> (batch,) needs no wrapper. Received: {name}={loss!r}"
        )
    return loss


@keras.saving.register_keras_serializable(package="keras_bikd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class KerasDistillation(OutputsObjective):
    """A loss of `keras.distillation`, sample by sample.

    `keras.distillation.Distiller` takes the mean of a loss over the batch. Here, every sample has a loss of its own, so
    that it can have a weight of its own. The labels are not used.

    Args:
        loss: A `keras.distillation.LogitsDistillation`, a `FeatureDistillation` of logits or of two layers (see
            `FeatureLoss` for what these ask of the networks), or a `DistillationLoss` of your own.

    Raises:
        ValueError: If `loss` is none of these.

    Examples:
        >>> import numpy as np
        >>> loss = keras.distillation.LogitsDistillation(
        ...     temperature=4.0, loss=keras.losses.KLDivergence()
        ... )
        >>> teacher, student = np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 2.0, 1.0]])
        >>> np.round(KerasDistillation(loss=loss)(np.array([2]), teacher, student), 4)
        array([1.3975])
    """

    loss: Annotated[Any, _distillation_loss]

    @property
    def layer_names(self) -> LayerNames:
        """The layers that the loss compares; none if it compares logits."""
        given = (getattr(self.loss, f"{role}_layer_name", None) for role in ("teacher", "student"))
        return LayerNames(*(() if name is None else (name,) for name in given))

    def of_outputs(self, labels: Tensor, teacher: Outputs, student: Outputs) -> Tensor:
        """The loss of every sample, `(batch,)`."""

        def of_one_sample(pair: tuple[Tensor, Tensor]) -> Tensor:
            return self.loss.compute_loss(*(ops.expand_dims(part, 0) for part in pair))

        features = features_at(self.layer_names, teacher, student)
        return ops.cast(ops.vectorized_map(of_one_sample, features), features[1].dtype)
