"""Schedules: of learning rates and objectives over the epochs, and of how long a teacher or an expert counts."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import ops

from keras_bikd import checks
from keras_bikd.batches.adapters import as_batches, check_length, is_dataset, require_end
from keras_bikd.losses import class_ids, class_logits
from keras_bikd.metrics import per_class_accuracy
from keras_bikd.models.bikd import BiKDModel
from keras_bikd.objectives import SoftTargets
from keras_bikd.objectives.base import log_prior
from keras_bikd.objectives.experts import ExpertsObjective, expert_weight
from keras_bikd.teachers import Experts, StoredTeacher
from keras_bikd.types import Batch, Logs, Tensor, labels_and_logits

LogitsOf: TypeAlias = Callable[[Any, Tensor | None], Tensor]
"""Returns logits for the inputs of a batch, and for the teacher's logits that come with it, if any."""


class MetaLearningRateScheduler(keras.callbacks.Callback):
    """Set the learning rate of the weight network at the start of every epoch, and log it.

    Use Keras' `LearningRateScheduler` for the learning rate of the student. The authors' code multiplies the meta
    learning rate by 0.8 at epochs 80 and 100; in the paper it is constant.

    Args:
        schedule: Function `(epoch, learning_rate) -> learning_rate`. By default the learning rate is only logged, as
            `meta_learning_rate`, and not changed.

    Examples:
        >>> callback = MetaLearningRateScheduler(
        ...     lambda epoch, rate: rate * 0.8 if epoch in (80, 100) else rate
        ... )
    """

    def __init__(self, schedule: Callable[[int, float], float] | None = None) -> None:
        super().__init__()
        self.schedule = schedule

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        if self.schedule is not None:
            optimizer = self.model.meta_optimizer
            optimizer.learning_rate = self.schedule(epoch, _number(optimizer.learning_rate))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is not None:
            logs["meta_learning_rate"] = _number(self.model.meta_optimizer.learning_rate)


def _number(learning_rate: keras.Variable) -> float:
    return float(ops.convert_to_numpy(learning_rate))  # under a strategy it has a value on every device


class DeferredObjective(keras.callbacks.Callback):
    """Switch a `DistillationModel` to another objective at some epoch: deferred re-weighting.

    BKD on CIFAR-10 distils without weights until epoch 160 of 200. A resumed run uses the objective of its epoch.
    After the training the model has its first objective again.

    Args:
        objective: The later objective.
        epoch: Number of epochs to train with the first objective.

    Examples:
        >>> from keras_bikd.objectives import BalancedKnowledgeDistillation
        >>> callback = DeferredObjective(
        ...     BalancedKnowledgeDistillation(class_counts=(100, 10)), epoch=160
        ... )

    Reference: Cao et al., arXiv 1906.07413, section 3.3; Zhang et al., arXiv 2104.10510.
    """

    def __init__(self, objective: Callable[..., Tensor], epoch: int) -> None:
        super().__init__()
        self.objective, self.epoch = objective, epoch

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._own = self.model.objective

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._use(self.objective if epoch >= self.epoch else self._own)

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._use(self._own)

    def _use(self, objective: Callable[..., Tensor]) -> None:
        if self.model.objective is not objective:
            self.model.objective = objective
            self.model.make_train_function(force=True)  # the objective is part of the compiled step


