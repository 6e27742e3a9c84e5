"""`compare`: train every method on the user's data under one protocol, and say which to use."""

import contextlib
import json
import logging
import os
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
from rich import progress  # which Keras requires

from keras_bikd.comparison.findings import TEACHER, Failure, Findings
from keras_bikd.comparison.methods import TWO_RUNS, Method, Protocol, as_methods
from keras_bikd.comparison.processes import train_on_dask
from keras_bikd.comparison.samples import Batches, Given, Round, Samples, Subset, read_data
from keras_bikd.comparison.store import Store, Trained, described, digest, file_name
from keras_bikd.comparison.training import (
    EPOCHS,
    Builder,
    Task,
    Teaching,
    Training,
    built,
    clear_session,
    parts_of,
    train_student,
    train_teacher,
)
from keras_bikd.types import Logs

TIMED_STEPS = 10
"""Steps that are timed."""

FEWEST = 50
"""The fewest steps that a training may have."""

_PLANNED = 0.8  # part of the minutes that is planned: trainings took a sixth longer than their first steps said
_MOST_PASSES = 200  # over the training data, however much time there is

GivenTeacher: TypeAlias = Builder | keras.Model | tuple[keras.Model, Sequence[int]] | None
"""A teacher's builder, a trained teacher, one with the class counts of its training, or none."""


def compare(
    data: Any,
    student: Builder,
    teacher: GivenTeacher = None,
    *,
    folder: str | os.PathLike[str],
    validation_data: Any = None,
    meta_data: Any = None,
    test_data: Any = None,
    protocol: Protocol = Protocol(),  # noqa: B008 (frozen)
    workers: int | str = 1,
) -> Findings:
    """Find out which method to use on your data.

    All methods train the same student on the same samples for the same number of steps, each with several seeds. The
    validation samples decide. Everything is kept in `folder` as soon as it is finished: the same call resumes a
    comparison that was killed, and returns at once when all is there; further methods and seeds are added to it. A
    method that fails does not stop the others.

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
        workers: Number of trainings at a time. More than one are processes of a Dask cluster that ends with this call,
            which a script must then make under `if __name__ == "__main__":`. The address of a Dask scheduler of yours,
            such as `"tcp://host:8786"`, in the place of a number. Its workers see `folder` under the same path.

    Returns:
        `Findings`, which has the rows, the students, `recommendation` and `report`.

    Raises:
        ImportError: If Dask is needed and missing.
        ValueError: If an argument does not fit, before the first training; or if no method could be finished.

    Examples:
        >>> import tempfile
        >>> keras.config.disable_interactive_logging()  # no progress bar
        >>> random = np.random.default_rng(0)
        >>> y = np.repeat([0, 1, 2], [60, 20, 8])
        >>> x = random.normal(size=(88, 4)).astype("float32") + y[:, None]
        >>> def network(units=4):
        ...     layers = [
        ...         keras.Input((4,)),
        ...         keras.layers.Dense(units, "relu"),
        ...         keras.layers.Dense(3),
        ...     ]
        ...     return keras.Sequential(layers)
        >>> protocol = Protocol(
        ...     methods=("cross-entropy", "balanced softmax"), seeds=(0, 1), steps=20
        ... )
        >>> findings = compare(
        ...     (x, y), network, folder=tempfile.mkdtemp(), protocol=protocol
        ... )
        >>> sorted({row["method"] for row in findings.rows})
        ['balanced softmax', 'cross-entropy']
        >>> keras.config.enable_interactive_logging()
    """
    given = read_data(data, validation_data, meta_data, test_data)
    return prepare(given, student, teacher, folder=folder, protocol=protocol).run(workers)


