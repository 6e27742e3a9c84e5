"""Base of BiKD and RW-KD: Keras models whose samples are weighted by what helps on a small balanced meta set."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops, tree

from keras_bikd import checks
from keras_bikd.backend import num_replicas, run_step, variable_scope
from keras_bikd.batches.adapters import first_rows, is_dataset
from keras_bikd.batches.fit_arguments import data_of_fit
from keras_bikd.batches.labels import check_class_weights, check_labels, label_errors
from keras_bikd.batches.pairs import is_pair, require_pair
from keras_bikd.batches.preprocessing import preprocessed_batch
from keras_bikd.bilevel.hypergradient import VirtualStep
from keras_bikd.models.problem import Problem, unpacked
from keras_bikd.models.teacher_student import TeacherStudentModel
from keras_bikd.models.weight_warnings import MetaLossGuard
from keras_bikd.objectives import BalancedSoftmax, CrossEntropy, SoftTargets
from keras_bikd.objectives.base import LayerNames, layers_of
from keras_bikd.teachers import StoredTeacher
from keras_bikd.types import Batch, Counts, Logs, Teacher, Tensor


class MetaGuidedModel(TeacherStudentModel):
    """Base of `BiKDModel` and `RWKDModel`: the Keras life cycle of a model that is trained on pairs of batches.

    Subclasses define `bilevel_step(batch, meta_batch)` and `student_optimizer`.

    Args:
        student: `keras.Model` that outputs logits.
        teacher: `keras.Model` that outputs logits for the same inputs and classes.
        temperature: Positive number, temperature of the soft losses.
        meta_loss: `"hard"`, `"soft"` or `"mixed"`.
        class_counts: Training samples per class, or `None`.
        candidate_losses: Dict of name to objective, or `None` for the paper's two.
        **kwargs: Keras model arguments.
    """

    ARGUMENTS = (*TeacherStudentModel.ARGUMENTS, "temperature", "meta_loss", "candidate_losses")

    def __init__(
        self,
        student: keras.Model,
        teacher: Teacher,
        *,
        temperature: float,
        meta_loss: str,
        class_counts: Counts | None,
        candidate_losses: dict[str, Callable[..., Tensor]] | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(student, teacher, **kwargs)
        owner = type(self).__name__
        self._temperature = checks.positive_number(owner, "temperature", temperature)
        self._meta_loss = checks.one_of(owner, "meta_loss", meta_loss, ("hard", "soft", "mixed"))
        self.candidate_losses = _candidates(owner, candidate_losses, class_counts, temperature)
        self.meta_loss_tracker = keras.metrics.Mean(name="meta_loss")
        self.student_loss_tracker = keras.metrics.Mean(name="student_loss")
        self.weight_trackers = [keras.metrics.Mean(name=f"{name}_weight") for name in self.candidate_losses]
        self.training_samples: Any = None  # the training batches, for callbacks, while `fit` runs
        self.num_classes = 0  # until the student has run
        self._prepared = False

    @property
    def temperature(self) -> float:
        """Temperature of the soft losses, which are made with the model: for another one make another model."""
        return self._temperature

    @property
    def meta_loss(self) -> str:
        """What the virtual student is judged by; for another loss make another model."""
        return self._meta_loss

    @property
    def layer_names(self) -> LayerNames:
        """The layers that the candidate losses compare."""
        return layers_of(self.candidate_losses.values())

    @property
    def problem(self) -> Problem:
        """The two levels that a step solves."""
        return Problem(
            student=self.student,
            student_outputs=self.student_outputs,
            teacher_outputs=self.teacher_outputs,
            teacher_logits=self.teacher_logits,
            candidate_losses=self.candidate_losses,
            meta_loss=self.meta_loss,
            temperature=self.temperature,
            optimizer=self.student_optimizer,
        )

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, metrics: Any = None, **kwargs: Any) -> None:
        if "auto_scale_loss" in kwargs:
            raise ValueError(
                f"`{type(self).__name__}.compile` takes no `auto_scale_loss`: a student that computes in float16 gets "
                "a loss scale on both levels by itself. Leave the argument out, or pass a `LossScaleOptimizer`. "
                f"Received: auto_scale_loss={kwargs['auto_scale_loss']!r}"
            )
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, auto_scale_loss=False, **kwargs)
        self._prepared = False

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        *,
        meta_data: Any = None,
        meta_batch_size: int | None = None,
        shuffle: bool = True,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Train the student, and the weights of its losses with it.

        Args:
            x: Training data of any kind that `keras.Model.fit` takes: arrays together with `y`, or what yields
                batches `(x, y)` or `(x, y, sample_weight)`, such as a `tf.data.Dataset`, a `keras.utils.PyDataset`, a
                torch `DataLoader`, a Grain data set, a generator or a list. A ready-paired data set of
                `((x, y), (meta_x, meta_y))`, as from `keras_bikd.data.pair`, needs no `meta_data`.
            y: Labels, if `x` is an array: integers or one-hot. Here, and wherever a batch is `(x, y)`, `y` may be a
                dict `{"labels": labels, "teacher_logits": logits}`; the teacher then does not run.
            batch_size: Batch size for arrays; by default 32.
            epochs: As in `keras.Model.fit`.
            verbose: As in `keras.Model.fit`.
            callbacks: As in `keras.Model.fit`.
            meta_data: Small class-balanced set, disjoint from the training and the test data, of any of these
                kinds, with arrays as a tuple `(x, y)`. It is repeated and reshuffled for as long as training lasts.
            meta_batch_size: Batch size of the meta set, if it is arrays; by default `batch_size`. A quarter of it
                makes a step cheaper.
            shuffle: Whether arrays are reshuffled in every epoch.
            **kwargs: Further arguments of `keras.Model.fit` (`validation_data`, `steps_per_epoch`, ...).

        Returns:
            A `keras.callbacks.History`.

        Raises:
            ValueError: If the data do not fit the model; before the first step.
        """
        self._begin_fit(batch_size, *self.candidate_losses.values())
        class_weight, sizes = kwargs.get("class_weight"), (batch_size, meta_batch_size)
        data = data_of_fit(
            x, y, meta_data, batch_sizes=sizes, shuffle=shuffle, prepare=self.preprocess_samples, arguments=kwargs
        )
        self._prepare(*data.example)
        check_class_weights(class_weight, self.num_classes)
        if meta_data is not None and not is_dataset(meta_data):
            checks.warn_of_unbalanced_classes(meta_data[1], self.num_classes)
        kwargs["validation_data"] = self._validation_data(kwargs, batch_size, self.num_classes)
        callbacks = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks] if callbacks else []
        self.training_samples = data.samples
        try:
            with label_errors():
                return super().fit(
                    check_labels(data.pairs, self.num_classes),
                    epochs=epochs,
                    verbose=verbose,
                    callbacks=[*callbacks, *self._own_callbacks()],
                    shuffle=False,
                    **kwargs,
                )
        finally:
            self.training_samples = None

    def train_step(self, *arguments: Any) -> Any:
        return run_step(self, self.bilevel_step, *arguments)

    def train_on_batch(
        self,
        x: Batch,
        y: Batch | None = None,
        sample_weight: None = None,
        class_weight: None = None,
        return_dict: bool = False,
    ) -> Any:
        """Take one step on the pair `x = (x, y)`, `y = (meta_x, meta_y)`; see `keras.Model.train_on_batch`.

        Sample weights are the third elements of the two batches.
        """
        self._assert_compile_called("train_on_batch")
        if sample_weight is not None or class_weight is not None or not is_pair((x, y)):
            raise ValueError(
                "`train_on_batch` takes a training batch and a meta batch, `train_on_batch((x, y), (meta_x, meta_y))`, "
                "each with its sample weights, if any, as a third element. Received: "
                + ", ".join(type(given).__name__ for given in (x, y, sample_weight, class_weight) if given is not None)
            )
        x, y = preprocessed_batch((x, y), self.preprocess_samples)
        if not self._prepared:
            self._prepare(x, y)
        return keras.Model.train_on_batch(self, x, y, return_dict=return_dict)

    def _prepare(self, batch: Batch, meta_batch: Any) -> None:
        """Check the first batches, and create all that training needs, before the first step."""
        require_pair((batch, meta_batch))
        checks.batched("training", batch[1])
        with variable_scope(self):
            x, labels, logits, _ = unpacked(batch)
            meta_x, _, meta_logits, _ = unpacked(meta_batch)
            self.num_classes = classes = self._count_classes(x, logits)
            self._check_layers(x, logits)
            checks.same_structure(x, meta_x, lambda inputs: self.student(first_rows(inputs, 1)))
            if meta_logits is not None or (self.meta_loss != "hard" and isinstance(self.teacher, StoredTeacher)):
                self._count_classes(meta_x, meta_logits)
            checks.labels_match("training", batch[1], classes)
            checks.labels_match("meta", meta_batch[1], classes)
            self.built = True
            self._build_optimizer()
            # Creates the user's metrics. Private, but `fit` under a strategy would do it with the pair, and fail.
            labels = ops.convert_to_numpy(labels)
            super()._symbolic_build(data_batch=(x, labels[: tree.flatten(x)[0].shape[0]]))
        self._prepared = True

    def _symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        if not self._prepared:  # a layer that is never called, such as a preprocessor, would make Keras try a pair
            super()._symbolic_build(iterator=iterator, data_batch=data_batch)

    def _build_optimizer(self) -> None:
        self.optimizer.build(self.student.trainable_variables)

    def _own_callbacks(self) -> list[keras.callbacks.Callback]:
        return [MetaLossGuard()]

    def _logs(
        self,
        batch: Batch,
        meta_batch: Batch,
        step: VirtualStep,
        weights: Tensor,
        has_meta_loss: Tensor | None = None,
    ) -> Logs:
        x, labels, _, sample_weight = unpacked(batch)
        losses, penalty = step.outputs
        loss = ops.sum(ops.cast(weights, losses.dtype) * losses, axis=-1)
        loss = loss if sample_weight is None else loss * ops.cast(sample_weight, loss.dtype)
        self._loss_tracker.update_state(loss if penalty is None else loss + penalty)
        for i, tracker in enumerate(self.weight_trackers):
            tracker.update_state(weights[:, i])
        self.student_loss_tracker.update_state(step.forward.features[:, 1])
        meta_loss = step.meta_loss * num_replicas()
        count = ops.cast(ops.shape(unpacked(meta_batch)[1])[0], "float32")
        if has_meta_loss is not None:
            count = count * ops.cast(has_meta_loss, "float32")
        self.meta_loss_tracker.update_state(meta_loss, sample_weight=count)
        return super().compute_metrics(x, labels, step.forward.outputs.logits, sample_weight=sample_weight)

    def compute_metrics(self, x: Any, y: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Logs:
        """The logs of `evaluate`, which lack the means of the training."""
        logs = super().compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        trackers = (self.meta_loss_tracker, self.student_loss_tracker, *self.weight_trackers)
        return {name: value for name, value in logs.items() if name not in {tracker.name for tracker in trackers}}


def _candidates(
    owner: str,
    candidate_losses: dict[str, Callable[..., Tensor]] | None,
    class_counts: Counts | None,
    temperature: float,
) -> dict[str, Callable[..., Tensor]]:
    if candidate_losses is None:
        if class_counts is None:
            return {"hard": CrossEntropy(), "soft": SoftTargets(temperature=temperature)}
        soft = SoftTargets(temperature=temperature, class_counts=class_counts)
        return {"hard": BalancedSoftmax(class_counts=class_counts), "soft": soft}
    if class_counts is not None:
        raise ValueError(
            f"`{owner}(class_counts=...)` selects the two losses that use class counts, and "
            "`candidate_losses` names losses of your own: pass one of them. "
            f"Received: class_counts={class_counts!r} and candidate_losses={candidate_losses!r}"
        )
    if not isinstance(candidate_losses, dict) or not candidate_losses:
        raise ValueError(
            f"`{owner}(candidate_losses=...)` takes a dict of name to function (labels, teacher_logits, "
            "student_logits) -> (batch,), such as the objectives of `keras_bikd.objectives`. "
            f"Received: candidate_losses={candidate_losses!r}"
        )
    return {name: checks.objective(owner, "candidate_losses", loss) for name, loss in candidate_losses.items()}