class ExpertPacing(keras.callbacks.Callback):
    """Pace the experts of LFME: an expert that the student has caught up with no longer counts.

    For a `DistillationModel` whose teacher is `Experts` and whose objective is `ExpertsObjective`. With a
    `StoredTeacher` in place of the `Experts`, both data sets need targets with `teacher_logits`. Before the training
    the callback measures once how confident the experts are on the training data: samples with a confident expert come
    first. After every epoch it compares the student with each expert on a balanced meta set and logs
    `expert_weight_0`, `expert_weight_1`, ...

    One thing differs from the authors' code. Here the confidence that orders the samples is that of the augmented
    image; the authors keep one number per file.

    Args:
        train: Training data of `fit`: a batched data set, or arrays `(x, y)`. With `steps_per_epoch`, the callback
            reads one epoch of it.
        meta: Small balanced set, batched or as arrays `(x, y)`. It must end.
        threshold: In (0, 1). An expert counts fully until the student reaches this share of its accuracy.

    Raises:
        ValueError: If an argument is out of range, or, when training starts, if the model has no experts.

    Examples:
        >>> import keras_bikd as bikd
        >>> x, y, counts = (
        ...     np.random.normal(size=(32, 8)).astype("float32"),
        ...     np.arange(32) % 4,
        ...     [100, 50, 20, 5],
        ... )
        >>> student = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> experts = [
        ...     keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
        ...     for _ in range(2)
        ... ]
        >>> teacher = bikd.Experts(
        ...     experts, bikd.long_tail.class_groups(counts, num_groups=2)
        ... )
        >>> model = bikd.DistillationModel(
        ...     student, teacher, ExpertsObjective(counts, num_groups=2)
        ... )
        >>> model.compile(optimizer="sgd")
        >>> pacing = ExpertPacing((x, y), (x[:8], y[:8]))
        >>> sorted(model.fit(x, y, callbacks=[pacing], verbose=0).history)
        ['expert_weight_0', 'expert_weight_1', 'loss']

    Reference: Xiang et al., arXiv 2001.01536, sections 3.2 and 3.3, and the authors' code (ImageNet-LT).
    """

    def __init__(self, train: Any, meta: Any, threshold: float = 0.3) -> None:
        super().__init__()
        require_end("ExpertPacing(meta=...)", meta)
        self.train, self.meta = train, list(as_batches(meta))
        self.threshold = checks.number("ExpertPacing", "threshold", threshold, above=0, below=1)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        objective, teacher = getattr(self.model, "objective", None), getattr(self.model, "teacher", None)
        if not isinstance(objective, ExpertsObjective) or not isinstance(teacher, (Experts, StoredTeacher)):
            raise ValueError(
                "`ExpertPacing` paces a `DistillationModel` with `Experts` or their `StoredTeacher` as teacher, and an "
                "`ExpertsObjective`. "
                f"Received: teacher={teacher!r} and objective={objective!r}"
            )
        if isinstance(teacher, Experts) and teacher.groups != objective.groups:
            raise ValueError(
                "The `Experts` must have the groups of the `ExpertsObjective`, those of "
                f"`keras_bikd.long_tail.class_groups`: {objective.groups}. Received: {teacher.groups}"
            )
        if is_dataset(self.train):
            check_length(self.train, self.params["steps"])
        self.objective = objective
        self.expert_accuracies = self._accuracies(self.model.teacher_logits, within_group=True)
        self._set_confidence_range(itertools.islice(as_batches(self.train), self.params["steps"]))

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.objective.progress.assign((epoch + 1) / (self.params["epochs"] / 2))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        weights = [
            expert_weight(student, expert, self.threshold)
            for student, expert in zip(self._accuracies(_student_logits(self.model)), self.expert_accuracies)
        ]
        self.objective.expert_weights.assign(weights)
        if logs is not None:
            logs.update({f"expert_weight_{i}": float(weight) for i, weight in enumerate(weights)})

    def _set_confidence_range(self, samples: Iterable[Batch]) -> None:
        """Range of the experts' confidences in every class, in one pass over the training data."""
        seen = []
        classes = range(len(self.objective.class_counts))
        for x, y, *_ in samples:
            checks.labels_match("training", y, len(classes))
            labels, stored = labels_and_logits(y)
            ids = class_ids(labels, len(classes))
            confidences = self.objective.confidences(ids, self.model.teacher_logits(x, stored))
            seen.append((ops.convert_to_numpy(ids), ops.convert_to_numpy(confidences)))
        ids, confidences = (np.concatenate(column) for column in zip(*seen))
        bounds = [(own.min(), own.max()) if len(own := confidences[ids == c]) else (0.0, 0.0) for c in classes]
        self.objective.confidence_range.assign(np.array(bounds, "float32").T)

    def _accuracies(self, logits_of: LogitsOf, within_group: bool = False) -> list[float]:
        """Mean accuracy of the classes of every group: among all classes, or among those of the group alone."""
        classes, group_of = len(self.objective.class_counts), self.objective.group_of
        labels, logits = _observed(self.model, self.meta, logits_of, classes)
        if within_group:
            logits = np.where(group_of == group_of[labels][:, None], logits, -np.inf)
        accuracies = np.nan_to_num(per_class_accuracy(labels, logits.argmax(axis=-1), classes))
        return [float(np.mean(accuracies[group])) for group in self.objective.groups]


