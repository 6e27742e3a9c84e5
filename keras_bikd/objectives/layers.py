"""Losses of layers inside teacher and student, and of `keras.distillation`; the outputs of these layers."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import keras
from keras import ops

from keras_bikd import checks
from keras_bikd.objectives.base import LayerNames, Outputs, OutputsObjective
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


def tapped(role: str, network: keras.Model, names: Sequence[str]) -> Callable[..., tuple[Any, dict[str, Tensor]]]:
    """A function that runs a network and also returns the outputs of some of its layers.

    Args:
        role: `"student"` or `"teacher"`, for the message.
        network: `keras.Model`, which shares its layers with the function.
        names: Names of layers, at least one.

    Returns:
        Function `(inputs, training) -> (outputs of the network, {name: output})`.

    Raises:
        ValueError: If the network has no such layer, or is neither functional nor sequential.
    """
    if not getattr(network, "inputs", None):
        raise ValueError(
            f"Outputs of layers can be compared in functional and sequential models. Received: a {role} of type "
            f"{type(network).__name__}, and a loss of its layers {', '.join(map(repr, names))}"
        )
    known = {layer.name: layer for layer in network.layers}
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(
            f"The {role} has no layer {missing[0]!r}, whose output a loss compares. Its layers are {', '.join(known)}."
        )
    nested = [name for name in names if isinstance(known[name], keras.Model)]
    if nested:
        raise ValueError(
            f"The layer {nested[0]!r} of the {role} is a model, whose output inside the {role} Keras does not name. "
            "Choose the layer after it, or build on its output: `keras.Model(trunk.input, head(trunk.output))`, which "
            "also makes all layers of the trunk known by name."
        )
    # A sequential model hides its graph, and a functional one may have a dict of inputs.
    alone = isinstance(network, keras.Sequential)
    inputs, outputs = (network.inputs[0], network.outputs[0]) if alone else (network.input, network.output)
    both = keras.Model(inputs, [outputs, {name: known[name].output for name in names}])
    return lambda inputs, training: both(inputs, training=training)
