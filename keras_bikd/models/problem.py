"""The two networks of a distillation, and the two levels of Algorithm 1 as functions of the student's parameters."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
from keras import ops, tree

from keras_bikd import checks
from keras_bikd.backend import agreed, all_reduce_sum, no_gradients, num_replicas, snapshot
from keras_bikd.batches.adapters import first_rows
from keras_bikd.bilevel.hypergradient import Difference, VirtualStep, one_step_hypergradient
from keras_bikd.bilevel.optimizer import loss_scale
from keras_bikd.losses import class_logits, hard_loss, soft_loss
from keras_bikd.objectives.base import LayerNames, Outputs, layers_of, loss_of
from keras_bikd.objectives.layers import tapped
from keras_bikd.teachers import StoredTeacher, TeacherReference
from keras_bikd.types import Batch, Tensor, labels_and_logits, weights_of_labels

_ROWS = 8  # samples, to look at the outputs of student and teacher


class Networks:
    """A student and its teacher.

    Args:
        student: `keras.Model` that outputs logits.
        teacher: `keras.Model` for the same inputs.
        teacher_output: Which output of the teacher holds the logits, if it has several: the name of one, or a function
            of all of them.
    """

    def __init__(
        self, student: keras.Model, teacher: keras.Model, teacher_output: str | Callable[[Any], Tensor] | None
    ) -> None:
        self.student, self.teacher, self.teacher_output = student, teacher, teacher_output
        self._tapped = functools.lru_cache(maxsize=4)(tapped)  # freed with the networks

    def student_outputs(self, inputs: Any, training: bool, layers: tuple[str, ...] = ()) -> Outputs:
        """Logits of the student, and outputs of its layers with the names `layers`."""
        if not layers:
            return Outputs(self.student(inputs, training=training))
        return Outputs(*self._tapped("student", self.student, layers)(inputs, training))

    def teacher_outputs(self, inputs: Any, stored: Tensor | None = None, layers: tuple[str, ...] = ()) -> Outputs:
        """Logits of the teacher in inference mode, and outputs of its layers, detached from every gradient.

        Args:
            inputs: A batch, as the teacher takes it.
            stored: The logits, if the batch brings them; the teacher then does not run.
            layers: Names of layers of the teacher.

        Returns:
            `Outputs`, with logits of at least float32.
        """
        if layers and (stored is not None or isinstance(self.teacher, StoredTeacher)):
            raise ValueError(
                "An objective compares outputs of layers of the teacher, which therefore has to run: pass the teacher "
                "itself, and batches without stored logits. "
                f"Received: stored logits, and a loss of {', '.join(map(repr, layers))}"
            )
        if stored is not None:
            logits = ops.cast(stored, keras.backend.result_type(keras.config.floatx(), "float32"))
            return Outputs(class_logits(logits))
        with no_gradients():
            if not layers:
                return Outputs(ops.stop_gradient(class_logits(self._logits_of(self.teacher(inputs, training=False)))))
            network = self.teacher.network() if isinstance(self.teacher, TeacherReference) else self.teacher
            outputs, found = self._tapped("teacher", network, layers)(inputs, False)
            return Outputs(*tree.map_structure(ops.stop_gradient, (class_logits(self._logits_of(outputs)), found)))

    def _logits_of(self, outputs: Any) -> Any:
        """The output of the teacher that holds the logits."""
        chosen = self.teacher_output
        if chosen is None:
            return outputs
        if callable(chosen):
            return chosen(outputs)
        names = list(outputs) if isinstance(outputs, dict) else getattr(self.teacher, "output_names", [])
        if chosen not in names:
            raise ValueError(
                "`teacher_output=...` takes the name of an output of the teacher, or a function of all its outputs. "
                f"Received: teacher_output={chosen!r}; the names are {names}"
            )
        return outputs[chosen] if isinstance(outputs, dict) else tree.flatten(outputs)[names.index(chosen)]

    def count_classes(self, inputs: Any, stored: Tensor | None = None, layers: LayerNames | None = None) -> int:
        """Number of classes of both networks, from a batch; raise if they do not fit each other.

        Args:
            inputs: A batch.
            stored: Logits of the teacher for it, if the teacher does not run.
            layers: The layers that they must have, if any.
        """
        rows = first_rows(inputs, _ROWS)
        student = checks.classes_of("student", self.student, self.student(rows, training=False))
        if stored is None:
            logits = self._logits_of(self.teacher(rows, training=False))
        else:
            logits = checks.finite_logits(stored)[:_ROWS]
        teacher = checks.classes_of("teacher", self.teacher, logits)
        if student != teacher:
            source = "a teacher" if stored is None else "`teacher_logits`"
            raise ValueError(
                "Teacher and student must have the same classes. "
                f"Received: {source} with {teacher} outputs and a student with {student}."
            )
        if layers is not None and any(layers):
            self.student_outputs(rows, False, layers.student)
            self.teacher_outputs(rows, stored, layers.teacher)
        return student

    def require_own_variables(self) -> None:
        """Raise if training the student would change the teacher."""
        taught = {id(variable) for variable in self.teacher.variables}
        shared = [variable.path for variable in self.student.trainable_variables if id(variable) in taught]
        if shared:
            raise ValueError(
                "Training the student would change the teacher: they share variables. Give one of them layers of its "
                "own (`keras.models.clone_model` and `set_weights`), or freeze the shared ones. "
                f"Received: {len(shared)} shared variables, {', '.join(shared[:3])}{', ...' if len(shared) > 3 else ''}"
            )


class Forward(NamedTuple):
    """Results of the student's forward pass on a training batch, other than the losses.

    Attributes:
        outputs: Of the student: its logits, `(batch, classes)`, and what else the losses compare.
        features: `(batch, 2)`, what the weight network sees: cross-entropy of the teacher, then of the student.
        labels: Labels, as they were given.
        mean_weight: `(batch,)`, sample weight / size of the global batch.
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
        networks: Student and teacher.
        candidate_losses: Dict of name to objective: the losses that are weighed.
        meta_loss: `"hard"`, `"soft"` or `"mixed"`.
        temperature: Temperature of the soft meta loss.
        optimizer: Optimizer of the student. Its loss scale multiplies the gradients of the lower level.
        meta_optimizer: Optimizer of the weights. Its loss scale multiplies the meta loss inside the virtual step.
    """

    networks: Networks
    candidate_losses: Mapping[str, Callable[..., Tensor]]
    meta_loss: str
    temperature: float
    optimizer: keras.optimizers.Optimizer
    meta_optimizer: keras.optimizers.Optimizer

    def virtual_step(
        self,
        batch: Batch,
        meta_batch: Batch,
        weigh: Callable[[list[Tensor], "Forward"], Tensor],
        phi: list[Tensor],
        learning_rate: Tensor,
        *,
        moved: list[int] | None = None,
        by_difference: bool = False,
    ) -> VirtualStep:
        """One step of a virtual student and its hypergradient (lines 5-11). Changes no state.

        Loss scales stay inside: the losses of both levels carry those of their optimizers, and the learning rate makes
        up for the first. The meta loss and the hypergradient that are returned have none; a `gradient` of the student
        has that of its optimizer, which expects it.

        Args:
            batch: Training batch.
            meta_batch: Meta batch.
            weigh: Maps `(phi, Forward)` to the weights of the sample losses, `(batch, losses)`.
            phi: List of tensors.
            learning_rate: Step size of the virtual step.
            moved: As in `one_step_hypergradient`.
            by_difference: Whether a difference takes the place of second derivatives.
        """
        lower_level, meta_scale = self.lower_level(batch), loss_scale(self.meta_optimizer)
        step = one_step_hypergradient(
            lower_level.at,
            lambda phi, forward: self.batch_weights(weigh(phi, forward), forward),
            self.upper_loss(meta_batch, meta_scale),
            theta=snapshot(self.networks.student.trainable_variables),
            phi=phi,
            learning_rate=learning_rate / loss_scale(self.optimizer),
            moved=moved,
            difference=lower_level.difference if by_difference else None,
        )
        hypergradient = [gradient / meta_scale for gradient in step.hypergradient]
        return step._replace(meta_loss=step.meta_loss / meta_scale, hypergradient=hypergradient)

    def lower_level(self, batch: Batch) -> LowerLevel:
        """The losses of every training sample as functions of `theta` (lines 5-7)."""
        x, labels, stored, sample_weight = unpacked(batch)
        names = layers_of(self.candidate_losses.values())
        teacher = self.networks.teacher_outputs(x, stored, names.teacher)
        teacher_losses = hard_loss(labels, teacher.logits)
        state = snapshot(self._state)

        def losses_of(outputs: list[Tensor]) -> Tensor:
            student = Outputs(class_logits(outputs[0]), dict(zip(names.student, outputs[1:])))
            return ops.stack(
                [loss_of(loss, labels, teacher, student) for loss in self.candidate_losses.values()], axis=-1
            )

        def listed(outputs: Outputs) -> list[Tensor]:
            return [outputs.logits, *(outputs.layers[name] for name in names.student)]

        def at(theta: list[Tensor]) -> tuple[tuple[Tensor, ...], Forward]:
            outputs, penalty, new_state = self.student_at(theta, state, x, names.student)
            hard = hard_loss(labels, outputs.logits)
            features = ops.stack([ops.cast(teacher_losses, hard.dtype), hard], axis=-1)
            forward = Forward(outputs, features, labels, _mean_weight(hard, sample_weight), new_state)
            return (losses_of(listed(outputs)), penalty), forward

        difference = Difference(
            network=lambda theta: listed(self.student_at(theta, state, x, names.student)[0]),
            losses_of=lambda outputs: (losses_of(outputs), None),
            outputs_of=lambda forward: listed(forward.outputs),
            compute_dtype=self.networks.student.compute_dtype,
        )
        return LowerLevel(at, difference)

    def upper_loss(self, meta_batch: Batch, scale: Tensor) -> Callable[[list[Tensor]], Tensor]:
        """The mean loss on the meta batch times `scale`, as a function of `theta'` (lines 9-10)."""
        x, labels, stored, sample_weight = unpacked(meta_batch)
        teacher_logits = None if self.meta_loss == "hard" else self.networks.teacher_outputs(x, stored).logits
        state = snapshot(self._state)

        def upper_loss(theta: list[Tensor]) -> Tensor:
            # The meta batch has its own batch statistics; its updates of the state are discarded.
            outputs, _, _ = self.student_at(theta, state, x)
            hard = [] if self.meta_loss == "soft" else [hard_loss(labels, outputs.logits)]
            soft = [] if teacher_logits is None else [soft_loss(teacher_logits, outputs.logits, self.temperature)]
            losses = sum(hard + soft)
            return scale * ops.sum(_mean_weight(losses, sample_weight) * losses)

        return upper_loss

    def student_at(
        self, theta: list[Tensor], state: list[Tensor], x: Any, layers: tuple[str, ...] = ()
    ) -> tuple[Outputs, Tensor | None, list[Tensor]]:
        """The student in training mode as a pure function of its variables: `(outputs, penalty, new_state)`."""
        student = self.networks.student
        variables = [*student.trainable_variables, *self._state]
        with keras.StatelessScope(state_mapping=zip(variables, [*theta, *state]), collect_losses=True) as scope:
            outputs = self.networks.student_outputs(x, True, layers)
            losses = [ops.sum(ops.cast(loss, keras.config.floatx())) for loss in student.losses]
        new_state = [scope.get_current_value(variable) for variable in self._state]
        return outputs, sum(losses) if losses else None, new_state

    def batch_weights(self, weights: Tensor, forward: Forward) -> tuple[Tensor, None]:
        """d(batch loss)/d(sample losses): weight x `mean_weight` x loss scale (line 7).

        Regularisers enter the real step only, so they have no weight here.
        """
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
        """Keep what the real student's forward pass has updated, such as moving averages; the mean over processes."""
        for variable, value in zip(self._state, agreed(forward.state)):
            variable.assign(value)

    @property
    def _state(self) -> list[keras.Variable]:
        """What a forward pass of the student may update, metrics inside its layers included."""
        return [*self.networks.student.non_trainable_variables, *self.networks.student.metrics_variables]


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
