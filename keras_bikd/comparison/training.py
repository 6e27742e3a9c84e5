"""One training of a comparison: a teacher, or the student of one method in one round."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops, tree

from keras_bikd import results
from keras_bikd.comparison.methods import Method, Parts, Protocol
from keras_bikd.comparison.samples import Batches, Round, Subset
from keras_bikd.comparison.store import Trained
from keras_bikd.losses import class_logits, hard_loss
from keras_bikd.metrics import per_class_accuracy
from keras_bikd.models import BiKDModel
from keras_bikd.models.meta_guided import MetaGuidedModel
from keras_bikd.types import Logs, Tensor

EPOCHS = 10
"""Points of every training curve."""

_CURVE = 1000  # validation samples behind a point of a curve
_LOOKED_AT = 20_000  # training samples whose weights and labels are looked at after a training

Builder = Callable[[], keras.Model]
"""What makes an untrained network whose outputs are logits."""


class Training(NamedTuple):
    """One training of a comparison.

    Attributes:
        name: Name of the method, or of the teacher.
        seed: Seed of the round.
        teachers: Names of the teachers that must be trained before.
        is_teacher: Whether it is the training of a teacher.
    """

    name: str
    seed: int
    teachers: tuple[str, ...] = ()
    is_teacher: bool = False


@dataclasses.dataclass(frozen=True)
class Task:
    """What all trainings of a comparison share.

    Attributes:
        student: Makes an untrained student.
        protocol: The `Protocol`.
        steps: Steps of every training, a multiple of `EPOCHS`.
    """

    student: Builder
    protocol: Protocol
    steps: int

    def drawn(self, subset: Subset, seed: int, steps: int, most: int | None = None) -> Batches:
        """A batch of a subset for every step, of at most so many samples."""
        how = self.protocol
        size = min(how.batch_size, most or how.batch_size)
        return Batches(subset, size, steps=steps, seed=seed, augment=how.augment)

    def steps_of(self, method: Method) -> int:
        """Steps of one run of a method."""
        return max(round(self.steps // EPOCHS * method.budget), 1) * EPOCHS

    def all_steps_of(self, method: Method) -> int:
        """Steps of all runs of a method."""
        return sum(map(self.steps_of, method.runs))


class NoTeacher(keras.Model):
    """Zero logits, for methods that use no teacher.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(name="no_teacher")
        self.num_classes = num_classes

    def call(self, inputs: Any) -> Tensor:
        return ops.zeros((ops.shape(tree.flatten(inputs)[0])[0], self.num_classes))


def clear_session() -> None:
    """Free what the last training has left; the interactive logging of Keras stays as it is, on or off."""
    is_on = keras.config.is_interactive_logging_enabled()
    keras.utils.clear_session()
    if not is_on:
        keras.config.disable_interactive_logging()


@dataclasses.dataclass(frozen=True)
class Teaching:
    """Trains a teacher on the training samples of a round, for as many steps as the students.

    Attributes:
        build: Makes an untrained teacher.
        loss: Function from the class counts to the loss; by default cross-entropy.
        meta_in_train: Whether checked meta samples are trained on as well.
    """

    build: Builder
    loss: Callable[[list[int]], Any] = lambda class_counts: hard_loss
    meta_in_train: bool = True

    def __call__(self, task: Task, round_: Round, *watchers: Any) -> tuple[keras.Model, list[int]]:
        """Train a teacher.

        Args:
            task: The `Task`.
            round_: The `Round`.
            *watchers: Callbacks of `fit`.

        Returns:
            `(teacher, class_counts)`, the model and the class counts of its training.
        """
        keras.utils.set_random_seed(round_.seed + 500)
        train, teacher = round_.trained_on(self.meta_in_train), self.build()
        counts = train.class_counts.tolist()
        teacher.compile(task.protocol.optimizer(task.steps), self.loss(counts))
        fit(teacher, task.steps, watchers, x=task.drawn(train, round_.seed + 500, task.steps))
        return teacher, counts


def train_teacher(task: Task, teach: Callable[..., Any], round_: Round, *watchers: Any) -> Trained:
    """Train a teacher of a round.

    Args:
        task: The `Task`.
        teach: One of `Round.teachers`: a `Teaching`, or another function with its arguments and results.
        round_: The `Round`.
        *watchers: Callbacks of `fit`.
    """
    start = time.perf_counter()
    teacher, counts = teach(task, round_, *watchers)
    row = {"seconds": time.perf_counter() - start, "steps": task.steps, "class_counts": counts}
    return Trained(teacher, row, {})


def train_student(
    task: Task, method: Method, round_: Round, teachers: Mapping[str, tuple[keras.Model, list[int]]], *watchers: Any
) -> Trained:
    """Train the student of one method.

    Args:
        task: The `Task`.
        method: The `Method`.
        round_: The `Round`.
        teachers: Name to a trained teacher with the class counts of its training.
        *watchers: Callbacks of `fit`.
    """
    seconds, before = 0.0, None
    history: dict[str, list[float]] = {}
    for run in method.runs:
        keras.utils.set_random_seed(round_.seed)
        parts = parts_of(task, run, round_, teachers.get(run.teacher), before)
        model = before = built(run, parts)
        curve = _Curve(Batches(_some(round_.validation, _CURVE), 128))
        data: dict[str, Any] = {"x": parts.train}
        if isinstance(model, MetaGuidedModel):
            data["meta_data"] = parts.meta
        data |= {} if run.fit is None else run.fit(parts)
        start = time.perf_counter()
        history |= fit(model, task.steps_of(run), [*data.pop("callbacks", ()), curve, *watchers], **data)
        seconds += time.perf_counter() - start - curve.seconds
    seen = _seen(round_, model, parts.train.subset) | _weights_of(model, parts.train.subset)
    if round_.test is not None:
        seen["best_test"] = curve.of_best_epoch(round_.test)
    row = {"seconds": seconds, "steps": task.all_steps_of(method), "history": history | {"validation": curve.values}}
    return Trained(model.student, row | {"versions": results.versions()}, seen)