class OutgrowTeacher(keras.callbacks.Callback):
    """Leave the teacher out once its student is better.

    The one-step hypergradient overrates a teacher that is weak or that learned from wrong labels: its loss has a large
    gradient, so following it lowers the meta loss for one step even if the teacher is bad. After every epoch, this
    callback compares student and teacher on a balanced set that neither is trained on, such as the meta set. Once the
    student gets significantly more samples right (one-sided sign test), the weight of the teacher's loss is zero for
    the rest of the training. The weight network keeps that when it is saved. `teacher_left_out` in the logs is 0, then
    1.

    Args:
        meta: Small balanced set, batched or as arrays `(x, y)`, best without augmentation. It must end.
        losses: Names of the losses that the teacher has a part in, of the model's `candidate_losses`.
        significance: Number between 0 and 1: the student is better if chance alone would let it seem so with less
            than this probability.

    Raises:
        ValueError: If an argument is out of range, or, when training starts, if the model is no `BiKDModel` or has no
            such losses.

    Examples:
        >>> import keras_bikd as bikd
        >>> x, y = np.random.normal(size=(32, 8)).astype("float32"), np.arange(32) % 4
        >>> student = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> teacher = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model = bikd.BiKDModel(student, teacher)
        >>> model.compile("sgd")
        >>> meta = (x[:8], y[:8])
        >>> callbacks = [OutgrowTeacher(meta)]
        >>> history = model.fit(x, y, meta_data=meta, callbacks=callbacks, verbose=0)
        >>> "teacher_left_out" in history.history
        True
    """

    def __init__(self, meta: Any, losses: Sequence[str] = ("soft",), *, significance: float = 0.05) -> None:
        super().__init__()
        require_end("OutgrowTeacher(meta=...)", meta)
        self.meta, self.losses = list(as_batches(meta)), losses
        self.significance = checks.number("OutgrowTeacher", "significance", significance, above=0, below=1)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if not isinstance(self.model, BiKDModel):
            raise ValueError(f"`OutgrowTeacher` takes the training of a `BiKDModel`. Received: {self.model!r}")
        names = list(self.model.candidate_losses)
        if isinstance(self.losses, str) or not self.losses or not set(self.losses) <= set(names):
            raise ValueError(
                f"`OutgrowTeacher(losses=...)` takes names of the model's losses, {names}, as a list. "
                f"Received: losses={self.losses!r}"
            )
        self._columns = [names.index(name) for name in self.losses]
        self._teacher_is_right = self._is_right(self._corrected_teacher)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        # What is left out stays out, also in a run that was killed and goes on.
        is_left_out = self.model.weight_net.leaves_out(self._columns) or self._student_is_better()
        if is_left_out:
            # Every time, because a meta optimizer with momentum has moved the weight network since.
            self.model.weight_net.leave_out(self._columns)
        if logs is not None:
            logs["teacher_left_out"] = float(is_left_out)

    def _student_is_better(self) -> bool:
        from scipy import stats

        student_is_right = self._is_right(_student_logits(self.model))
        student_alone = int((student_is_right & ~self._teacher_is_right).sum())
        either_alone = int((student_is_right != self._teacher_is_right).sum())
        if not either_alone:
            return False
        return stats.binomtest(student_alone, either_alone, alternative="greater").pvalue < self.significance

    def _is_right(self, logits_of: LogitsOf) -> np.ndarray:
        labels, logits = _observed(self.model, self.meta, logits_of, self.model.num_classes)
        return logits.argmax(axis=-1) == labels

    def _corrected_teacher(self, x: Any, stored: Tensor | None) -> Tensor:
        """The teacher as the first of the losses sees it."""
        logits, loss = self.model.teacher_logits(x, stored), self.model.candidate_losses[self.losses[0]]
        if isinstance(loss, SoftTargets) and loss.class_counts is not None:
            return logits - log_prior(loss.class_counts, logits)
        return logits


def _student_logits(model: keras.Model) -> LogitsOf:
    return lambda x, stored: class_logits(model(x, training=False))


def _observed(
    model: keras.Model, samples: Iterable[Batch], logits_of: LogitsOf, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and logits of all samples of a meta set."""
    rows = []
    for x, y, *_ in samples:
        checks.labels_match("meta", y, num_classes)
        labels, stored = labels_and_logits(y)
        rows.append([ops.convert_to_numpy(part) for part in (class_ids(labels, num_classes), logits_of(x, stored))])
    labels, logits = (np.concatenate(column) for column in zip(*rows))
    return labels, logits
