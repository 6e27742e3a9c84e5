"""Objectives made of other objectives: weighted by constants, by the teacher, or by a trained weight network."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import keras
from keras import ops

from keras_bikd import checks
from keras_bikd.bilevel.weight_net import MetaWeightNet
from keras_bikd.losses import hard_loss
from keras_bikd.objectives.base import LayerNames, Outputs, OutputsObjective, layers_of, loss_of
from keras_bikd.serialization import Serializable
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


@keras.saving.register_keras_serializable(package="keras_bikd")
class LearnedWeights(Serializable, keras.layers.Layer):
    """Losses weighted by a trained weight network, which is no longer trained.

    A weight network can only learn from meta images that its student is not trained on. To use these images for
    training as well, make two runs. First let `BiKDModel` learn the weights with the meta images held out. Then train a
    fresh student on all images, with these weights as the objective of a `DistillationModel`.

    Args:
        weight_net: Trained `MetaWeightNet`, such as `model.weight_net`. It is copied.
        candidate_losses: Dict of name to objective, as in `BiKDModel`: the losses that the network has learned to
            weigh, in the same order, with the class counts of the new training set.
        **kwargs: Keras layer arguments (`name`, `dtype`, ...).

    Call arguments:
        - `labels`: Integer ids of shape `(batch,)`, or one-hot rows.
        - `teacher_logits`: Float tensor of shape `(batch, classes)`.
        - `student_logits`: Float tensor of shape `(batch, classes)`.

    Returns:
        The weighted loss of every sample, shape `(batch,)`.

    Raises:
        ValueError: If the network has another number of weights than there are losses.

    Examples:
        >>> import numpy as np
        >>> from keras_bikd.objectives import CrossEntropy, SoftTargets
        >>> losses = {"hard": CrossEntropy(), "soft": SoftTargets()}
        >>> objective = LearnedWeights(MetaWeightNet(), losses)
        >>> objective(
        ...     np.array([2]), np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 2.0, 1.0]])
        ... ).shape
        TensorShape([1])
    """

    ARGUMENTS = ("weight_net", "candidate_losses")

    def __init__(
        self, weight_net: MetaWeightNet, candidate_losses: dict[str, Callable[..., Tensor]], **kwargs: Any
    ) -> None:
        kwargs.setdefault("dtype", keras.config.floatx())
        super().__init__(**kwargs)
        if not isinstance(weight_net, MetaWeightNet):
            raise ValueError(
                "`LearnedWeights(weight_net=...)` takes a trained `MetaWeightNet`, such as `model.weight_net`. "
                f"Received: weight_net={weight_net!r}"
            )
        if not isinstance(candidate_losses, dict) or len(candidate_losses) != weight_net.num_losses:
            raise ValueError(
                "`LearnedWeights(candidate_losses=...)` takes a dict with one loss per output of the weight network. "
                f"Received: {candidate_losses!r} with num_losses={weight_net.num_losses}"
            )
        # Keras does not pass `trainable` on to layers that are made inside.
        self.weight_net = MetaWeightNet.from_config(weight_net.get_config() | {"trainable": True})
        self.weight_net.set_weights(weight_net.get_weights())
        self.weight_net.trainable = False
        self.candidate_losses = dict(candidate_losses)
        self.built = True

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        return self.of_outputs(labels, Outputs(teacher_logits), Outputs(student_logits))

    @property
    def layer_names(self) -> LayerNames:
        """The layers that the losses compare."""
        return layers_of(self.candidate_losses.values())

    def of_outputs(self, labels: Tensor, teacher: Outputs, student: Outputs) -> Tensor:
        """The weighted loss of every sample, `(batch,)`."""
        known = [hard_loss(labels, teacher.logits), ops.stop_gradient(hard_loss(labels, student.logits))]
        weights = ops.stop_gradient(self.weight_net(ops.stack(known, axis=-1), labels))
        losses = [loss_of(loss, labels, teacher, student) for loss in self.candidate_losses.values()]
        return ops.sum(ops.cast(weights, losses[0].dtype) * ops.stack(losses, axis=-1), axis=-1)
