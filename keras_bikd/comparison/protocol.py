"""One protocol for every method: same data, same network, same budget. The test set is used once, at the end."""

import contextlib
import pathlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_bikd import results
from keras_bikd.batches.adapters import batches
from keras_bikd.comparison.calls import Parts, make
from keras_bikd.comparison.method import Method
from keras_bikd.comparison.setting import EPOCHS, Cell, Setting, load_data, network, sgd, steps_of
from keras_bikd.comparison.teachers import stored_teacher, teacher_of
from keras_bikd.data import LongTailedData
from keras_bikd.types import Logs


def train(cell: Cell, setting: Setting, method: Method, folder: pathlib.Path) -> results.Row:
    """Train the student of one cell and test it.

    Args:
        cell: The `Cell`.
        setting: Its `Setting`.
        method: Its `Method`.
        folder: Where teachers are kept. A teacher that is not there yet is trained first.

    Returns:
        The row of the cell, with accuracies in per cent, `seconds`, `memory` in MiB, and what they came from.
    """
    before = None if method.before is None else _run(cell, setting, method.before, folder)
    run = _run(cell, setting, method, folder, None if before is None else before.model)
    runs = [run] if before is None else [before, run]
    student, order = run.model.student, _largest_first(run.data)
    scores = _group_accuracies(student, run.data.test, order)
    student.set_weights(run.best)
    best = _group_accuracies(student, run.data.test, order)
    return {
        "data": cell.setting,
        "imbalance_factor": cell.imbalance_factor,
        "method": cell.method,
        "seed": cell.seed,
        **scores,
        "best_on_meta": best["overall"],
        "seconds": sum(part.seconds for part in runs),
        "memory": max((part.memory for part in runs if part.memory is not None), default=None),
        "steps": run.steps,
        "history": {k: v for part in runs for k, v in part.history.items() if "weight" in k or "hypergradient" in k},
        "manifest": run.data.manifest["ids_sha256"],
        "versions": results.versions(),
        "config": cell.config(setting, method),
    }


class _Run(NamedTuple):
    """A finished training; `best` holds the student's weights of the epoch that was best on the meta set."""

    model: keras.Model
    data: LongTailedData
    steps: int
    history: dict[str, list[float]]
    best: list[np.ndarray]
    seconds: float
    memory: float | None


def _run(cell: Cell, setting: Setting, method: Method, folder: pathlib.Path, before: keras.Model | None = None) -> _Run:
    """Train a method from the start; `before` is the trained model of `method.before`."""
    drawn: dict[str, Any] = {"sampling": method.sampling, "meta_in_train": method.meta_in_train}
    data = load_data(setting, cell, meta_share=method.meta_share, **drawn)
    clean_meta = load_data(setting, cell, augmented=False, **drawn).meta
    teacher, teacher_counts = teacher_of(cell, setting, method, data, folder)
    train = data.train
    if method.teacher_views is not None:
        stored = stored_teacher(cell, method, teacher, data, folder)
        teacher, train = stored.teacher, stored.batches(setting.batch_size)
    keras.utils.set_random_seed(cell.seed)
    parts = Parts(
        student=network(setting.student, data),
        teacher=teacher,
        counts=data.class_counts.tolist(),
        teacher_counts=teacher_counts,
        train=train.repeat(),
        meta=data.meta,
        clean_meta=clean_meta,
        num_classes=data.num_classes,
        batch_size=setting.batch_size,
        seed=cell.seed,
        before=before,
    )
    model = make(method.model, parts)
    steps = steps_of(setting, data, cell, method.budget)
    best = _BestOnMeta(clean_meta)
    meta_data = make(method.meta_data, parts)
    _reset_peak_memory()
    start = time.perf_counter()
    compile_arguments = make(method.compile_arguments, parts)
    model.compile(sgd(setting.learning_rate, steps), steps_per_execution=_execution(steps), **compile_arguments)
    history = _fit(model, method, parts, meta_data, steps, best)
    make(method.finish, parts)
    return _Run(model, data, steps, history, best.weights, time.perf_counter() - start, _peak_memory())


def _fit(
    model: keras.Model, method: Method, parts: Parts, meta_data: Any, steps: int, best: keras.callbacks.Callback
) -> dict[str, list[float]]:
    return model.fit(
        make(method.train_on, parts).repeat(),
        shuffle=False,
        epochs=EPOCHS,
        steps_per_epoch=steps // EPOCHS,
        callbacks=[*make(method.callbacks, parts), best],
        verbose=0,
        **({} if meta_data is None else {"meta_data": meta_data}),
    ).history


def _execution(steps: int) -> int:
    """Steps per execution: as many as divide an epoch, at most 50; one on PyTorch, where Keras takes no more."""
    if keras.backend.backend() == "torch":
        return 1
    return max(d for d in (1, 2, 5, 10, 20, 25, 50) if steps // EPOCHS % d == 0)


class _BestOnMeta(keras.callbacks.Callback):
    """Keeps the weights of the epoch with the best accuracy on a meta set."""

    def __init__(self, meta: Any) -> None:
        super().__init__()
        self.meta, self.best = meta, -1.0
        self.weights: list[np.ndarray] = []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        predicted, labels = _predictions(self.model.student, self.meta)
        accuracy = float((predicted == labels).mean())
        if accuracy > self.best:
            self.best, self.weights = accuracy, self.model.student.get_weights()


def _predictions(student: keras.Model, data: Any) -> Iterator[np.ndarray]:
    pairs = [(ops.argmax(student.predict_on_batch(x), axis=-1), y) for x, y in batches(data)]
    return (ops.convert_to_numpy(ops.concatenate(column)) for column in zip(*pairs))


def _largest_first(data: LongTailedData) -> np.ndarray:
    """The classes in the order of their training samples, wrong labels set right."""
    counts = np.bincount(data.source.labels[data.split.train], minlength=data.num_classes)
    return np.argsort(-counts, kind="stable")


def _group_accuracies(student: keras.Model, test: Any, order: np.ndarray) -> dict[str, float | None]:
    """Balanced accuracy in per cent: of all classes, of the first 30 %, of the last 30 %, of those in between."""
    predicted, labels = _predictions(student, test)
    per_class = [100 * float((predicted[labels == c] == c).mean()) for c in order]
    cut = round(0.3 * len(order))
    groups = {"overall": per_class, "many": per_class[:cut], "medium": per_class[cut:-cut], "few": per_class[-cut:]}
    # With two classes there is none in between.
    return {name: sum(values) / len(values) if values else None for name, values in groups.items()}


_STATUS = pathlib.Path("/proc/self/status")  # Linux only; elsewhere the memory is not measured


def _reset_peak_memory() -> None:
    if _STATUS.exists():
        with contextlib.suppress(OSError):  # without the permission, the peak is that of the whole process
            _STATUS.with_name("clear_refs").write_text("5")


def _peak_memory() -> float | None:
    """Peak resident memory of this process since it was reset, in MiB."""
    if not _STATUS.exists():
        return None
    peak = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024