def prepare(
    given: Given, student: Builder, teacher: GivenTeacher, *, folder: str | os.PathLike[str], protocol: Protocol
) -> "Comparison":
    """Check the networks of `compare`, and make the rounds; the arguments are as there.

    Returns:
        A `Comparison`.

    Raises:
        ValueError: If a network is none, or has other outputs, or a method does not fit.
    """
    train = given.train
    single = [name for name, count in zip(train.class_names, train.class_counts) if count == 1]
    if single and given.validation is None:
        warnings.warn(
            f"{len(single)} classes have a single sample, which is trained on, and cannot be judged: "
            f"{', '.join(single[:10])}. Give validation data with samples of them.",
            stacklevel=3,  # where `compare` was called
        )
    taught = _teacher(teacher, train)
    networks = _checked_networks(train, student, taught)
    rounds = given.rounds(protocol.seeds, protocol.validation_share, {} if taught is None else {TEACHER: taught})
    identity = {"data": given.hashes(), "class_names": train.class_names, "networks": networks}
    return Comparison(student, rounds, protocol, folder=folder, identity=identity)


def _teacher(teacher: GivenTeacher, train: Samples) -> tuple[keras.Model, list[int]] | Teaching | None:
    if isinstance(teacher, keras.Model):
        return teacher, train.class_counts.tolist()
    if isinstance(teacher, tuple):
        return teacher[0], [int(count) for count in teacher[1]]
    return None if teacher is None else Teaching(teacher)


def _checked_networks(
    train: Samples, student: Builder, teacher: tuple[keras.Model, list[int]] | Teaching | None
) -> dict[str, str]:
    """What tells the networks from others: how they are built, and what a trained teacher has learned."""
    clear_session()  # layers are numbered from the start
    inputs, _ = Batches(Subset(train, np.arange(min(4, len(train)))), 4)[0]
    found = {"student": _architecture(_checked("student", student, inputs, train))}
    if isinstance(teacher, Teaching):
        found["teacher"] = _architecture(_checked("teacher", teacher.build, inputs, train))
    elif teacher is not None:  # its layers were numbered before
        model = _checked("teacher", lambda: teacher[0], inputs, train)
        found["teacher"] = digest(described([teacher[1], *model.get_weights()]))
    return found


def _checked(role: str, build: Any, inputs: Any, train: Samples) -> keras.Model:
    """The network that a function makes, with an output for each class."""
    model = None if isinstance(build, keras.Model) or not callable(build) else build()
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"The {role} is given as a function without arguments that returns an untrained `keras.Model`: every "
            f"training starts from a fresh one. Received: {build!r}, which returns {model!r}"
        )
    num_classes, outputs = len(train.class_names), model(inputs, training=False)
    if outputs.shape[-1] != num_classes and not (num_classes == 2 and outputs.shape[-1] == 1):
        raise ValueError(
            f"The {role} needs one logit for each of the {num_classes} classes. "
            f"Received: a model with outputs of shape {tuple(outputs.shape)}"
        )
    return model


def _architecture(model: keras.Model) -> str:
    text = f"{type(model).__qualname__} {[tuple(variable.shape) for variable in model.variables]}"
    with contextlib.suppress(NotImplementedError):  # a subclassed model without `get_config`
        text = model.to_json()
    return digest(text)


class Looked(NamedTuple):
    """What a method is, seen before its trainings.

    Attributes:
        teachers: Names of the teachers that it learns from.
        config: What its results depend on.
    """

    teachers: tuple[str, ...]
    config: dict[str, Any]


