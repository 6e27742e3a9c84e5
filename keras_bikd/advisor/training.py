"""One training of a comparison: a teacher, or the student of one method in one round."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops, tree

from keras_bikd import results
from keras_bikd.advisor.candidates import needs_teacher
from keras_bikd.advisor.holdout import Division
from keras_bikd.advisor.samples import Augmentation, Batches, Subset
from keras_bikd.comparison import Method, Parts, config_of, make
from keras_bikd.losses import class_logits, hard_loss
from keras_bikd.metrics import BalancedAccuracy
from keras_bikd.models import BiKDModel
from keras_bikd.types import Logs, Tensor

EPOCHS = 10
"""Points of every training curve."""

_CURVE = 1000  # validation samples behind a point of a curve
_LOOKED_AT = 20_000  # training samples whose weights and labels are looked at after a training

Builder = Callable[[], keras.Model]
"""What makes an untrained network whose outputs are logits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What all trainings of a comparison share.

    Attributes:
        student: Makes an untrained student.
        optimizer: Function from a number of steps to an optimizer.
        steps: Steps of every training, a multiple of `EPOCHS`.
        batch_size: Samples per step.
        augment: Function `(inputs, seed) -> inputs` of training and meta batches, or `None`.
        test: Samples that are looked at once, after each training, and that choose nothing; or `None`.
    """

    student: Builder
    optimizer: Callable[[int], keras.optimizers.Optimizer]
    steps: int
    batch_size: int
    augment: Augmentation | None = None
    test: Subset | None = None

    def batches(self, subset: Subset, seed: int) -> Batches:
        """The training batches of one round."""
        return Batches(subset, self.batch_size, steps=self.steps, seed=seed, augment=self.augment)

    def in_order(self, subset: Subset) -> Batches:
        """Every sample once, as it is."""
        return Batches(subset, 128)


class Trained(NamedTuple):
    """A finished training.

    Attributes:
        model: The student or the teacher.
        row: Its numbers, which JSON can hold.
        arrays: Logits of the samples that were looked at, and weights of the losses, by name.
    """

    model: keras.Model
    row: results.Row
    arrays: dict[str, np.ndarray]


class _NoTeacher(keras.Model):
    """Stands where a method without a teacher has none."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(name="no_teacher")
        self.num_classes = num_classes

    def call(self, inputs: Any) -> Tensor:
        rows = ops.shape(tree.flatten(inputs)[0])[0]
        return ops.zeros((rows, self.num_classes))


def clear_session() -> None:
    """Free what the last training has left; the interactive logging of Keras stays as it is, on or off."""
    is_on = keras.config.is_interactive_logging_enabled()
    keras.utils.clear_session()
    if not is_on:
        keras.config.disable_interactive_logging()


def train_teacher(task: Task, builder: Builder, division: Division, seed: int, *watchers: Any) -> Trained:
    """Train a teacher with cross-entropy on the training samples, as long as the students are.

    Args:
        task: The `Task`.
        builder: Makes an untrained teacher.
        division: The samples of the round.
        seed: Seed of the round.
        *watchers: Callbacks of `fit`.

    Returns:
        A `Trained`.
    """
    keras.utils.set_random_seed(seed + 500)
    teacher = builder()
    train = division.trained_on(True)
    batches = task.batches(train, seed + 500)
    teacher.compile(task.optimizer(task.steps), hard_loss, metrics=[_metric(train)])
    seconds, history = _fit(teacher, batches, task, division, watchers)
    row = {"seed": seed, "seconds": seconds, "steps": task.steps, "history": history}
    return Trained(teacher, row | {"class_counts": train.class_counts.tolist()}, _seen(task, division, teacher, train))


def train_student(
    task: Task,
    method: Method,
    division: Division,
    seed: int,
    teacher: tuple[keras.Model, list[int]] | None,
    *watchers: Any,
) -> Trained:
    """Train the student of one method.

    Args:
        task: The `Task`.
        method: The `Method`.
        division: The samples of the round.
        seed: Seed of the round.
        teacher: The trained teacher and the class counts of its training; `None` for methods without one.
        *watchers: Callbacks of `fit`.

    Returns:
        A `Trained`, with the configuration of the method in its row.
    """
    before = None
    if method.before is not None:
        before = _run(task, method.before, division, seed, teacher, None, watchers)
    model, train, seconds, history = _run(task, method, division, seed, teacher, before, watchers)
    row = {
        "seed": seed,
        "seconds": seconds + (0.0 if before is None else before[2]),
        "steps": task.steps * (1 if before is None else 2),
        "history": history,
        "config": config_of(method),
        "versions": results.versions(),
    }
    return Trained(model.student, row, _seen(task, division, model, train) | _weights_of(task, model, train))


