"""`compare`: train every method on the user's data under one protocol, and say which to use."""

import contextlib
import logging
import os
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_bikd.advisor.candidates import TWO_RUNS, needs_teacher
from keras_bikd.advisor.given import Data, GivenTeacher, Networks, chosen_methods, data_of, networks_of
from keras_bikd.advisor.holdout import Division, divide
from keras_bikd.advisor.kept import Kept
from keras_bikd.advisor.progress import Progress
from keras_bikd.advisor.protocol import Protocol
from keras_bikd.advisor.timing import TIMED_STEPS, Timing, steps_within, timed
from keras_bikd.advisor.training import EPOCHS, Task, clear_session, train_student, train_teacher
from keras_bikd.comparison import Method
from keras_bikd.comparison.findings import TEACHER, Failure, Findings

_MOST_PASSES = 200  # over the training data, however much time there is


def compare(
    data: Any,
    student: Callable[[], keras.Model],
    teacher: GivenTeacher = None,
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
        `Findings`, which has the rows, the students, `recommendation` and `report`.

    Raises:
        ValueError: If an argument does not fit, before the first training; or if no method could be finished.

    Examples:
        >>> import tempfile, numpy as np
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
    given = data_of(data, validation_data, meta_data, test_data)
    return Comparison(given, networks_of(student, teacher, given.train), folder=folder, protocol=protocol).run()


class Comparison:
    """A comparison that has been checked and not been run.

    Args:
        data: What `data_of` has read.
        networks: What `networks_of` has checked.
        folder: As in `compare`.
        protocol: As in `compare`.

    Attributes:
        rounds: Seed to `Division`.
        methods: Name to `Method`.
        kept: The folder, a `Kept`.
    """

    def __init__(self, data: Data, networks: Networks, *, folder: str | os.PathLike[str], protocol: Protocol) -> None:
        self.data, self.networks, self.protocol = data, networks, protocol
        self.methods = chosen_methods(protocol, networks)
        self.rounds = {
            seed: divide(
                self.data.train,
                min(protocol.seeds),
                fold=fold,
                share=protocol.validation_share,
                meta=self.data.meta,
                validation=self.data.validation,
            )
            for fold, seed in enumerate(protocol.seeds)
        }
        self.kept = Kept(folder)
        self.failures: list[Failure] = []

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
            if self._wants_two_runs(findings):
                progress.extend(2 * len(self.rounds) * steps)
                self._train_all(TWO_RUNS, steps, progress)
                findings = self._findings({**self.methods, **TWO_RUNS})
        return findings

    def plan(self) -> dict[str, Any]:
        """Decide how many steps each training has, and store it, so that a resumed comparison has the same.

        Returns:
            Dict of `"identity"` (what the results depend on), `"steps"`, and `"timing"` if there are `minutes`.
        """
        networks, data = self.networks.hashes(), self.data.hashes()
        own = {"data": data, "class_names": self.data.train.class_names, "networks": networks}
        identity = own | self.protocol.config()
        if stored := self.kept.plan(identity):
            return stored
        plan = {"identity": identity, "steps": self._default_steps()}
        if self.protocol.minutes is not None:
            timing = self.timing()
            steps = steps_within(self.protocol.minutes, timing, len(self.rounds))
            plan |= {"timing": timing, "steps": min(steps, self._steps_of_passes(_MOST_PASSES))}
        self.kept.save_plan(plan)
        return plan

    def timing(self) -> dict[str, Timing]:
        """Time a few steps of every training of a round.

        Returns:
            Name to `Timing`. A method that fails is left out, and reported when it is trained.
        """
        task, (seed, division) = self._task(TIMED_STEPS), next(iter(self.rounds.items()))
        teacher, found = self.networks.trained_teacher, {}
        with _quiet():
            if self._trains_teacher and (build := self.networks.build_teacher):
                found[TEACHER] = timed(lambda watch: train_teacher(task, build, division, seed, watch))
                teacher = build(), self.data.train.class_counts.tolist()
            for name, method in self.methods.items():

                def training(watch: keras.callbacks.Callback, method: Method = method) -> None:
                    train_student(task, method, division, seed, teacher, watch)

                with self._attempt(name, seed):
                    found[name] = timed(training)
            clear_session()
        return found

    def _default_steps(self) -> int:
        if self.protocol.steps is not None:
            return max(self.protocol.steps // EPOCHS, 1) * EPOCHS
        return min(self._steps_of_passes(30), 5000)

    def _steps_of_passes(self, passes: int) -> int:
        """Steps of so many passes over the training data, at least 500."""
        return max(passes * len(self.data.train) // self.protocol.batch_size, 500) // EPOCHS * EPOCHS

    def _task(self, steps: int) -> Task:
        protocol = self.protocol
        return Task(
            student=self.networks.student,
            optimizer=protocol.optimizer,
            steps=steps,
            batch_size=protocol.batch_size,
            augment=protocol.augment,
            test=self.data.test,
        )

    @property
    def _trains_teacher(self) -> bool:
        return self.networks.build_teacher is not None and any(map(needs_teacher, self.methods.values()))

    def _wants_two_runs(self, findings: Findings) -> bool:
        """Whether many labels look wrong, and checked samples can guide the first of two runs."""
        is_default = self.protocol.methods is None and self.networks.has_teacher
        return is_default and self.data.meta is not None and findings.labels_look_wrong

    def _findings(self, methods: dict[str, Method]) -> Findings:
        trained = self.networks.trained_teacher
        return Findings(
            self.kept,
            self.data.train,
            self.rounds,
            methods,
            test=self.data.test,
            failures=self.failures,
            teacher_counts=None if trained is None else trained[1],
        )

    def _train_all(self, methods: dict[str, Method], steps: int, progress: Progress) -> None:
        task = self._task(steps)
        for seed, division in self.rounds.items():
            teacher = self._teacher(task, division, seed, progress)
            for name, method in methods.items():
                if needs_teacher(method) and teacher is None:
                    continue  # its training has failed, and was reported
                runs = 2 if method.before is not None else 1
                with self._attempt(name, seed), progress.training(f"{name}, seed {seed}", runs * steps) as watch:
                    if not self.kept.row(name, seed):
                        self.kept.save(name, seed, train_student(task, method, division, seed, teacher, watch))
                clear_session()

    def _teacher(
        self, task: Task, division: Division, seed: int, progress: Progress
    ) -> tuple[keras.Model, list[int]] | None:
        """The teacher of a round and the class counts of its training; `None` if its training failed."""
        build = self.networks.build_teacher
        if build is None or not self._trains_teacher:
            return self.networks.trained_teacher
        with self._attempt(TEACHER, seed), progress.training(f"teacher, seed {seed}", task.steps) as watch:
            if not self.kept.row(TEACHER, seed):
                self.kept.save(TEACHER, seed, train_teacher(task, build, division, seed, watch))
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
