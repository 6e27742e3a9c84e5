"""The two levels of Algorithm 1 as functions of the student's parameters, `theta`."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_bikd.backend import all_reduce_sum, num_replicas, snapshot
from keras_bikd.bilevel.hypergradient import Difference, VirtualStep
from keras_bikd.bilevel.optimizer import loss_scale
from keras_bikd.losses import class_logits, hard_loss, soft_loss
from keras_bikd.objectives.base import Outputs, layers_of, loss_of
from keras_bikd.types import Batch, Tensor, labels_and_logits, weights_of_labels


class Forward(NamedTuple):
    """Results of the student's forward pass on a training batch, other than the losses.

    Attributes:
        outputs: Of the student: its logits, `(batch, classes)`, and what else the losses compare.
        features: `(batch, 2)`, what the weight network sees: cross-entropy of the teacher, then of the student.
        labels: Labels, as they were given.
        mean_weight: `(batch,)`, the part of each sample in the mean over the global batch.
        state: New values of the student's state.
    """

    outputs: Outputs
    features: Tensor
    labels: Tensor
    mean_weight: Tensor
    state: list[Tensor]


class LowerLevel(NamedTuple):
    """The losses of every sample of a training batch.

    Attributes:
        at: Maps `theta` to `((losses, penalty), Forward)`: losses of shape `(batch, losses)`, and the student's own.
        difference: How to differentiate them without second derivatives.
    """

    at: Callable[[list[Tensor]], tuple[tuple[Tensor, ...], Forward]]
    difference: Difference


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """A student between a weighted loss on training batches and a meta loss on meta batches.

    Args:
        student: `keras.Model` that outputs logits.
        student_outputs: Maps inputs and `training` to `Outputs` of the student.
        teacher_outputs: Maps inputs, and the logits that a batch brings or `None`, to `Outputs` of the teacher.
        teacher_logits: Maps the same to the logits alone.
        candidate_losses: Dict of name to objective: the losses that are weighed.
        meta_loss: `"hard"`, `"soft"` or `"mixed"`.
        temperature: Temperature of the soft meta loss.
        optimizer: Optimizer of the student, whose loss scale multiplies the gradients of the lower level.
    """

    student: keras.Model
    student_outputs: Callable[..., Outputs]
    teacher_outputs: Callable[..., Outputs]
    teacher_logits: Callable[..., Tensor]
    candidate_losses: Mapping[str, Callable[..., Tensor]]
    meta_loss: str
    temperature: float
    optimizer: keras.optimizers.Optimizer

    def lower_level(self, batch: Batch) -> "LowerLevel":
        """The losses of every training sample as functions of `theta` (lines 5-7)."""
        x, labels, stored, sample_weight = unpacked(batch)
        teacher = self.teacher_outputs(x, stored)
        teacher_losses = hard_loss(labels, teacher.logits)
        state = snapshot(self._state)
        names = layers_of(self.candidate_losses.values()).student

        def losses_of(outputs: list[Tensor]) -> Tensor:
            student = Outputs(class_logits(outputs[0]), dict(zip(names, outputs[1:])))
            return ops.stack(
                [loss_of(loss, labels, teacher, student) for loss in self.candidate_losses.values()], axis=-1
            )

        def listed(outputs: Outputs) -> list[Tensor]:
            return [outputs.logits, *(outputs.layers[name] for name in names)]

        def at(theta: list[Tensor]) -> tuple[tuple[Tensor, ...], Forward]:
            outputs, penalty, new_state = self.student_at(theta, state, x)
            hard = hard_loss(labels, outputs.logits)
            features = ops.stack([ops.cast(teacher_losses, hard.dtype), hard], axis=-1)
            forward = Forward(outputs, features, labels, _mean_weight(hard, sample_weight), new_state)
            return (losses_of(listed(outputs)), penalty), forward

        difference = Difference(
            network=lambda theta: listed(self.student_at(theta, state, x)[0]),
            losses_of=lambda outputs: (losses_of(outputs), None),
            outputs_of=lambda forward: listed(forward.outputs),
            compute_dtype=self.student.compute_dtype,
        )
        return LowerLevel(at, difference)

    def upper_loss(self, meta_batch: Batch, scale: Tensor = 1.0) -> Callable[[list[Tensor]], Tensor]:
        """The (scaled) mean loss on the meta batch, as a function of `theta'` (lines 9-10)."""
        x, labels, stored, sample_weight = unpacked(meta_batch)
        teacher_logits = None if self.meta_loss == "hard" else self.teacher_logits(x, stored)
        state = snapshot(self._state)

        def upper_loss(theta: list[Tensor]) -> Tensor:
            # The meta batch has its own batch statistics; its updates of the state are discarded.
            outputs, _, _ = self.student_at(theta, state, x)
            losses = self._meta_losses(labels, teacher_logits, outputs.logits)
            return scale * ops.sum(_mean_weight(losses, sample_weight) * losses)

        return upper_loss

    def student_at(
        self, theta: list[Tensor], state: list[Tensor], x: Any
    ) -> tuple[Outputs, Tensor | None, list[Tensor]]:
        """The student in training mode as a pure function of its variables: `(outputs, penalty, new_state)`."""
        student = self.student
        variables = [*student.trainable_variables, *self._state]
        with keras.StatelessScope(state_mapping=zip(variables, [*theta, *state]), collect_losses=True) as scope:
            outputs = self.student_outputs(x, training=True)
            losses = [ops.sum(ops.cast(loss, keras.config.floatx())) for loss in student.losses]
        new_state = [scope.get_current_value(variable) for variable in self._state]
        return outputs, sum(losses) if losses else None, new_state

    def cotangents(self, weights: Tensor, forward: Forward) -> tuple[Tensor, None]:
        """The factor of every loss in the (scaled) batch loss (line 7); the virtual step leaves out the penalty."""
        scale = loss_scale(self.optimizer)
        return scale * forward.mean_weight[:, None] * ops.cast(weights, forward.mean_weight.dtype), None

    def regularized(self, gradient: list[Tensor], step: VirtualStep) -> list[Tensor]:
        """Add the gradient of the student's own losses (regularisers), which belong to the real step alone."""
        _, penalty = step.outputs
        if penalty is None:
            return gradient
        scale = ops.ones_like(penalty) * loss_scale(self.optimizer) / num_replicas()
        return [g + p for g, p in zip(gradient, step.pullback((None, scale)))]

    def keep_state(self, forward: Forward) -> None:
        """Keep the state that the real student's forward pass has updated, such as moving averages."""
        for variable, value in zip(self._state, forward.state):
            variable.assign(value)

    @property
    def _state(self) -> list[keras.Variable]:
        """What a forward pass of the student may update, metrics inside its layers included."""
        return [*self.student.non_trainable_variables, *self.student.metrics_variables]

    def _meta_losses(self, labels: Tensor, teacher_logits: Tensor | None, logits: Tensor) -> Tensor:
        if self.meta_loss == "hard":
            return hard_loss(labels, logits)
        soft = soft_loss(teacher_logits, logits, self.temperature)
        return soft if self.meta_loss == "soft" else hard_loss(labels, logits) + soft


def unpacked(batch: Batch) -> tuple[Any, Tensor, Tensor | None, Tensor | None]:
    """Inputs, labels, logits of the teacher and sample weights of a batch.

    Logits and weights may be missing (`None`). The weights, which may come in a column, have the shape `(batch,)`.
    """
    x, target, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    sample_weight = weights_of_labels(sample_weight)
    return x, *labels_and_logits(target), None if sample_weight is None else ops.reshape(sample_weight, (-1,))


def _mean_weight(losses: Tensor, sample_weight: Tensor | None) -> Tensor:
    """`1 / batch` for each sample, times its sample weight; `batch` counts the samples on all replicas."""
    ones = ops.ones_like(losses)
    (batch,) = all_reduce_sum([ops.sum(ones)])
    return ones / batch if sample_weight is None else ops.cast(sample_weight, ones.dtype) / batch