def _run(
    task: Task, method: Method, division: Division, seed: int, teacher: Any, before: Any, watchers: Any
) -> tuple[keras.Model, Subset, float, dict[str, list[float]]]:
    """Train once: the model, its training samples, seconds and history."""
    keras.utils.set_random_seed(seed)
    train = division.trained_on(method.meta_in_train)
    counts = train.class_counts.tolist()
    if teacher is None or not needs_teacher(method):
        teacher = _NoTeacher(len(counts)), counts
    meta = Batches(division.meta, min(task.batch_size, len(division.meta.ids)), augment=task.augment)
    parts = Parts(
        student=task.student(),
        teacher=teacher[0],
        counts=counts,
        teacher_counts=teacher[1],
        train=task.batches(train, seed),
        meta=meta,
        clean_meta=Batches(division.meta, task.batch_size),
        num_classes=len(counts),
        batch_size=task.batch_size,
        seed=seed,
        before=None if before is None else before[0],
    )
    model = make(method.model, parts)
    model.compile(task.optimizer(task.steps), metrics=[_metric(train)], **make(method.compile_arguments, parts))
    meta_data = make(method.meta_data, parts)
    given = {} if meta_data is None else {"meta_data": meta_data}
    watchers = [*watchers, *make(method.callbacks, parts)]
    seconds, history = _fit(model, make(method.train_on, parts), task, division, watchers, **given)
    return model, train, seconds, history


def _metric(train: Subset) -> keras.metrics.Metric:
    return BalancedAccuracy(len(train.samples.class_names))


def _fit(
    model: keras.Model, batches: Batches, task: Task, division: Division, watchers: Any, **data: Any
) -> tuple[float, dict[str, list[float]]]:
    """Seconds of the training, without those of its curve, and the curve."""
    curve = _Curve(task.in_order(_some(division.validation, _CURVE, 0)))
    steps = max(task.steps // EPOCHS, 1)
    start = time.perf_counter()
    history = model.fit(
        batches,
        epochs=task.steps // steps,
        steps_per_epoch=steps,
        shuffle=False,
        callbacks=[curve, *watchers],
        verbose=0,
        **data,
    ).history
    kept = {name: [float(value) for value in values] for name, values in history.items()}
    return time.perf_counter() - start - curve.seconds, kept | {"validation": curve.values}


class _Curve(keras.callbacks.Callback):
    """Balanced accuracy on validation samples after each epoch, and the seconds that this takes."""

    def __init__(self, validation: Batches) -> None:
        super().__init__()
        self.validation, self.seconds = validation, 0.0
        self.values: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        start = time.perf_counter()
        predicted = logits_of(self.model, self.validation).argmax(axis=-1)
        self.values.append(balanced_accuracy(self.validation.subset.labels, predicted))
        self.seconds += time.perf_counter() - start


def balanced_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean accuracy over the classes that have samples; scikit-learn's warns of classes that are predicted alone."""
    return float(np.mean([(predicted[labels == label] == label).mean() for label in np.unique(labels)]))


def logits_of(model: keras.Model, batches: Batches) -> np.ndarray:
    """Logits of all samples, float32 of shape `(samples, classes)`, in their order."""
    logits = [class_logits(model.predict_on_batch(batches.filled(i))) for i in range(len(batches))]
    found = np.concatenate([np.asarray(ops.convert_to_numpy(part), "float32") for part in logits])
    return found[: len(batches.order)]  # the model is compiled for one size of batches


def _some(subset: Subset, count: int, seed: int) -> Subset:
    """At most `count` different samples of a subset, in the order of their ids."""
    ids = np.unique(subset.ids)
    if len(ids) > count:
        ids = np.sort(np.random.default_rng(seed).choice(ids, count, replace=False))
    return Subset(subset.samples, ids)


def _seen(task: Task, division: Division, model: keras.Model, train: Subset) -> dict[str, np.ndarray]:
    """Logits of the validation and test samples, and of training samples, whose labels may be wrong."""
    looked_at = _some(train, _LOOKED_AT, 0)
    seen = {
        "validation": logits_of(model, task.in_order(division.validation)),
        "train": logits_of(model, task.in_order(looked_at)).astype("float16"),
        "train_ids": looked_at.ids,
    }
    return seen if task.test is None else seen | {"test": logits_of(model, task.in_order(task.test))}


def _weights_of(task: Task, model: keras.Model, train: Subset) -> dict[str, np.ndarray]:
    """Losses and weights of training samples, if the model has learned weights."""
    if not isinstance(model, BiKDModel):
        return {}
    batches = task.in_order(_some(train, 5000, 0))
    if whole := len(batches.order) // batches.batch_size:  # a last batch that is smaller would be compiled for
        batches.order = batches.order[: whole * batches.batch_size]
    seen = model.sample_weights(batches)
    names = np.array(list(model.candidate_losses))
    return {f"weights_{name}": np.asarray(value) for name, value in seen._asdict().items()} | {"weights_names": names}
