"""`compare`: train every method on the user's data under one protocol, and say which to use."""

import contextlib
import hashlib
import logging
import os
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_bikd.advisor.candidates import TWO_RUNS, needs_teacher
from keras_bikd.advisor.findings import TEACHER, Failure, Findings
from keras_bikd.advisor.holdout import Division, divide
from keras_bikd.advisor.kept import Kept
from keras_bikd.advisor.progress import Progress
from keras_bikd.advisor.protocol import Protocol
from keras_bikd.advisor.samples import Samples, Subset, of_long_tailed, samples_of
from keras_bikd.advisor.training import EPOCHS, Builder, Task, train_student, train_teacher
from keras_bikd.comparison import Method

__all__ = ["Comparison", "compare"]

_TIMED_STEPS = 10


def compare(
    data: Any,
    student: Builder,
    teacher: Builder | keras.Model | tuple[keras.Model, Sequence[int]] | None = None,
    *,
    folder: str | os.PathLike[str],
    validation_data: Any = None,
    meta_data: Any = None,
    test_data: Any = None,
    protocol: Protocol = Protocol(),  # noqa: B008 (frozen)
) -> Findings:
    """Find out which method to use on your data.

    All methods train the same student on the same samples for the same number of steps, each with several seeds. The
    validation samples decide. Everything is kept in `folder` as soon as it is finished: the same call resumes a
    comparison that was killed, and returns at once when all is there. A method that fails does not stop the others.

    Args:
        data: Training data: arrays `(x, y)`, a source such as `keras_bikd.data.Folder(path, image_size)`, what
            `keras_bikd.data.load` returns, or a data set of batches `(x, y)`, which is read into memory.
        student: Function without arguments that returns an untrained `keras.Model` whose outputs are logits.
        teacher: Such a function, to train a teacher for every seed with cross-entropy; or a trained model; or a pair
            `(model, class_counts)` if it was trained on other class counts. Without it, methods that need a teacher are
            left out.
        folder: Folder of the results. One comparison per folder.
        validation_data: Validation samples, of the same kinds as `data`. By default every round holds out a share of
            each class, at least one sample of classes with two.
        meta_data: Checked, class-balanced samples for the weight network; needed only where many labels are wrong. They
            are trained on as well. By default they are drawn from the training samples.
        test_data: Samples that are reported and that choose nothing.
        protocol: A `Protocol`: methods, seeds, steps or minutes, batch size, optimizer, augmentation.

    Returns:
        `Findings`: rows, students, `recommendation` and `report`.

    Raises:
        ValueError: If an argument does not fit, before the first training; or if no method could be finished.

    Examples:
        >>> import tempfile
        >>> random = np.random.default_rng(0)
        >>> y = np.repeat([0, 1, 2], [60, 20, 8])
        >>> x = random.normal(size=(88, 4)).astype("float32") + y[:, None]
        >>> def network(units=4):
        ...     layers = [keras.Input((4,)), keras.layers.Dense(units, "relu"), keras.layers.Dense(3)]
        ...     return keras.Sequential(layers)
        >>> protocol = Protocol(methods=("cross-entropy", "balanced softmax"), seeds=(0, 1), steps=20)
        >>> findings = compare((x, y), network, folder=tempfile.mkdtemp(), protocol=protocol)
        >>> sorted({row["method"] for row in findings.rows})
        ['balanced softmax', 'cross-entropy']
    """
    return Comparison(
        data,
        student,
        teacher,
        folder=folder,
        validation_data=validation_data,
        meta_data=meta_data,
        test_data=test_data,
        protocol=protocol,
    ).run()


