"""The pace of LFME: how much each expert still counts, and the progress of the curriculum."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_bikd import checks
from keras_bikd.feed import as_batches, check_length, is_dataset, preprocessed_batch, require_end
from keras_bikd.losses import class_ids
from keras_bikd.models.experts import Experts
from keras_bikd.objectives.experts import ExpertsObjective, expert_weight
from keras_bikd.stored_teacher import StoredTeacher
from keras_bikd.targets import labels_and_logits
from keras_bikd.types import Batch, Logs, Tensor

__all__ = ["ExpertPacing"]


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
        self.threshold = checks.between_zero_and_one("ExpertPacing", "threshold", threshold)

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
            check_length(self.train, {"steps_per_epoch": self.params["steps"]})
        self.objective = objective
        self.expert_accuracies = self._accuracies(self.model.teacher_logits, within_group=True)
        self._set_confidence_range(itertools.islice(as_batches(self.train), self.params["steps"]))

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.objective.progress.assign((epoch + 1) / (self.params["epochs"] / 2))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        weights = [
            expert_weight(student, expert, self.threshold)
            for student, expert in zip(self._accuracies(self._student_logits), self.expert_accuracies)
        ]
        self.objective.expert_weights.assign(weights)
        if logs is not None:
            logs.update({f"expert_weight_{i}": float(weight) for i, weight in enumerate(weights)})

    def _set_confidence_range(self, samples: Iterable[Batch]) -> None:
        """Range of the experts' confidences in every class, in one pass over the training data."""
        seen = []
        classes = range(len(self.objective.class_counts))
        for raw in samples:
            x, y, *_ = preprocessed_batch(raw, self.model.preprocess_samples)
            checks.labels_match("training", y, len(classes))
            labels, stored = labels_and_logits(y)
            ids = class_ids(labels, len(classes))
            confidences = self.objective.confidences(ids, self.model.teacher_logits(x, stored))
            seen.append((ops.convert_to_numpy(ids), ops.convert_to_numpy(confidences)))
        ids, confidences = (np.concatenate(column) for column in zip(*seen))
        bounds = [(own.min(), own.max()) if len(own := confidences[ids == c]) else (0.0, 0.0) for c in classes]
        self.objective.confidence_range.assign(np.array(bounds, "float32").T)

    def _student_logits(self, inputs: Any, _: Tensor | None) -> Tensor:
        return self.model.student(inputs, training=False)

    def _accuracies(self, model: Callable[..., Tensor], within_group: bool = False) -> list[float]:
        """Mean accuracy of the classes of every group: among all classes, or among those of the group alone."""
        hits: dict[int, list[bool]] = {}
        classes, groups = len(self.objective.class_counts), self.objective.groups
        for raw in self.meta:
            x, y, *_ = preprocessed_batch(raw, self.model.preprocess_samples)
            checks.labels_match("meta", y, classes)
            labels, stored = labels_and_logits(y)
            logits = ops.convert_to_numpy(model(x, stored))
            for row, label in zip(logits, ops.convert_to_numpy(class_ids(labels, classes))):
                group = groups[self.objective.group_of[label]]
                predicted = group[int(np.argmax(row[group]))] if within_group else int(np.argmax(row))
                hits.setdefault(int(label), []).append(predicted == label)
        return [float(np.mean([np.mean(hits.get(label, [False])) for label in group])) for group in groups]
