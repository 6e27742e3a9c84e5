"""What a comparison has found, read from its folder."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_bikd import results
from keras_bikd.advisor.candidates import needs_teacher
from keras_bikd.advisor.evidence import Judged, evidence_of, wilson
from keras_bikd.advisor.holdout import Division
from keras_bikd.advisor.kept import Kept
from keras_bikd.advisor.recommendation import Recommendation, recommend
from keras_bikd.advisor.samples import Samples, Subset
from keras_bikd.advisor.suspects import Suspects, suspects_of
from keras_bikd.advisor.training import balanced_accuracy
from keras_bikd.comparison import Method

TEACHER = "teacher"
"""Name of the teachers among what is kept."""

_TOO_MANY = 0.15  # share of suspects above which labels are said to look wrong: of hard classes it was 0.1


class Failure(NamedTuple):
    """A training that could not be finished.

    Attributes:
        method: Name of the method.
        seed: Seed of the round.
        error: The traceback.
    """

    method: str
    seed: int
    error: str


class ClassAccuracy(NamedTuple):
    """Accuracy on one class.

    Attributes:
        accuracy: From 0 to 1; NaN without samples.
        low: Lower end of its 90 % interval.
        high: Upper end of its 90 % interval.
        samples: Different validation samples.
    """

    accuracy: float
    low: float
    high: float
    samples: int


class Findings:
    """The result of `compare`: rows, students, a recommendation and a report.

    Args:
        kept: The folder.
        train: The training samples.
        rounds: Seed to `Division`.
        methods: Name to `Method`, from the cheapest to the dearest.
        test: Test samples, or `None`.
        failures: Trainings that failed.
        teacher_counts: Class counts of the training of a given teacher; by default those of the training samples.

    Attributes:
        rows: A dict for every finished training: `method`, `seed`, `validation` (balanced accuracy in per cent),
            `test` (likewise, or `None`), `seconds`, `steps`, `history`, `config`, `versions`.
        evidence: What the validation samples say, an `Evidence`.
        recommendation: A `Recommendation`.
        suspects: Training samples whose labels look wrong, `Suspects`.
        command: The command that made the comparison, for the report; `None` if it was made in Python.
    """

    def __init__(
        self,
        kept: Kept,
        train: Samples,
        rounds: Mapping[int, Division],
        methods: Mapping[str, Method],
        *,
        test: Subset | None = None,
        failures: Sequence[Failure] = (),
        teacher_counts: Sequence[int] | None = None,
    ) -> None:
        self.kept, self.train, self.rounds, self.test = kept, train, dict(rounds), test
        self.failures = list(failures)
        self.teacher_counts = train.class_counts if teacher_counts is None else np.asarray(teacher_counts)
        self.command: str | None = None
        complete = [name for name in methods if all(kept.row(name, seed) for seed in rounds)]
        if not complete:
            errors = "\n".join(failure.error for failure in self.failures)
            raise ValueError(f"`compare` could not finish any method on all seeds. The errors were:\n{errors}")
        self.methods = {name: methods[name] for name in complete}
        self._arrays = {(name, seed): kept.arrays(name, seed) for name in complete for seed in rounds}
        self.rows = [self._row(name, seed) for name in complete for seed in rounds]
        self.evidence = evidence_of([self._judged(seed) for seed in rounds], self.class_counts)
        self.suspects = self._suspects()
        self.recommendation = self._recommendation()

    @property
    def folder(self) -> pathlib.Path:
        """The folder of the comparison."""
        return self.kept.folder

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""
        return self.train.class_names

    @property
    def class_counts(self) -> np.ndarray:
        """Samples per class of all data that may be trained on."""
        return self.train.class_counts

    @property
    def labels_look_wrong(self) -> bool:
        """Whether more than 15 % of the labels that were looked at are clearly suspect."""
        return self.suspects.share > _TOO_MANY

    def seconds(self, method: str) -> float:
        """Seconds of a training, mean over the seeds."""
        return float(np.mean([row["seconds"] for row in self.rows if row["method"] == method]))

    def teacher_seconds(self) -> float:
        """Seconds of the training of a teacher; 0 if none was trained."""
        rows = [self.kept.row(TEACHER, seed) for seed in self.rounds]
        return float(np.mean([row["seconds"] for row in rows if row] or [0.0]))

    def student(self, method: str | None = None, seed: int | None = None) -> keras.Model:
        """A trained student.

        Args:
            method: Name of the method; by default the recommended one.
            seed: One of the seeds; by default the first.

        Returns:
            The `keras.Model`.
        """
        return self.kept.model(*self._chosen(method, seed))

    def _chosen(self, method: str | None, seed: int | None) -> tuple[str, int]:
        return method or self.recommendation.method, next(iter(self.rounds)) if seed is None else seed

    def predicted(self, method: str, seed: int, part: str = "validation") -> np.ndarray:
        """Predicted classes of the validation or test samples of a round."""
        return self._arrays[method, seed][part].argmax(axis=-1)

    def logits(self, method: str, seed: int, part: str = "validation") -> np.ndarray:
        """Logits of the validation or test samples of a round, shape `(samples, classes)`."""
        return self._arrays[method, seed][part].astype("float64")

    def labels(self, seed: int, part: str = "validation") -> np.ndarray:
        """Labels of the validation or test samples of a round."""
        if part == "test" and self.test is not None:
            return self.test.labels
        return self.rounds[seed].validation.labels

    def confusion(self, method: str, part: str = "validation") -> np.ndarray:
        """Confusion matrix over all rounds, true class by predicted class."""
        from sklearn.metrics import confusion_matrix

        labels = np.concatenate([self.labels(seed, part) for seed in self.rounds])
        predicted = np.concatenate([self.predicted(method, seed, part) for seed in self.rounds])
        matrix: np.ndarray = confusion_matrix(labels, predicted, labels=range(len(self.class_names)))
        return matrix

    def class_accuracies(self, method: str) -> list[ClassAccuracy]:
        """Accuracy per class on the validation samples, with Wilson's 90 % interval."""
        recalls, counts = self.evidence.recalls[method], self.evidence.counts
        known = [(float(recall), int(count)) for recall, count in zip(recalls, counts)]
        return [ClassAccuracy(recall, *wilson(recall if count else 0.0, count), count) for recall, count in known]

    def weights(self, method: str) -> dict[str, np.ndarray] | None:
        """Losses and learned weights of training samples at the end of the first round; `None` for fixed weights."""
        seed = next(iter(self.rounds))
        prefix = "weights_"
        arrays = self._arrays[method, seed]
        return {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)} or None

    def history(self, method: str) -> list[dict[str, list[float]]]:
        """Training curves of a method, one dict per seed; `"validation"` is balanced accuracy from 0 to 1."""
        return [row["history"] for row in self.rows if row["method"] == method]

    def report(self, path: str | os.PathLike[str] | None = None, command: str | None = None) -> pathlib.Path:
        """Write a report: one HTML file with all tables and figures inside, which opens without a network.

        All training samples whose labels look wrong are listed next to it, in `suspected_labels.csv`.

        Args:
            path: The file; by default `report.html` in the folder of the comparison.
            command: The command that made the comparison, to be shown in the report.

        Returns:
            The path of the report.

        Raises:
            ImportError: If Jinja2 or matplotlib is missing; both come with the extra `viz`.
        """
        from keras_bikd.advisor.report import write_report

        return write_report(self, path, command)

    def export(self, folder: str | os.PathLike[str], formats: Sequence[str] = ("keras",)) -> pathlib.Path:
        """Write the recommended student of the first seed, to be used elsewhere, and a model card.

        The student needs no `keras_bikd`. Next to it are the names of the classes, `classes.json`, and `MODEL_CARD.md`.

        Args:
            folder: The folder; created if missing. Files of the same names are replaced.
            formats: Formats of the student: `"keras"` for `student.keras`, `"tf_saved_model"` for the folder
                `saved_model`, `"litert"` for `student.tflite`.

        Returns:
            The path of the folder.

        Raises:
            ImportError: If Jinja2 is missing; it comes with the extra `viz`.
            ValueError: If a format is unknown, or Keras cannot write it here.
        """
        from keras_bikd.advisor.export import export_student

        return export_student(self, folder, formats)

    def _row(self, name: str, seed: int) -> results.Row:
        row = self.kept.row(name, seed) or {}
        scores = {part: self._score(name, seed, part) for part in ("validation", "test")}
        return {**row, **scores}

    def _score(self, name: str, seed: int, part: str) -> float | None:
        if part == "test" and self.test is None:
            return None
        labels, predicted = self.labels(seed, part), self.predicted(name, seed, part)
        return 100 * balanced_accuracy(labels, predicted)

    def _judged(self, seed: int) -> Judged:
        division = self.rounds[seed]
        return Judged(
            division.validation.labels,
            {name: self.predicted(name, seed) for name in self.methods},
            division.validation.ids,
        )

    def _suspects(self) -> Suspects:
        """Suspects by what the students of the best method see; held-out samples are judged by strangers."""
        from scipy.special import softmax

        best = max(self.methods, key=self.evidence.mean)
        size, classes = len(self.train), len(self.class_names)
        sums, asked = np.zeros((2, size, classes)), np.zeros((2, size), int)  # by strangers, and by those trained on it
        for seed, division in self.rounds.items():
            arrays = self._arrays[best, seed]
            seen = [(1, arrays["train_ids"], arrays["train"])]
            if division.validation.samples is self.train:
                seen.append((0, division.validation.ids, arrays["validation"]))
            for was_trained_on, ids, logits in seen:
                own = ids < size  # others are checked samples
                sums[was_trained_on, ids[own]] += softmax(logits[own].astype("float64"), axis=-1)
                asked[was_trained_on, ids[own]] += 1
        judges = np.where(asked[0] > 0, 0, 1)
        looked_at = np.flatnonzero(asked[judges, np.arange(size)])
        judges = judges[looked_at]
        probabilities = sums[judges, looked_at] / asked[judges, looked_at][:, None]
        return suspects_of(looked_at, self.train.labels[looked_at], probabilities, judges == 0)

    def _recommendation(self) -> Recommendation:
        seconds = {name: self.seconds(name) for name in self.methods}
        with_teacher = {name: needs_teacher(method) for name, method in self.methods.items()}
        factors = _imbalance(self.class_counts), _imbalance(self.teacher_counts)
        found = recommend(self.evidence, factors, seconds, self.teacher_seconds(), with_teacher)
        if self.labels_look_wrong:
            found.sentences.append(self._about_labels())
        return found

    def _about_labels(self) -> str:
        share = f"{100 * self.suspects.share:.0f} % of the labels look wrong, or the classes are hard to tell apart."
        if any(division.checked is None for division in self.rounds.values()):
            share += (
                " If labels are wrong, check a few samples of every class and pass them as `meta_data`: then BiKD in "
                "two runs can be compared as well."
            )
        return share


def _imbalance(class_counts: np.ndarray) -> float:
    return float(class_counts.max() / max(class_counts.min(), 1))


def metadata_of(findings: Findings) -> dict[str, Any]:
    """What a reader needs to repeat a comparison: plan and versions."""
    plan = results.load_row(findings.folder / "plan.json") or {}
    return {"plan": plan, "versions": findings.rows[0]["versions"]}
