"""`BiKDModel`: Algorithm 1 of the paper as the `train_step` of a Keras model."""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops, tree

from keras_bikd import checks
from keras_bikd.backend import BackendModel, all_reduce_sum, compiled, num_replicas, scope_of, values
from keras_bikd.bilevel_optimizer import BilevelOptimizer
from keras_bikd.data.pairing import check_labels, is_pair, label_errors, pair_for_fit, require_pair
from keras_bikd.hypergradient import one_step_hypergradient
from keras_bikd.losses import hard_loss, soft_loss
from keras_bikd.meta_weight_net import MetaWeightNet
from keras_bikd.teacher_student import TeacherStudentModel


@keras.saving.register_keras_serializable(package="keras_bikd")
class BiKDModel(TeacherStudentModel, BackendModel):
    """A student that learns from labels and a biased teacher, each sample with its own two weights.

    A small network weighs the hard loss (labels) and the soft loss (teacher) of every sample. It is trained so
    that a student which follows its weights for one step does well on a small balanced meta set. To the outside
    the model is its student; `model.student.save(...)` stores the student alone.

    Args:
        student: `keras.Model` that outputs logits.
        teacher: `keras.Model` that outputs logits for the same inputs and classes. It runs in inference mode
            and is left as found.
        weight_net: `MetaWeightNet`; by default two hidden layers of 64.
        temperature: Positive number, temperature of the soft loss.
        inner_steps: Number of batches between two updates of the weight network; the hypergradients of these
            batches are summed. It runs on over epochs.
        meta_loss: What the virtual student is judged by on the meta batch: `"hard"` (the paper), `"soft"`, or
            `"mixed"` (their sum).
        **kwargs: Keras model arguments (`name`, ...).

    Raises:
        ValueError: If an argument is out of range.

    Example:
    >>> import keras, numpy as np
    >>> x, y = np.random.normal(size=(32, 8)).astype("float32"), np.arange(32) % 4
    >>> student = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> teacher = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> model = BiKDModel(student, teacher, temperature=4.0, inner_steps=2)
    >>> model.compile(optimizer=keras.optimizers.SGD(0.1), metrics=["accuracy"])
    >>> history = model.fit(x, y, meta_data=(x[:8], y[:8]), batch_size=8, verbose=0)
    >>> sorted(history.history)
    ['accuracy', 'hard_weight', 'loss', 'meta_loss', 'soft_weight']

    Reference: arXiv 2605.17839, section 3 and Algorithm 1.
    """

    def __init__(
        self, student, teacher, weight_net=None, *, temperature=4.0, inner_steps=5, meta_loss="hard", **kwargs
    ):
        super().__init__(student, teacher, **kwargs)
        self.weight_net = weight_net or MetaWeightNet()
        self.temperature = checks.positive_number("BiKDModel", "temperature", temperature)
        self.inner_steps = checks.positive_integer("BiKDModel", "inner_steps", inner_steps)
        self.meta_loss = checks.one_of("BiKDModel", "meta_loss", meta_loss, ("hard", "soft", "mixed"))
        self.meta_loss_tracker = keras.metrics.Mean(name="meta_loss")
        self.weight_trackers = [keras.metrics.Mean(name=f"{name}_weight") for name in ("hard", "soft")]
        self.training_samples = None  # batches for callbacks to look at, while `fit` runs
        self.num_classes = None  # known once the student has been run
        self._observe = None  # `_observe_batch` as a graph, once it has been asked for
        self._prepared = False

    @property
    def meta_optimizer(self):
        """The optimizer of the weight network."""
        return self.optimizer.meta_optimizer

    def compile(self, optimizer, meta_optimizer=None, loss=None, metrics=None, **kwargs):
        """Configure both levels of the training.

        Args:
            optimizer: Optimizer of the student. Its current learning rate is also the virtual step's.
            meta_optimizer: Optimizer of the weight network; by default `Adam(1e-3)`.
            loss: What `evaluate` reports as `loss`, from labels and logits; by default the hard loss. Training
                minimises the weighted losses of BiKD whatever is given here.
            metrics: Keras metrics of labels and logits, such as `["accuracy"]`.
            **kwargs: Further arguments of `keras.Model.compile` (`jit_compile`, `steps_per_execution`, ...).
        """
        if not isinstance(optimizer, BilevelOptimizer):
            inner = keras.optimizers.get(optimizer)
            meta = keras.optimizers.get(meta_optimizer or keras.optimizers.Adam(1e-3))
            # Float16 compute needs a loss scale on both levels. Keras would wrap only the outermost optimizer.
            wraps = [
                keras.optimizers.LossScaleOptimizer(o)
                if self.student.compute_dtype == "float16" and not isinstance(o, keras.optimizers.LossScaleOptimizer)
                else o
                for o in (inner, meta)
            ]
            optimizer = BilevelOptimizer(*wraps)
        super().compile(optimizer=optimizer, loss=loss or hard_loss, metrics=metrics, auto_scale_loss=False, **kwargs)
        # Keras keeps the resolved flag: a model saved on a CPU would never use XLA on a GPU again.
        self._compile_config.config["jit_compile"] = kwargs.get("jit_compile", "auto")
        self._prepared = False
        if self.student.built:
            self._build_optimizer()

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))

    def fit(self, x, y=None, *, meta_data=None, batch_size=None, shuffle=True, **kwargs):
        """Train the student and the weight network together.

        Args:
            x: Training data: a `tf.data.Dataset` of `(x, y)` batches, a `keras.utils.PyDataset`, or arrays
                together with `y`. A third element per batch is taken as sample weights. A ready-paired data set
                of `((x, y), (meta_x, meta_y))`, as from `keras_bikd.data.pair`, needs no `meta_data`.
            y: Labels, if `x` is an array: integers or one-hot.
            meta_data: Small class-balanced set, disjoint from the training and the test data, in one of the same
                forms. It is repeated and reshuffled for as long as training lasts.
            batch_size: Batch size for arrays; by default 32.
            shuffle: Whether arrays are shuffled anew in every epoch.
            **kwargs: Further arguments of `keras.Model.fit` (`epochs`, `validation_data`, `callbacks`, ...).

        Returns:
            A `keras.callbacks.History`.

        Raises:
            ValueError: If the data cannot be what the model needs; before the first step.
        """
        self._assert_compile_called("fit")
        pairs, self.training_samples, example = pair_for_fit(
            x, y, meta_data, batch_size=batch_size, shuffle=shuffle, fit_arguments=kwargs
        )
        self._prepare(*example)
        try:
            with label_errors():
                return super().fit(check_labels(pairs, self.num_classes), shuffle=False, **kwargs)
        finally:
            self.training_samples = None

    def train_on_batch(self, x, y=None, **kwargs):
        """Take one step on the pair `x = (x, y)`, `y = (meta_x, meta_y)`; see `keras.Model.train_on_batch`."""
        self._assert_compile_called("train_on_batch")
        if not self._prepared:
            self._prepare(x, y)
        return super().train_on_batch(x, y, **kwargs)

    def bilevel_step(self, batch, meta_batch):
        """Algorithm 1 for one training batch. Returns the logs."""
        # Lower level, virtual: one plain step under the current weights, judged on the meta batch (lines 5-11).
        step = self._virtual_step(batch, meta_batch)

        # Upper level: phi moves on the sum of `inner_steps` hypergradients (lines 11-16).
        due = self.optimizer.accumulate(step.hypergradient, self.inner_steps)
        self.optimizer.update_meta(due)

        # Lower level, real: the same forward pass under the refreshed weights (lines 17-18). The weights differ from
        # the virtual step's only where phi has just moved; everywhere else its gradient is the real one.
        weights = self._weights(values(self.weight_net.trainable_variables), step.aux)
        gradient = ops.cond(due, lambda: step.pullback(self._cotangents(weights, step.aux)), lambda: step.gradient)
        self.optimizer.update_student(self._regularized(gradient, step), self.student.trainable_variables)
        for variable, value in zip(self.student.non_trainable_variables, step.aux.state):
            variable.assign(value)

        return self._logs(batch, meta_batch, step, weights)

    def hypergradient(self, batch, meta_batch):
        """Meta loss and hypergradient for one pair of batches. Changes no state.

        Args:
            batch: Training batch `(x, y)` or `(x, y, sample_weight)`.
            meta_batch: Meta batch, likewise.

        Returns:
            `(meta_loss, gradients)`: a scalar, and one tensor per variable of `weight_net.trainable_variables`.
        """
        self._assert_compile_called("hypergradient")
        if not self._prepared:
            self._prepare(batch, meta_batch)
        step = self._virtual_step(batch, meta_batch)
        scale = _loss_scale(self.meta_optimizer)
        return step.meta_loss / scale, [gradient / scale for gradient in step.hypergradient]

    def sample_weights(self, batches):
        """Losses and weights of samples as the weight network sees them, with the student in inference mode.

        Args:
            batches: Iterable of `(x, y)`.

        Returns:
            `SampleWeights` of NumPy arrays, one row per sample.
        """
        self._observe = self._observe or compiled(self._observe_batch)
        rows = []
        for batch in batches:
            # A ready-paired data set yields ((x, y), (meta_x, meta_y)).
            x, labels = batch[0][:2] if is_pair(batch) else batch[:2]
            observed = self._observe(tree.map_structure(ops.convert_to_tensor, x), ops.convert_to_tensor(labels))
            rows.append([ops.convert_to_numpy(part) for part in (labels, *observed)])
        return SampleWeights(*(np.concatenate(column) for column in zip(*rows)))

    def _observe_batch(self, x, labels):
        teacher = hard_loss(labels, self.teacher_logits(x))
        student = hard_loss(labels, self.student(x, training=False))
        return teacher, student, self.weight_net(ops.stack([teacher, student], axis=-1))

    def _virtual_step(self, batch, meta_batch):
        return one_step_hypergradient(
            self._inner(batch),
            lambda phi, forward: self._cotangents(self._weights(phi, forward), forward),
            self._outer_loss(meta_batch),
            theta=values(self.student.trainable_variables),
            phi=values(self.weight_net.trainable_variables),
            # The cotangents carry the loss scale of the student's optimizer; the virtual step must not.
            learning_rate=self.optimizer.learning_rate / _loss_scale(self.optimizer.inner_optimizer),
        )

    def _inner(self, batch):
        """The losses of every training sample, shape `(batch, losses)`, as a function of `theta` (lines 5-7)."""
        x, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        teacher_logits = self.teacher_logits(x)
        teacher_losses = hard_loss(labels, teacher_logits)
        state = values(self.student.non_trainable_variables)

        def inner(theta):
            logits, penalty, new_state = self._student_at(theta, state, x)
            hard = hard_loss(labels, logits)
            soft = soft_loss(teacher_logits, logits, self.temperature)
            features = ops.stack([ops.cast(teacher_losses, hard.dtype), hard], axis=-1)
            forward = Forward(logits, features, _share_of_mean(hard, sample_weight), new_state)
            return (ops.stack([hard, soft], axis=-1), penalty), forward

        return inner

    def _outer_loss(self, meta_batch):
        """The (scaled) mean loss on the meta batch, as a function of `theta'` (lines 9-10)."""
        x, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(meta_batch)
        teacher_logits = None if self.meta_loss == "hard" else self.teacher_logits(x)
        state = values(self.student.non_trainable_variables)

        def outer_loss(theta):
            # The meta batch has batch statistics of its own; its updates of the state are thrown away.
            logits, _, _ = self._student_at(theta, state, x)
            losses = self._meta_losses(labels, teacher_logits, logits)
            return _loss_scale(self.meta_optimizer) * ops.sum(_share_of_mean(losses, sample_weight) * losses)

        return outer_loss

    def _student_at(self, theta, state, x):
        """The student in training mode as a pure function of its variables: `(logits, penalty, new_state)`."""
        student = self.student
        variables = [*student.trainable_variables, *student.non_trainable_variables]
        with keras.StatelessScope(state_mapping=zip(variables, [*theta, *state])) as scope:
            logits = student(x, training=True)
            losses = student.losses
        new_state = [scope.get_current_value(variable) for variable in student.non_trainable_variables]
        return logits, sum(losses) if losses else None, new_state

    def _weights(self, phi, forward):
        """Weights of the losses of every sample, shape `(batch, losses)` (lines 6 and 17)."""
        state = values(self.weight_net.non_trainable_variables)
        weights, _ = self.weight_net.stateless_call(phi, state, forward.features)
        return weights

    def _cotangents(self, weights, forward):
        """What every loss counts in the batch loss (line 7), scaled; the virtual step leaves out the penalty."""
        scale = _loss_scale(self.optimizer.inner_optimizer)
        return scale * forward.share[:, None] * ops.cast(weights, forward.share.dtype), None

    def _meta_losses(self, labels, teacher_logits, logits):
        if self.meta_loss == "hard":
            return hard_loss(labels, logits)
        soft = soft_loss(teacher_logits, logits, self.temperature)
        return soft if self.meta_loss == "soft" else hard_loss(labels, logits) + soft

    def _regularized(self, gradient, step):
        """Add the gradient of the student's own losses (regularisers), which belong to the real step alone."""
        _, penalty = step.outputs
        if penalty is None:
            return gradient
        scale = ops.ones_like(penalty) * _loss_scale(self.optimizer.inner_optimizer) / num_replicas()
        return [g + p for g, p in zip(gradient, step.pullback((None, scale)))]

    def _logs(self, batch, meta_batch, step, weights):
        x, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        losses, penalty = step.outputs
        loss = ops.sum(ops.cast(weights, losses.dtype) * losses, axis=-1)
        loss = loss if sample_weight is None else loss * ops.cast(sample_weight, loss.dtype)
        self._loss_tracker.update_state(loss if penalty is None else loss + penalty)
        for i, tracker in enumerate(self.weight_trackers):
            tracker.update_state(weights[:, i])
        meta_loss = step.meta_loss * num_replicas() / _loss_scale(self.meta_optimizer)
        self.meta_loss_tracker.update_state(meta_loss, sample_weight=ops.shape(meta_batch[1])[0])
        return self.compute_metrics(x, labels, step.aux.logits, sample_weight=sample_weight)

    def test_step(self, data):
        logs = super().test_step(data)
        train_only = {tracker.name for tracker in (self.meta_loss_tracker, *self.weight_trackers)}
        return {name: value for name, value in logs.items() if name not in train_only}

    def _prepare(self, batch, meta_batch):
        """Check the first batches, and create all that training needs, before the first step."""
        require_pair((batch, meta_batch))
        checks.batched("training", batch[1])
        with scope_of(self):
            student_logits = checks.logits_of("student", self.student, batch[0])
            teacher_logits = checks.logits_of("teacher", self.teacher, batch[0])
            self.num_classes = classes = student_logits.shape[-1]
            if teacher_logits.shape[-1] != classes:
                raise ValueError(
                    "Teacher and student must know the same classes. "
                    f"Received: a teacher with {teacher_logits.shape[-1]} outputs and a student with {classes}."
                )
            checks.same_structure(batch[0], meta_batch[0])
            checks.labels_match("training", batch[1], classes)
            checks.labels_match("meta", meta_batch[1], classes)
            self.built = True
            self._build_optimizer()
            # Creates the user's metrics. Private, but `fit` under a strategy would do it with the pair, and fail.
            self._symbolic_build(data_batch=(batch[0], batch[1][: len(tree.flatten(batch[0])[0])]))
        self._prepared = True

    def _build_optimizer(self):
        self.optimizer.build(self.student.trainable_variables, self.weight_net.trainable_variables)

    def get_config(self):
        return {
            **super().get_config(),
            "weight_net": keras.saving.serialize_keras_object(self.weight_net),
            "temperature": self.temperature,
            "inner_steps": self.inner_steps,
            "meta_loss": self.meta_loss,
        }