class Comparison:
    """A comparison that has been checked and not been run; the arguments are those of `compare`.

    Attributes:
        kept: The folder, a `Kept`.
        train: The training samples, a `Samples`.
        rounds: Seed to `Division`.
        methods: Name to `Method`.
    """

    def __init__(
        self,
        data: Any,
        student: Builder,
        teacher: Builder | keras.Model | tuple[keras.Model, Sequence[int]] | None = None,
        *,
        folder: str | os.PathLike[str],
        validation_data: Any = None,
        meta_data: Any = None,
        test_data: Any = None,
        protocol: Protocol = Protocol(),  # noqa: B008 (frozen)
    ) -> None:
        self.protocol, self.student, self.teacher = protocol, student, teacher
        given = {"validation_data": validation_data, "meta_data": meta_data, "test_data": test_data}
        self.train, held = _read(data, given)
        _check_classes(self.train, held)
        self.kept = Kept(os.fspath(folder))
        self.test = held["test_data"]
        self.rounds = {
            seed: divide(
                self.train,
                min(protocol.seeds),
                fold=fold,
                share=protocol.validation_share,
                meta=held["meta_data"],
                validation=held["validation_data"],
            )
            for fold, seed in enumerate(protocol.seeds)
        }
        self.methods = _with_or_without_teacher(protocol, teacher)
        self.failures: list[Failure] = []
        self._check_networks()

    def run(self) -> Findings:
        """Do all trainings that are not done yet.

        Returns:
            `Findings`.
        """
        steps = self.plan()["steps"]
        trainings = len(self.rounds) * (len(self.methods) + self._trains_teacher)
        with _quiet(), Progress(trainings * steps) as progress:
            self._train_all(self.methods, steps, progress)
            findings = self._findings(self.methods)
            checked = all(division.checked is not None for division in self.rounds.values())
            if findings.labels_look_wrong and checked and self.protocol.methods is None and self.teacher is not None:
                progress.extend(2 * len(self.rounds) * steps)
                self._train_all(TWO_RUNS, steps, progress)
                findings = self._findings({**self.methods, **TWO_RUNS})
        return findings

    def _findings(self, methods: dict[str, Method]) -> Findings:
        return Findings(self.kept, self.train, self.rounds, methods, test=self.test, failures=self.failures)

    def plan(self) -> dict[str, Any]:
        """Decide how many steps each training has, and store it, so that a resumed comparison has the same.

        Returns:
            Dict of `"identity"` (what the results depend on), `"steps"`, and `"timing"` if there are `minutes`.
        """
        identity = self._identity()
        if stored := self.kept.plan(identity):
            return stored
        plan = {"identity": identity, "steps": self._default_steps()}
        if self.protocol.minutes is not None:
            timing = self.timing()
            plan |= {"timing": timing, "steps": self._steps_for(60 * self.protocol.minutes, timing)}
        self.kept.save_plan(plan)
        return plan

    def timing(self) -> dict[str, tuple[float, float]]:
        """Time a few steps of every method.

        Returns:
            Name to seconds before the first step (building, tracing, looking at the results) and seconds per step.
        """
        task, (seed, division) = self._task(_TIMED_STEPS), next(iter(self.rounds.items()))
        with _quiet():
            timed = {}
            teacher = self._given_teacher()
            if self._trains_teacher:
                timed[TEACHER] = _timed(lambda watch: train_teacher(task, self.teacher, division, seed, watch))
                teacher = self.teacher(), self.train.class_counts.tolist()
            for name, method in self.methods.items():
                with contextlib.suppress(Exception):  # it will fail in the comparison too, and be reported there
                    timed[name] = _timed(
                        lambda watch, method=method: train_student(task, method, division, seed, teacher, watch)
                    )
            keras.utils.clear_session()
        return timed

    def _steps_for(self, seconds: float, timing: dict[str, tuple[float, float]]) -> int:
        rounds = len(self.rounds)
        left = seconds - rounds * sum(before for before, _ in timing.values())
        steps = int(left / (rounds * sum(step for _, step in timing.values()))) // EPOCHS * EPOCHS
        if steps < 50:
            needed = rounds * sum(before + 50 * step for before, step in timing.values()) / 60
            raise ValueError(
                f"`Protocol(minutes=...)` is too short for {len(timing) * rounds} trainings of at least 50 steps. "
                f"Received: minutes={seconds / 60:g}. Give it {needed:.0f} minutes, or take fewer seeds or methods."
            )
        return steps

    def _default_steps(self) -> int:
        if self.protocol.steps is not None:
            return max(self.protocol.steps // EPOCHS, 1) * EPOCHS
        passes = 30 * len(self.train) // self.protocol.batch_size
        return int(np.clip(passes, 500, 5000)) // EPOCHS * EPOCHS

    def _task(self, steps: int) -> Task:
        protocol = self.protocol
        return Task(
            student=self.student,
            optimizer=protocol.optimizer,
            steps=steps,
            batch_size=protocol.batch_size,
            augment=protocol.augment,
            test=self.test,
        )

    def _identity(self) -> dict[str, Any]:
        """What the results depend on."""
        parts = {"train": self.train.all(), "test": self.test}
        division = next(iter(self.rounds.values()))
        parts["checked"] = division.checked
        if division.validation.samples is not self.train:
            parts["validation"] = division.validation
        hashes = {name: None if part is None else _hash(part) for name, part in parts.items()}
        networks = {"student": _architecture(self.student())}
        if self.teacher is not None:
            teacher = self._given_teacher()
            networks["teacher"] = _architecture(self.teacher() if teacher is None else teacher[0])
        keras.utils.clear_session()
        return {"data": hashes, "class_names": self.train.class_names, "networks": networks, **self.protocol.config()}

    @property
    def _trains_teacher(self) -> bool:
        wanted = any(map(needs_teacher, self.methods.values()))
        return wanted and self.teacher is not None and self._given_teacher() is None

    def _given_teacher(self) -> tuple[keras.Model, list[int]] | None:
        """A trained teacher and its class counts, if it was given."""
        if isinstance(self.teacher, keras.Model):
            return self.teacher, self.train.class_counts.tolist()
        if isinstance(self.teacher, tuple):
            return self.teacher[0], list(self.teacher[1])
        return None

    def _train_all(self, methods: dict[str, Method], steps: int, progress: Progress) -> None:
        task = self._task(steps)
        for seed, division in self.rounds.items():
            teacher = self._given_teacher()
            if self._trains_teacher:
                teacher = self._teacher(task, division, seed, progress)
            for name, method in methods.items():
                if needs_teacher(method) and teacher is None:
                    continue  # its training has failed, and was reported
                runs = 2 if method.before is not None else 1
                with self._attempt(name, seed), progress.training(f"{name}, seed {seed}", runs * steps) as watch:
                    if not self.kept.row(name, seed):
                        self.kept.save(name, seed, train_student(task, method, division, seed, teacher, watch))
                keras.utils.clear_session()

    def _teacher(
        self, task: Task, division: Division, seed: int, progress: Progress
    ) -> tuple[keras.Model, list[int]] | None:
        with self._attempt(TEACHER, seed), progress.training(f"teacher, seed {seed}", task.steps) as watch:
            if not self.kept.row(TEACHER, seed):
                self.kept.save(TEACHER, seed, train_teacher(task, self.teacher, division, seed, watch))
            row = self.kept.row(TEACHER, seed) or {}
            return self.kept.model(TEACHER, seed), row["class_counts"]
        return None

    @contextlib.contextmanager
    def _attempt(self, name: str, seed: int) -> Iterator[None]:
        """Report what fails, and let the others go on."""
        try:
            yield
        except Exception as error:
            self.failures.append(Failure(name, seed, traceback.format_exc()))
            warnings.warn(
                f"{name}, seed {seed}, failed and is left out: {type(error).__name__}: {error}. The report has the "
                "whole traceback.",
                stacklevel=4,
            )

    def _check_networks(self) -> None:
        """Raise unless student and teacher have an output for each class."""
        inputs, _ = self._task(EPOCHS).in_order(Subset(self.train, np.arange(min(4, len(self.train)))))[0]
        given = self._given_teacher()
        models = {"student": self.student()}
        if self.teacher is not None:
            models["teacher"] = self.teacher() if given is None else given[0]
        for role, model in models.items():
            if not isinstance(model, keras.Model):
                raise ValueError(
                    f"`compare({role}=...)` takes a function without arguments that returns a `keras.Model`. "
                    f"Received: a function that returns {model!r}"
                )
            outputs, classes = model(inputs, training=False), len(self.train.class_names)
            if outputs.shape[-1] != classes and not (classes == 2 and outputs.shape[-1] == 1):
                raise ValueError(
                    f"`compare({role}=...)` needs a model with one logit for each of the {classes} classes. "
                    f"Received: a model with outputs of shape {tuple(outputs.shape)}"
                )
        keras.utils.clear_session()


def _read(data: Any, given: dict[str, Any]) -> tuple[Samples, dict[str, Subset | None]]:
    """Training samples, and the held-out ones that were given."""
    own: dict[str, Subset | None] = dict.fromkeys(given)
    if type(data).__name__ == "LongTailedData":
        train, own = of_long_tailed(data)
    else:
        train = samples_of("data", data)
    names = train.class_names
    return train, {
        argument: own[argument] if part is None else samples_of(argument, part, names).all()
        for argument, part in given.items()
    }


def _with_or_without_teacher(protocol: Protocol, teacher: Any) -> dict[str, Method]:
    methods = protocol.chosen_methods
    if teacher is not None:
        return methods
    left = {name: method for name, method in methods.items() if not needs_teacher(method)}
    if not left or (protocol.methods is not None and len(left) < len(methods)):
        missing = [name for name in methods if name not in left]
        raise ValueError(
            f"`compare(teacher=...)` is needed for {', '.join(missing)}. Pass a function that returns an untrained "
            "teacher, or a trained model. Received: teacher=None"
        )
    return left


def _check_classes(train: Samples, held: dict[str, Subset | None]) -> None:
    counts = train.class_counts
    if len(counts) < 2 or (counts > 0).sum() < 2:
        raise ValueError(
            f"`compare(data=...)` needs samples of at least two classes. Received: class counts {counts.tolist()}"
        )
    if (counts == 0).any():
        empty = [name for name, count in zip(train.class_names, counts) if not count]
        raise ValueError(f"`compare(data=...)` has no sample of {', '.join(empty[:10])}. Leave these classes out.")
    for argument, subset in held.items():
        if subset is not None and subset.samples.class_names != train.class_names:
            raise ValueError(
                f"`compare({argument}=...)` must have the classes of the training data, {train.class_names}. "
                f"Received: {subset.samples.class_names}"
            )
    if held["validation_data"] is None and (counts == 1).any():
        single = [name for name, count in zip(train.class_names, counts) if count == 1]
        warnings.warn(
            f"{len(single)} classes have a single sample, which is trained on, and cannot be judged: "
            f"{', '.join(single[:10])}. Pass `validation_data` with samples of them.",
            stacklevel=4,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the advice of single trainings to themselves: the comparison says what came out."""
    retracing = logging.getLogger("tensorflow")  # it counts the models of all trainings as one
    level = retracing.level
    with warnings.catch_warnings():
        for message in (r"The weights have collapsed", r"The weight network can no longer tell", r"The meta loss is"):
            warnings.filterwarnings("ignore", message=message)
        retracing.setLevel(logging.ERROR)
        try:
            yield
        finally:
            retracing.setLevel(level)


class _Stopwatch(keras.callbacks.Callback):
    """When each step ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []
        self.begin = 0.0
        self.steps: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.begin = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps.append(time.perf_counter() - self.begin)


def _timed(training: Callable[[_Stopwatch], Any]) -> tuple[float, float]:
    """Seconds besides the steps, and seconds per step once it is warm."""
    watch, start = _Stopwatch(), time.perf_counter()
    training(watch)
    total = time.perf_counter() - start
    step = float(np.mean(watch.steps[-_TIMED_STEPS // 2 :]))
    return max(total - step * len(watch.steps), 0.0), step * len(watch.steps) / _TIMED_STEPS


def _hash(subset: Subset) -> str:
    return f"{subset.samples.sha256[:16]} {len(subset.ids)}"


def _architecture(model: keras.Model) -> str:
    """A hash of what a network is made of; its weights are not part of it."""
    try:
        text = model.to_json()
    except NotImplementedError:  # a subclassed model without `get_config`
        text = f"{type(model).__qualname__} {[tuple(variable.shape) for variable in model.variables]}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
