"""`BiKDModel`: Algorithm 1 of the paper as the `train_step` of a Keras model."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops, tree

from keras_bikd import checks
from keras_bikd.backend import cond, jit, run_step, snapshot
from keras_bikd.batches.adapters import as_batches, require_samples
from keras_bikd.batches.pairs import is_pair, require_pair
from keras_bikd.bilevel.hypergradient import VirtualStep
from keras_bikd.bilevel.optimizer import BilevelOptimizer, with_loss_scale
from keras_bikd.bilevel.weight_net import MetaWeightNet
from keras_bikd.keras_private import saved_compile_arguments
from keras_bikd.losses import hard_loss
from keras_bikd.models.meta_guided import MetaGuidedModel
from keras_bikd.models.problem import Forward
from keras_bikd.models.weight_warnings import WeightWarning
from keras_bikd.types import Batch, Logs, Teacher, Tensor, labels_and_logits


@keras.saving.register_keras_serializable(package="keras_bikd")
class BiKDModel(MetaGuidedModel):
    """A student that learns from labels and a biased teacher, each sample with its own two weights.

    A small network weighs the hard loss (labels) and the soft loss (teacher) of every sample. It is trained so
    that a student which follows its weights for one step does well on a small balanced meta set. The model acts as its
    student: `predict`, `evaluate` and `export` are the student's. `model.student.save(...)` stores the student alone.

    Args:
        student: `keras.Model` that outputs logits.
        teacher: `keras.Model` that outputs logits for the same inputs and classes, or the path of one
            (`TeacherReference`). It runs in inference mode and is never trained.
        weight_net: `MetaWeightNet` with one output per candidate loss; by default two hidden layers of 64.
        temperature: Positive number, temperature of the soft loss.
        inner_steps: Number of batches between two updates of the weight network; the hypergradients of these
            batches are summed. The count of batches is not reset between epochs.
        meta_loss: What the virtual student is judged by on the meta batch: `"hard"` (the paper), `"soft"`, or
            `"mixed"` (their sum).
        class_counts: Training samples per class. With them both losses account for the long tail: the hard one becomes
            the balanced softmax, and the teacher of the soft one is corrected by the class prior. Recommended, although
            published BiKD does without. For a teacher that was trained on other class counts than the student, pass
            `candidate_losses`, each with its own counts.
        candidate_losses: Dict of name to objective (`keras_bikd.objectives`) to weigh instead, one or more.
        **kwargs: Keras model arguments (`name`, ...).

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> import keras, numpy as np
        >>> x, y = np.random.normal(size=(32, 8)).astype("float32"), np.arange(32) % 4
        >>> student = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> teacher = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model = BiKDModel(student, teacher, temperature=4.0, inner_steps=2)
        >>> model.compile(optimizer=keras.optimizers.SGD(0.1), metrics=["accuracy"])
        >>> history = model.fit(x, y, meta_data=(x[:8], y[:8]), batch_size=8, verbose=0)
        >>> sorted(history.history)
        ['accuracy', 'hard_weight', 'loss', 'meta_loss', 'soft_weight', 'student_loss']

    Reference: arXiv 2605.17839, section 3 and Algorithm 1.
    """

    ARGUMENTS = (*MetaGuidedModel.ARGUMENTS, "weight_net", "inner_steps")
    WARNINGS = WeightWarning

    def __init__(
        self,
        student: keras.Model,
        teacher: Teacher,
        weight_net: MetaWeightNet | None = None,
        *,
        inner_steps: int = 5,
        **kwargs: Any,
    ) -> None:
        super().__init__(student, teacher, **kwargs)
        self.weight_net = MetaWeightNet(num_losses=len(self.candidate_losses)) if weight_net is None else weight_net
        if not isinstance(self.weight_net, MetaWeightNet):
            raise ValueError(
                f"`BiKDModel(weight_net=...)` takes a `MetaWeightNet`. Received: weight_net={weight_net!r}"
            )
        if self.weight_net.num_losses != len(self.candidate_losses):
            raise ValueError(
                f"`BiKDModel(weight_net=...)` needs one output per candidate loss: {', '.join(self.candidate_losses)}. "
                f"Received: a weight network with num_losses={self.weight_net.num_losses}"
            )
        self.inner_steps = inner_steps
        # Two compiled functions, created when they are first needed.
        self._observe: Callable[..., Any] | None = None
        self._differentiate: Callable[..., Any] | None = None

    @property
    def inner_steps(self) -> int:
        """Number of batches between two updates of the weight network; may be changed between two trainings."""
        return self._inner_steps

    @inner_steps.setter
    def inner_steps(self, inner_steps: int) -> None:
        self._inner_steps = checks.integer("BiKDModel", "inner_steps", inner_steps)
        self.train_function = None  # compiled for the old number

    @property
    def student_optimizer(self) -> keras.optimizers.Optimizer:
        """The optimizer of the student."""
        return self.optimizer.inner_optimizer

    @property
    def meta_optimizer(self) -> keras.optimizers.Optimizer:
        """The optimizer of the weight network."""
        return self.optimizer.meta_optimizer

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Any = None,
        *,
        meta_optimizer: Any = None,
        hypergradient: str = "exact",
        hypergradient_layers: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Configure both levels of the training.

        Args:
            optimizer: Optimizer of the student. Its current learning rate is also the virtual step's.
            loss: What `evaluate` reports as `loss`, from labels and logits; by default the hard loss. Training
                minimises the weighted losses of BiKD whatever is given here.
            metrics: Keras metrics of labels and logits, such as `["accuracy"]`.
            meta_optimizer: Optimizer of the weight network; by default `Adam(1e-3)`.
            hypergradient: `"exact"`, by second derivatives; or `"forward_difference"`, by one more forward pass of the
                student. It takes less time and memory, and students whose layers have no second derivative (cuDNN
                RNNs, fused attention, most custom gradients). Its direction agrees with the exact one to about 1e-5
                (one minus the cosine) in float32, and 1e-3 in 16-bit floats, where it takes two forward passes.
            hypergradient_layers: An approximation: number of last layers with weights that the virtual step moves.
                By default all, which is exact. With 1, a step costs little more than plain distillation. The real step
                moves all layers in any case.
            **kwargs: Further arguments of `keras.Model.compile` (`jit_compile`, `steps_per_execution`, ...).

        Raises:
            ValueError: If an argument is out of range.
        """
        checks.one_of("compile", "hypergradient", hypergradient, ("exact", "forward_difference"))
        if hypergradient_layers is not None:
            checks.integer("compile", "hypergradient_layers", hypergradient_layers)
            if hypergradient != "exact":
                raise ValueError(
                    "`compile(hypergradient_layers=...)` leaves out part of the exact hypergradient, and "
                    "`forward_difference` computes all of it without second derivatives: choose one of the two. "
                    f"Received: hypergradient_layers={hypergradient_layers!r} and hypergradient={hypergradient!r}"
                )
        self._differentiate = None  # it holds the optimizers
        self.hypergradient_form, self.hypergradient_layers = hypergradient, hypergradient_layers
        optimizer = self._bilevel_optimizer(optimizer, meta_optimizer, loss)
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)
        saved_compile_arguments(self).update(hypergradient=hypergradient, hypergradient_layers=hypergradient_layers)

    def _bilevel_optimizer(self, optimizer: Any, meta_optimizer: Any, loss: Any) -> BilevelOptimizer:
        if isinstance(loss, keras.optimizers.Optimizer):
            raise ValueError(
                "`BiKDModel.compile(optimizer, loss, metrics)` takes its arguments in the order of Keras, and the meta "
                f"optimizer as a keyword: `compile(..., meta_optimizer=...)`. Received: loss={loss!r}"
            )
        if not isinstance(optimizer, BilevelOptimizer):
            # Float16 compute needs a loss scale on both levels. Keras would wrap only the outermost optimizer.
            dtype = self.student.compute_dtype
            inner = with_loss_scale(keras.optimizers.get(optimizer), dtype)
            meta = keras.optimizers.get(meta_optimizer or keras.optimizers.Adam(1e-3))
            if optimizer is meta_optimizer and isinstance(optimizer, keras.optimizers.Optimizer):
                raise ValueError(
                    "`compile(optimizer=..., meta_optimizer=...)` takes one optimizer for each level, since both keep "
                    f"the state of their own variables. Received: {optimizer!r} for both. Create a second one."
                )
            return BilevelOptimizer(inner, with_loss_scale(meta, dtype))
        if meta_optimizer is not None:
            raise ValueError(
                "`compile(optimizer=...)` received a `BilevelOptimizer`, which holds a meta optimizer already. Leave "
                "out `meta_optimizer`, or pass the student's optimizer alone. "
                f"Received: meta_optimizer={meta_optimizer!r}"
            )
        return optimizer

    def train_step(self, *arguments: Any) -> Any:
        """Algorithm 1 for one pair of batches, as Keras calls it.

        On TensorFlow its two levels are two nested `tf.GradientTape`s. The inner one records the losses of the student,
        the outer one what follows from them and the weights: the virtual step, and the meta loss after it. See
        `keras_bikd.bilevel.one_step_hypergradient`, which is the same on every backend.
        """
        return run_step(self, self.bilevel_step, *arguments)

    def bilevel_step(self, batch: Batch, meta_batch: Batch) -> Logs:
        """Algorithm 1 for one training batch. Returns the logs."""
        # Lower level, virtual: one plain step under the current weights, evaluated on the meta batch (lines 5-11).
        step = self.virtual_step(batch, meta_batch)

        # Upper level: phi moves on the sum of `inner_steps` hypergradients (lines 11-16).
        phi_moves = self.optimizer.accumulate(step.hypergradient, self.inner_steps)
        self.optimizer.update_meta(phi_moves)

        # Lower level, real: the same forward pass under the refreshed weights (lines 17-18).
        weights = self.weigh(snapshot(self.weight_net.trainable_variables), step.forward)
        gradient = self.problem.regularized(self._real_gradient(step, weights, phi_moves), step)
        self.optimizer.update_student(gradient, self.student.trainable_variables)
        self.problem.keep_state(step.forward)

        return self._logs(batch, meta_batch, step, weights)

    def virtual_step(self, batch: Batch, meta_batch: Batch) -> VirtualStep:
        """One step of a virtual student and its hypergradient (lines 5-11). Changes no state."""
        return self.problem.virtual_step(
            batch,
            meta_batch,
            self.weigh,
            phi=snapshot(self.weight_net.trainable_variables),
            learning_rate=self.optimizer.learning_rate,
            moved=self._moved,
            by_difference=self.hypergradient_form == "forward_difference",
        )

    def weigh(self, phi: list[Tensor], forward: Forward) -> Tensor:
        """Weights of the losses of every sample, shape `(batch, losses)` (lines 6 and 17)."""
        state = snapshot(self.weight_net.non_trainable_variables)
        weights, _ = self.weight_net.stateless_call(phi, state, forward.features, forward.labels)
        return weights

    def _real_gradient(self, step: VirtualStep, weights: Tensor, phi_moves: Tensor) -> list[Tensor]:
        def refreshed() -> list[Tensor]:
            return step.pullback_later(self.problem.batch_weights(weights, step.forward))

        # The weights differ from those of the virtual step only where phi has just moved. Everywhere else the gradient
        # of the virtual step is the real one, if all of it was computed.
        return refreshed() if step.gradient is None else cond(phi_moves, refreshed, lambda: step.gradient)

    def _moved_variables(self) -> list[int] | None:
        """Indices of the variables of the last `hypergradient_layers` layers with weights; `None` for all."""
        if self.hypergradient_layers is None:
            return None
        layers = [variable.path.rpartition("/")[0] for variable in self.student.trainable_variables]
        last = list(dict.fromkeys(layers))
        if len(last) < self.hypergradient_layers:
            raise ValueError(
                "`compile(hypergradient_layers=...)` counts the layers with trainable weights, and the student has "
                f"{len(last)}. Received: hypergradient_layers={self.hypergradient_layers}"
            )
        last = last[-self.hypergradient_layers :]
        return [i for i, layer in enumerate(layers) if layer in last]

    def hypergradient(self, batch: Batch, meta_batch: Batch) -> tuple[Tensor, list[Tensor]]:
        """Meta loss and hypergradient for one pair of batches. Changes no state.

        Args:
            batch: Training batch `(x, y)` or `(x, y, sample_weight)`.
            meta_batch: Meta batch, likewise.

        Returns:
            `(meta_loss, gradients)`, a scalar, and one tensor per variable of `weight_net.trainable_variables`.
        """
        if not self.compiled:
            raise ValueError("Call `compile(...)` before `hypergradient`. Received: a model that is not compiled.")
        if not self._prepared:
            self._prepare(*require_pair(batch, meta_batch))

        def meta_loss_and_hypergradient(batch: Batch, meta_batch: Batch) -> tuple[Tensor, list[Tensor]]:
            step = self.virtual_step(batch, meta_batch)
            return step.meta_loss, step.hypergradient

        if self._differentiate is None:
            self._differentiate = jit(meta_loss_and_hypergradient, [*self.variables, *self.optimizer.variables])
        return self._differentiate(*tree.map_structure(ops.convert_to_tensor, (batch, meta_batch)))

    def sample_weights(self, data: Any) -> "SampleWeights":
        """Losses and weights of samples as the weight network sees them; the student runs in inference mode.

        Args:
            data: Arrays as a tuple `(x, y)`, or what yields batches of them, of any kind that `fit` takes.

        Returns:
            `SampleWeights` of NumPy arrays, one row per sample.

        Raises:
            ValueError: If `data` are neither.
        """
        require_samples("sample_weights(data)", data)
        observe = self._observe = self._observe or jit(self._observe_batch, self.variables)
        rows = []
        for raw in as_batches(data):
            # A ready-paired data set yields ((x, y), (meta_x, meta_y)).
            x, target, *_ = raw[0] if is_pair(raw) else raw
            labels, stored = labels_and_logits(target)
            stored = None if stored is None else ops.convert_to_tensor(stored)
            observed = observe(tree.map_structure(ops.convert_to_tensor, x), ops.convert_to_tensor(labels), stored)
            rows.append([ops.convert_to_numpy(part) for part in (labels, *observed)])
        return SampleWeights(*(np.concatenate(column) for column in zip(*rows)))

    def _observe_batch(self, x: Any, labels: Tensor, stored: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        teacher = hard_loss(labels, self.teacher_logits(x, stored))
        student = hard_loss(labels, self.student(x, training=False))
        return teacher, student, self.weight_net(ops.stack([teacher, student], axis=-1), labels)

    def _prepare(self, batch: Batch, meta_batch: Batch) -> None:
        super()._prepare(batch, meta_batch)
        self._moved = self._moved_variables()
        counts = self.weight_net.class_counts
        if counts is not None and len(counts) != self.num_classes:
            raise ValueError(
                f"`MetaWeightNet(class_counts=...)` takes one number per class, and the student has {self.num_classes} "
                f"outputs. Received: {len(counts)} numbers"
            )

    def _build_optimizer(self) -> None:
        self.optimizer.build(self.student.trainable_variables, self.weight_net.trainable_variables)


class SampleWeights(NamedTuple):
    """Losses and weights of samples, as NumPy arrays.

    Attributes:
        labels: Labels, as they were given.
        teacher_losses: Cross-entropy of the teacher, `(samples,)`.
        student_losses: Cross-entropy of the student, `(samples,)`.
        weights: `(samples, losses)`, in the order of `candidate_losses`: hard, then soft.
    """

    labels: np.ndarray
    teacher_losses: np.ndarray
    student_losses: np.ndarray
    weights: np.ndarray