class Comparison:
    """Trainings of all methods in all rounds, which are kept in a folder. Nothing has been trained yet.

    Args:
        student: Makes an untrained student.
        rounds: Seed to `Round`.
        protocol: The `Protocol`. The seeds are those of the rounds.
        folder: As in `compare`.
        identity: What tells data and networks from others, for JSON.

    Attributes:
        methods: Name to `Method`.
        two_runs: Likewise, of methods that are trained only where the others say that many labels are wrong.
        store: The folder, a `Store`.
        failures: Trainings that have failed.

    Raises:
        ValueError: If a method needs what the rounds do not have, or what it does cannot be described.
    """

    def __init__(
        self,
        student: Builder,
        rounds: Mapping[int, Round],
        protocol: Protocol,
        *,
        folder: str | os.PathLike[str],
        identity: dict[str, Any],
    ) -> None:
        self.student, self.rounds, self.protocol = student, dict(rounds), protocol
        self.first = next(iter(self.rounds.values()))
        self.store, self.failures = Store(folder), list[Failure]()
        self.identity = {**identity, **protocol.config()}
        has_all = self.first.checked is not None and TEACHER in self.first.teachers
        self.two_runs = as_methods(TWO_RUNS) if has_all and protocol.methods is None else {}
        methods = protocol.chosen_methods
        self.looked = {name: self._look(name, own) for name, own in (methods | self.two_runs).items()}
        self.methods = self._fitting(methods)

    def run(self, workers: int | str = 1) -> Findings:
        """Do all trainings that are not done yet.

        Args:
            workers: As in `compare`.
        """
        self.train(self.methods, workers)
        findings = self._findings(self.methods)
        if self.two_runs and findings.labels_look_wrong:
            self.train(self.two_runs, workers)
            findings = self._findings(self.methods | self.two_runs)
        return findings

    def plan(self) -> dict[str, Any]:
        """Decide how many steps each training has, and store it, so that a resumed comparison has the same.

        Returns:
            Dict of `"identity"` (what the results depend on), `"steps"`, and `"timing"` if there are `minutes`.
        """
        if stored := self.store.plan(self.identity):
            return stored
        protocol = self.protocol
        steps = min(self._steps_of_passes(30), 5000) if protocol.steps is None else protocol.steps
        plan = {"identity": self.identity, "steps": max(steps // EPOCHS, 1) * EPOCHS}
        if protocol.minutes is not None:
            timing = self.timing()
            steps = steps_within(protocol.minutes, timing, len(self.rounds))
            plan |= {"timing": timing, "steps": min(steps, self._steps_of_passes(_MOST_PASSES))}
        self.store.save_plan(plan)
        return json.loads(json.dumps(plan))

    def _steps_of_passes(self, passes: int) -> int:
        """Steps of so many passes over the training data, at least 500."""
        return max(passes * len(self.first.train.samples) // self.protocol.batch_size, 500) // EPOCHS * EPOCHS

    def timing(self) -> dict[str, tuple[float, float]]:
        """Time a few steps of every training of a round.

        Returns:
            Name to seconds besides the steps, and seconds of a step. A method that fails is left out with a warning,
            and reported when it is trained.
        """
        found, teachers = {}, {name: own for name, own in self.first.teachers.items() if not callable(own)}
        with _quiet():
            for training in [own for own in self.trainings(self.methods) if own.seed == self.first.seed]:
                steps, start = _StepTimes(), time.perf_counter()
                try:
                    trained = self._trained(training, TIMED_STEPS, teachers, steps)
                except Exception as error:  # also those of a user's functions
                    text = f"{training.name} cannot be timed: {type(error).__name__}: {error}"
                    warnings.warn(text, stacklevel=2)
                    continue
                in_steps = steps.total()
                found[training.name] = max(time.perf_counter() - start - in_steps, 0.0), in_steps / TIMED_STEPS
                if training.is_teacher:
                    teachers[training.name] = trained.model, trained.row["class_counts"]
            clear_session()
        return found

    def _trained(self, training: Training, steps: int, teachers: Mapping[str, Any], *watchers: Any) -> Trained:
        task, round_ = Task(self.student, self.protocol, steps), self.rounds[training.seed]
        if training.is_teacher:
            return train_teacher(task, round_.teachers[training.name], round_, *watchers)
        return train_student(task, (self.methods | self.two_runs)[training.name], round_, teachers, *watchers)

    def trainings(self, methods: Mapping[str, Method]) -> list[Training]:
        """All trainings of some methods, teachers before their students."""
        found = []
        for seed, round_ in self.rounds.items():
            trained = {name for name, own in round_.teachers.items() if callable(own)}
            needed = {name: [own for own in self.looked[name].teachers if own in trained] for name in methods}
            teachers = dict.fromkeys(teacher for own in needed.values() for teacher in own)
            found += [Training(name, seed, is_teacher=True) for name in teachers]
            found += [Training(name, seed, tuple(own)) for name, own in needed.items()]
        return found

    def train(self, methods: Mapping[str, Method], workers: int | str = 1) -> None:
        """Do those trainings that are not done yet, and note which fail.

        Args:
            methods: Some of the methods.
            workers: As in `compare`.
        """
        task = Task(self.student, self.protocol, self.plan()["steps"])
        left = [own for own in self.trainings(methods) if not self.is_done(own)]
        wanted = {(teacher, own.seed) for own in left for teacher in own.teachers}
        left = [own for own in left if not own.is_teacher or (own.name, own.seed) in wanted]
        lengths = {own: task.steps if own.is_teacher else task.all_steps_of(methods[own.name]) for own in left}
        for own in left:
            self.store.forget(own.name, own.seed)
        with _quiet(), _bar() as bar:
            shown, done, failed = bar.add_task("training", total=sum(lengths.values())), 0, set()
            for training, error in self._outcomes(left, workers, bar, shown):
                done += lengths[training]
                bar.update(shown, completed=done)
                if error is not None:
                    failed.add((training.name, training.seed))
                    if not failed.intersection((name, training.seed) for name in training.teachers):
                        self._note(training, error)

    def _outcomes(
        self, left: list[Training], workers: int | str, bar: progress.Progress, shown: progress.TaskID
    ) -> Iterator[tuple[Training, str | None]]:
        if workers != 1 and left:
            yield from train_on_dask(self, left, workers)
            return
        count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: bar.advance(shown))
        for training in left:
            bar.update(shown, description=f"{training.name}, seed {training.seed}")
            yield training, self.train_one(training, count)

    def train_one(self, training: Training, *watchers: Any) -> str | None:
        """Do one training, unless another process has done it meanwhile.

        Args:
            training: One of `trainings`.
            *watchers: Callbacks of `fit`.

        Returns:
            `None`, or the traceback if it has failed.
        """
        try:
            if not self.is_done(training):
                teachers = self._teachers(training)
                trained = self._trained(training, self.plan()["steps"], teachers, *watchers)
                if not training.is_teacher:
                    trained.row.update(config=self.looked[training.name].config, uses_teacher=bool(teachers))
                self.store.save(training.name, training.seed, self.identity_of(training), trained)
        except Exception:  # one method must not stop the others
            return traceback.format_exc()
        finally:
            clear_session()
        return None

    def _teachers(self, training: Training) -> dict[str, tuple[keras.Model, list[int]]]:
        """The trained teachers of a method."""
        names = () if training.is_teacher else self.looked[training.name].teachers
        found = {name: self.rounds[training.seed].teachers[name] for name in names}
        for name in training.teachers:
            if (row := self.store.row(name, training.seed)) is None:
                raise ValueError(f"The training of its teacher has failed: {name}, seed {training.seed}.")
            found[name] = self.store.model(name, training.seed), row["class_counts"]
        return found

    def is_done(self, training: Training) -> bool:
        """Whether the folder has this training, with everything that it depends on as it is now."""
        return self.store.row(training.name, training.seed, self.identity_of(training)) is not None

    def identity_of(self, training: Training) -> str:
        """A hash of all that the result of a training depends on."""
        own = training.name if training.is_teacher else self.looked[training.name].config
        return digest([self.identity, self.plan()["steps"], self.rounds[training.seed].hashes(), training.seed, own])

    def _look(self, name: str, method: Method) -> Looked:
        """Build the model of a method once, untrained, to see what it is."""
        clear_session()  # layers are numbered from the start
        keras.utils.set_random_seed(0)
        task, first = Task(self.student, self.protocol, EPOCHS), self.first
        before, teachers, configs = None, [], []
        for run in method.runs:
            known = first.teachers.get(run.teacher)
            if isinstance(known, Teaching):
                known = known.build(), first.train.class_counts.tolist()
            try:
                before = built(run, parts_of(task, run, first, known if isinstance(known, tuple) else None, before))
            except Exception as error:
                raise ValueError(f"The method {name!r} cannot build its model: {error}") from error
            if getattr(getattr(before, "objective", None), "uses_teacher", True):
                teachers.append(run.teacher)
            configs.append(_config_of(before))
        return Looked(tuple(dict.fromkeys(teachers)), {"method": described(method), "models": configs})

    def _fitting(self, methods: dict[str, Method]) -> dict[str, Method]:
        """The methods; without a teacher, those of the default ones that need none."""
        known = set.intersection(*(set(own.teachers) for own in self.rounds.values()))
        names = [*known, *methods]  # of files
        if len({file_name(name) for name in names}) < len(names):
            raise ValueError(f"The names of the methods must differ in more than signs. Received: {names}")
        lacking = [name for name in methods if not known.issuperset(self.looked[name].teachers)]
        if self.protocol.methods is not None and lacking:
            raise ValueError(
                f"The method {lacking[0]!r} needs a teacher. Pass `teacher`: a function that returns an untrained one, "
                f"or a trained model. Received: teachers {sorted(known)}, needed: "
                f"{list(self.looked[lacking[0]].teachers)}"
            )
        return {name: method for name, method in methods.items() if name not in lacking}

    def _note(self, training: Training, error: str) -> None:
        self.failures.append(Failure(training.name, training.seed, error))
        warnings.warn(
            f"{training.name}, seed {training.seed}, failed and is left out: {error.strip().splitlines()[-1]}. The "
            "report has the whole traceback.",
            stacklevel=4,
        )

    def _findings(self, methods: Mapping[str, Method]) -> Findings:
        first, given = self.first, self.first.teachers.get(TEACHER)
        counts = given[1] if isinstance(given, tuple) else None
        more: dict[str, Any] = {"test": first.test, "failures": self.failures, "teacher_counts": counts}
        return Findings(self.store, first.train.samples, self.rounds, methods, **more)


def _config_of(model: keras.Model) -> Any:
    """The configuration of a model without its networks; the rounding of another machine does not count."""
    try:
        config = model.get_config()
    except NotImplementedError:  # a class of the user's, which is described by its source
        return None
    own = {key: value for key, value in config.items() if key not in ("name", "student", "teacher")}
    return json.loads(json.dumps(own, default=described), parse_float=lambda text: float(f"{float(text):.6g}"))


def steps_within(minutes: float, timing: Mapping[str, tuple[float, float]], rounds: int) -> int:
    """Steps of every training, so that all of them take at most so many minutes, with some room.

    Args:
        minutes: Time for all rounds.
        timing: What `Comparison.timing` returned.
        rounds: Number of rounds.

    Raises:
        ValueError: If these are too few.

    Examples:
        >>> steps_within(1, {"cross-entropy": (2.0, 0.1), "KD": (3.0, 0.2)}, rounds=2)
        60
    """
    if not timing:
        raise ValueError(
            "No training could be timed, so no number of steps fits into the minutes. Give `steps` to see why they "
            f"fail. Received: minutes={minutes:g}"
        )
    besides, step = (sum(column) for column in zip(*timing.values()))
    steps = int((_PLANNED * 60 * minutes / rounds - besides) / step) // EPOCHS * EPOCHS
    if steps < FEWEST:
        needed = rounds * (besides + FEWEST * step) / 60 / _PLANNED
        raise ValueError(
            f"The time is too short for {len(timing) * rounds} trainings of at least {FEWEST} steps. "
            f"Received: minutes={minutes:g}. Give it {needed:.1f} minutes, or take fewer seeds or methods."
        )
    return steps


class _StepTimes(keras.callbacks.Callback):
    """Seconds of every step of a training of `TIMED_STEPS`, or a multiple of it."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        self.seconds.append(-time.perf_counter())

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.seconds[-1] += time.perf_counter()

    def total(self) -> float:
        """Seconds of all steps, as fast as the last ones: the first are compiled."""
        return float(np.mean(self.seconds[-TIMED_STEPS // 2 :])) * len(self.seconds)


def _bar() -> progress.Progress:
    """A progress bar with the time left, in the end the time taken; silent if Keras' interactive logging is off."""
    columns = (*progress.Progress.get_default_columns()[:-1], progress.TimeRemainingColumn(elapsed_when_finished=True))
    hidden = not keras.config.is_interactive_logging_enabled()
    return progress.Progress(*columns, disable=hidden, speed_estimate_period=600)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the advice of single trainings to themselves: the comparison says what came out."""
    advice = "The weights have collapsed|The weight network can no longer tell|The meta loss is"
    retracing = logging.getLogger("tensorflow")  # it counts the models of all trainings as one
    level = retracing.level
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=advice)
        retracing.setLevel(logging.ERROR)
        try:
            yield
        finally:
            retracing.setLevel(level)