def parts_of(
    task: Task,
    method: Method,
    round_: Round,
    teacher: tuple[keras.Model, list[int]] | None,
    before: keras.Model | None = None,
) -> Parts:
    """What a method builds its model from."""
    train, steps = round_.trained_on(method.meta_in_train), task.steps_of(method)
    counts = train.class_counts.tolist()
    model, teacher_counts = teacher or (NoTeacher(len(counts)), counts)
    return Parts(
        student=task.student(),
        teacher=model,
        class_counts=counts,
        teacher_counts=teacher_counts,
        train=task.drawn(train, round_.seed, steps),
        meta=task.drawn(round_.meta, round_.seed + 1, steps, len(round_.meta.ids)),
        clean_meta=Batches(round_.meta, task.protocol.batch_size),
        optimizer=task.protocol.optimizer(steps),
        before=before,
    )


def built(method: Method, parts: Parts) -> keras.Model:
    """The model of a method, compiled."""
    model = method.build(parts)
    if not isinstance(model, keras.Model) or not isinstance(getattr(model, "student", None), keras.Model):
        raise ValueError(
            "A method is a function of `Parts` that returns a model with a `student`, such as `DistillationModel` or "
            f"`BiKDModel`. Received: a function that returns {model!r}"
        )
    if not model.compiled:
        model.compile(parts.optimizer)
    return model


def fit(model: keras.Model, steps: int, callbacks: Iterable[Any], **data: Any) -> dict[str, list[float]]:
    """Train for so many steps in `EPOCHS` epochs; returns the history."""
    epochs = min(EPOCHS, steps)
    history = model.fit(
        epochs=epochs, steps_per_epoch=steps // epochs, shuffle=False, callbacks=[*callbacks], verbose=0, **data
    ).history
    return {name: [float(value) for value in values] for name, values in history.items()}


class _Curve(keras.callbacks.Callback):
    """Balanced accuracy on validation samples after each epoch, the weights of the best, and the seconds of this."""

    def __init__(self, validation: Batches) -> None:
        super().__init__()
        self.validation, self.seconds = validation, 0.0
        self.values: list[float] = []
        self.best: list[np.ndarray] = []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        start = time.perf_counter()
        logits = logits_of(self.model, self.validation)
        recalls = per_class_accuracy(self.validation.subset.labels, logits.argmax(axis=-1), logits.shape[1])
        self.values.append(float(np.nanmean(recalls)))
        if self.values[-1] > max(self.values[:-1], default=-1.0):
            self.best = self.model.student.get_weights()
        self.seconds += time.perf_counter() - start

    def of_best_epoch(self, subset: Subset) -> np.ndarray:
        """Logits of the student as it was after the best epoch."""
        student = self.model.student
        last = student.get_weights()
        student.set_weights(self.best)
        logits = logits_of(self.model, Batches(subset, 128))
        student.set_weights(last)
        return logits


def logits_of(model: keras.Model, batches: Batches) -> np.ndarray:
    """Logits of all samples, float32 of shape `(samples, classes)`, in their order."""
    logits = [class_logits(model.predict_on_batch(batches.filled(i))) for i in range(len(batches))]
    found = np.concatenate([np.asarray(ops.convert_to_numpy(part), "float32") for part in logits])
    return found[: len(batches.order)]  # the model is compiled for one size of batches


def _some(subset: Subset, count: int) -> Subset:
    """At most `count` different samples of a subset, in the order of their ids."""
    ids = np.unique(subset.ids)
    if len(ids) > count:
        ids = np.sort(np.random.default_rng(0).choice(ids, count, replace=False))
    return Subset(subset.samples, ids)


def _seen(round_: Round, model: keras.Model, train: Subset) -> dict[str, np.ndarray]:
    """Logits of the validation and test samples, and of training samples, whose labels may be wrong."""
    looked_at = _some(train, _LOOKED_AT)
    seen = {
        "validation": logits_of(model, Batches(round_.validation, 128)),
        "train": logits_of(model, Batches(looked_at, 128)).astype("float16"),
        "train_ids": looked_at.ids,
    }
    return seen if round_.test is None else seen | {"test": logits_of(model, Batches(round_.test, 128))}


def _weights_of(model: keras.Model, train: Subset) -> dict[str, np.ndarray]:
    """Losses and weights of training samples, if the model has learned weights."""
    if not isinstance(model, BiKDModel):
        return {}
    batches = Batches(_some(train, 5000), 128)
    if whole := len(batches.order) // batches.batch_size:  # a last batch that is smaller would be compiled for
        batches.order = batches.order[: whole * batches.batch_size]
    seen = model.sample_weights(batches)
    names = np.array(list(model.candidate_losses))
    return {f"weights_{name}": np.asarray(value) for name, value in seen._asdict().items()} | {"weights_names": names}
