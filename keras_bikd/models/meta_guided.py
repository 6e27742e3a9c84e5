"""Base of BiKD and RW-KD: Keras models whose samples are weighted by what helps on a small balanced meta set."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops, tree

from keras_bikd import checks
from keras_bikd.backend import num_replicas, variable_scope
from keras_bikd.batches.adapters import first_rows
from keras_bikd.batches.fit_arguments import checked, meta_set, training_set, weight_per_class
from keras_bikd.batches.pairs import is_pair, pair, require_pair
from keras_bikd.bilevel.hypergradient import VirtualStep
from keras_bikd.keras_private import create_metrics, loss_tracker
from keras_bikd.models.problem import Problem, unpacked
from keras_bikd.models.teacher_student import TeacherStudentModel
from keras_bikd.models.weight_warnings import MetaLossWarning
from keras_bikd.objectives import BalancedSoftmax, CrossEntropy, SoftTargets
from keras_bikd.objectives.base import layers_of
from keras_bikd.teachers import StoredTeacher
from keras_bikd.types import Batch, Counts, Logs, Teacher, Tensor


class MetaGuidedModel(TeacherStudentModel):
    """Base of `BiKDModel` and `RWKDModel`: the Keras life cycle of a model that is trained on pairs of batches.

    Subclasses define `train_step`, `student_optimizer` and `meta_optimizer`.

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
    WARNINGS: type[keras.callbacks.Callback] = MetaLossWarning

    def __init__(
        self,
        student: keras.Model,
        teacher: Teacher,
        *,
        temperature: float = 4.0,
        meta_loss: str = "hard",
        class_counts: Counts | None = None,
        candidate_losses: dict[str, Callable[..., Tensor]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(student, teacher, **kwargs)
        owner = type(self).__name__
        self._temperature = checks.number(owner, "temperature", temperature, above=0)
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
            meta_data: Small class-balanced set, disjoint from the training and the test data, of any of these
                kinds, with arrays as a tuple `(x, y)`. It is repeated and reshuffled for as long as training lasts.
            meta_batch_size: Batch size of the meta set, if it is arrays; by default `batch_size`. A quarter of it
                makes a step cheaper.
            shuffle: Whether arrays are reshuffled in every epoch.
            **kwargs: Further arguments of `keras.Model.fit` (`callbacks`, `validation_data`, `steps_per_epoch`, ...).

        Returns:
            A `keras.callbacks.History`.

        Raises:
            ValueError: If the data do not fit the model; before the first step.
        """
        self._begin_fit(*self.candidate_losses.values())
        given = {**kwargs, "batch_size": batch_size}
        train = training_set(x, y, given, shuffle=shuffle)
        batch, pairs = train.example(), train.batches
        meta_batch: Any = None
        if meta_data is not None:
            meta = meta_set(meta_data, batch_size, meta_batch_size, shuffle)
            pairs, meta_batch = pair(train.batches, meta.batches), meta.example()
        class_weight = given.pop("class_weight", None)
        self._prepare(*require_pair(batch, meta_batch, class_weight))
        if meta_data is not None and meta.labels is not None:
            checks.warn_of_unbalanced_classes(meta.labels, self.num_classes)
        if class_weight is not None:
            class_weight = weight_per_class(class_weight, self.num_classes)
        pairs = checked(pairs, self.num_classes, class_weight=class_weight)
        if given.get("validation_data") is not None:
            given["validation_data"] = checked(given["validation_data"], self.num_classes, ("validation",))
        callbacks = tree.flatten(given.pop("callbacks", None) or [])
        self.training_samples = train.in_order
        try:
            return super().fit(
                pairs, epochs=epochs, verbose=verbose, callbacks=[*callbacks, self.WARNINGS()], shuffle=False, **given
            )
        finally:
            self.training_samples = None

    def train_on_batch(
        self, x: Batch, y: Any = None, sample_weight: None = None, class_weight: None = None, return_dict: bool = False
    ) -> Any:
        """Take one step on the pair `x = (x, y)`, `y = (meta_x, meta_y)`; see `keras.Model.train_on_batch`.

        Sample weights are the third elements of the two batches.
        """
        if not self.compiled:
            raise ValueError("Call `compile(...)` before `train_on_batch`. Received: a model that is not compiled.")
        if sample_weight is not None or class_weight is not None or not is_pair((x, y)):
            raise ValueError(
                "`train_on_batch` takes a training batch and a meta batch, `train_on_batch((x, y), (meta_x, meta_y))`, "
                "each with its sample weights, if any, as a third element. Received: "
                + ", ".join(type(given).__name__ for given in (x, y, sample_weight, class_weight) if given is not None)
            )
        if not self._prepared:
            self._prepare(x, y)
        return super().train_on_batch(x, y, return_dict=return_dict)

    def _prepare(self, batch: Batch, meta_batch: Batch) -> None:
        """Check the first batches, and create all that training needs, before the first step."""
        self.problem = Problem(
            networks=self.networks,
            candidate_losses=self.candidate_losses,
            meta_loss=self.meta_loss,
            temperature=self.temperature,
            optimizer=self.student_optimizer,
            meta_optimizer=self.meta_optimizer,
        )
        checks.batched("training", batch[1])
        x, labels, logits, _ = unpacked(batch)
        meta_x, _, meta_logits, _ = unpacked(meta_batch)
        with variable_scope(self):
            layers = layers_of(self.candidate_losses.values())
            self.num_classes = classes = self.networks.count_classes(x, logits, layers)
            checks.same_structure(x, meta_x, lambda inputs: self.student(first_rows(inputs, 1)))
            if meta_logits is not None or (
                self.problem.meta_loss != "hard" and isinstance(self.teacher, StoredTeacher)
            ):
                self.networks.count_classes(meta_x, meta_logits)
            self.networks.require_own_variables()
            checks.labels_match("training", batch[1], classes)
            checks.labels_match("meta", meta_batch[1], classes)
            self.built = True
            if not self.optimizer.built:
                self._build_optimizer()
            labels = ops.convert_to_numpy(labels)
            create_metrics(self, data_batch=(x, labels[: tree.flatten(x)[0].shape[0]]))
        self._prepared = True

    # A layer that is never called would make Keras try its step on a pair.
    def _symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        if not self._prepared:
            super()._symbolic_build(iterator=iterator, data_batch=data_batch)

    def _build_optimizer(self) -> None:
        self.optimizer.build(self.student.trainable_variables)

    def _logs(self, batch: Batch, meta_batch: Batch, step: VirtualStep, weights: Tensor) -> Logs:
        x, labels, _, sample_weight = unpacked(batch)
        losses, penalty = step.outputs
        loss = ops.sum(ops.cast(weights, losses.dtype) * losses, axis=-1)
        loss = loss if sample_weight is None else loss * ops.cast(sample_weight, loss.dtype)
        loss_tracker(self).update_state(loss if penalty is None else loss + penalty)
        for i, tracker in enumerate(self.weight_trackers):
            tracker.update_state(weights[:, i])
        self.student_loss_tracker.update_state(step.forward.features[:, 1])
        meta_loss = step.meta_loss * num_replicas()
        count = ops.cast(ops.shape(unpacked(meta_batch)[1])[0], "float32")
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