class SampleWeights(NamedTuple):
    """What the weight network makes of samples, as NumPy arrays.

    Attributes:
        labels: Labels, as they were given.
        teacher_losses: Cross-entropy of the teacher, `(samples,)`.
        student_losses: Cross-entropy of the student, `(samples,)`.
        weights: `(samples, 2)`, weight of the hard loss, then of the soft loss.
    """

    labels: Any
    teacher_losses: Any
    student_losses: Any
    weights: Any


class Forward(NamedTuple):
    """What the forward pass of the student on the training batch leaves behind, beside the losses.

    Attributes:
        logits: `(batch, classes)`.
        features: `(batch, 2)`, what the weight network sees: cross-entropy of the teacher, then of the student.
        share: `(batch,)`, the part of each sample in the mean over the global batch.
        state: New values of the student's non-trainable variables.
    """

    logits: Any
    features: Any
    share: Any
    state: list


def _loss_scale(optimizer):
    return optimizer.scale_loss(1.0)


def _share_of_mean(losses, sample_weight):
    """`1 / batch` for each sample, times its sample weight; `batch` counts the samples on all replicas."""
    ones = ops.ones_like(losses)
    (batch,) = all_reduce_sum([ops.sum(ones)])
    return ones / batch if sample_weight is None else ops.cast(sample_weight, ones.dtype) / batch
