"""What a comparison has found: scores, students, suspected labels, a recommendation, and all numbers of the report."""

import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_bikd import results
from keras_bikd.comparison.export import export_student
from keras_bikd.comparison.intervals import Evidence, Judged, evidence_of, wilson
from keras_bikd.comparison.label_errors import Suspects, suspects_of
from keras_bikd.comparison.methods import BASELINE, Method
from keras_bikd.comparison.recommendation import Recommendation, recommend
from keras_bikd.comparison.report import BINS, write_report
from keras_bikd.comparison.samples import Round, Samples, Subset
from keras_bikd.comparison.store import Store
from keras_bikd.metrics import ExpectedCalibrationError, per_class_accuracy

TEACHER = "teacher"
"""Name of the teachers in the folder of results."""

_TOO_MANY = 0.15  # share of suspects above which labels are said to look wrong: of hard classes it was 0.1
_MOST_PAIRS, _SAMPLES_PER_PAIR = 8, 4


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
        rounds: Seed to `Round`.
        methods: Name to `Method`, from the cheapest to the most expensive. Those without a result for every seed are
            left out.
        test: Test samples, or `None`.
        failures: Trainings that failed.
        teacher_counts: Class counts of the training of a given teacher; by default those of the training samples.

    Attributes:
        folder: The folder of the comparison.
        class_names: Names of the classes.
        class_counts: Samples per class of all data that may be trained on.

    Raises:
        ValueError: If no method has a result for every seed.
    """

    def __init__(
        self,
        kept: Store,
        train: Samples,
        rounds: Mapping[int, Round],
        methods: Mapping[str, Method],
        *,
        test: Subset | None = None,
        failures: Sequence[Failure] = (),
        teacher_counts: Sequence[int] | None = None,
    ) -> None:
        self.kept, self.train, self.rounds, self.test = kept, train, dict(rounds), test
        self.folder, self.class_names, self.class_counts = kept.folder, train.class_names, train.class_counts
        self.failures = list(failures)
        self.teacher_counts = train.class_counts if teacher_counts is None else np.asarray(teacher_counts)
        self._first_seed = next(iter(self.rounds))
        self._arrays = functools.cache(kept.arrays)
        stored = {name: [kept.row(name, seed) for seed in rounds] for name in methods}
        self._stored = {name: [row for row in own if row] for name, own in stored.items() if all(own)}
        self.methods = {name: methods[name] for name in self._stored}
        if not self.methods:
            errors = "\n".join(failure.error for failure in self.failures)
            raise ValueError(f"`compare` could not finish any method on all seeds. The errors were:\n{errors}")

    @functools.cached_property
    def rows(self) -> list[results.Row]:
        """A dict for every training.

        Its keys are `method`, `seed`, `validation` (balanced accuracy in per cent), `test` (likewise, or `None`),
        `seconds`, `steps`, `history`, `config` and `versions`.
        """
        return [
            row | {part: self._score(name, seed, part) for part in ("validation", "test")}
            for name, own in self._stored.items()
            for seed, row in zip(self.rounds, own)
        ]

    @functools.cached_property
    def evidence(self) -> Evidence:
        """Scores of all methods on the validation samples, and their errors."""
        judged = []
        for seed, own in self.rounds.items():
            predicted = {name: self.predicted(name, seed) for name in self.methods}
            judged.append(Judged(own.validation.labels, predicted, own.validation.ids))
        return evidence_of(judged, self.class_counts)

    @functools.cached_property
    def recommendation(self) -> Recommendation:
        """The method to use, and why."""
        seconds = {name: self.seconds(name) for name in self.methods}
        factors = _imbalance(self.class_counts), _imbalance(self.teacher_counts)
        with_teacher = {name: own[0]["uses_teacher"] for name, own in self._stored.items()}
        found = recommend(self.evidence, factors, seconds, self.teacher_seconds(), with_teacher)
        if self.labels_look_wrong:
            found.sentences.append(self._about_labels())
        return found

    @functools.cached_property
    def suspects(self) -> Suspects:
        """Training samples whose labels look wrong to the students of the best method.

        The students that were not trained on a sample judge it, if there are any.
        """
        from scipy.special import softmax

        best = max(self.methods, key=self.evidence.mean)
        size, classes = len(self.train), len(self.class_names)
        sums, asked = np.zeros((2, size, classes)), np.zeros((2, size), int)  # held out, and trained on
        for seed, division in self.rounds.items():
            arrays = self._arrays(best, seed)
            judged = [(1, arrays["train_ids"], arrays["train"])]
            if division.validation.samples is self.train:
                judged.append((0, division.validation.ids, arrays["validation"]))
            for was_trained_on, ids, logits in judged:
                own = ids < size  # others are checked samples
                sums[was_trained_on, ids[own]] += softmax(logits[own].astype("float64"), axis=-1)
                asked[was_trained_on, ids[own]] += 1
        judges = np.where(asked[0] > 0, 0, 1)
        looked_at = np.flatnonzero(asked[judges, np.arange(size)])
        judges = judges[looked_at]
        probabilities = sums[judges, looked_at] / asked[judges, looked_at][:, None]
        return suspects_of(looked_at, self.train.labels[looked_at], probabilities, judges == 0)

    @property
    def labels_look_wrong(self) -> bool:
        """Whether more than 15 % of the labels that were looked at are clearly suspect."""
        return self.suspects.share > _TOO_MANY

    def seconds(self, method: str) -> float:
        """Seconds of a training, mean over the seeds."""
        return float(np.mean([row["seconds"] for row in self._stored[method]]))

    def teacher_seconds(self) -> float:
        """Seconds of the training of a teacher, mean over the seeds; 0 if none was trained."""
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
        return self.kept.model(method or self.recommendation.method, self._first_seed if seed is None else seed)

    def predicted(self, method: str, seed: int, part: str = "validation") -> np.ndarray:
        """Predicted classes of the validation or test samples of a round."""
        return self._arrays(method, seed)[part].argmax(axis=-1)

    def logits(self, method: str, seed: int, part: str = "validation") -> np.ndarray:
        """Logits of the validation or test samples of a round, shape `(samples, classes)`."""
        return self._arrays(method, seed)[part].astype("float64")

    def labels(self, seed: int, part: str = "validation") -> np.ndarray:
        """Labels of the validation or test samples of a round."""
        if part == "test" and self.test is not None:
            return self.test.labels
        return self.rounds[seed].validation.labels

    def confusion(self, method: str, part: str = "validation") -> np.ndarray:
        """Confusion matrix over all rounds, true class by predicted class."""
        from sklearn.metrics import confusion_matrix

        labels, predicted = self._judged(method, part)
        matrix: np.ndarray = confusion_matrix(labels, predicted, labels=range(len(self.class_names)))
        return matrix

    def class_accuracies(self, method: str) -> list[ClassAccuracy]:
        """Accuracy per class on the validation samples, with Wilson's 90 % interval."""
        known = zip(self.evidence.recalls(method).tolist(), self.evidence.counts.tolist())
        return [ClassAccuracy(recall, *wilson(recall, count), count) for recall, count in known]

    def calibration(self, method: str) -> dict[str, float]:
        """Expected calibration error on the validation samples, in points.

        Args:
            method: Name of the method.

        Returns:
            Dict of `"error"`, to which every sample counts alike, and `"balanced"`, to which every class does.
        """
        metrics = {name: ExpectedCalibrationError(num_bins=BINS) for name in ("error", "balanced")}
        for seed in self.rounds:
            labels, logits = self.labels(seed), self.logits(method, seed)
            metrics["error"].update_state(labels, logits)
            metrics["balanced"].update_state(labels, logits, 1 / np.bincount(labels)[labels])
        return {name: 100 * float(metric.result()) for name, metric in metrics.items()}

    def weights(self, method: str) -> dict[str, np.ndarray] | None:
        """Losses and learned weights of training samples at the end of the first round; `None` for fixed weights."""
        prefix, arrays = "weights_", self._arrays(method, self._first_seed)
        return {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)} or None

    def history(self, method: str) -> list[dict[str, list[float]]]:
        """Training curves of a method, one dict per seed; `"validation"` is balanced accuracy from 0 to 1."""
        return [row["history"] for row in self._stored[method]]

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
        numbers = self.numbers() | {"command": command}
        return write_report(numbers, self.train, pathlib.Path(self.folder / "report.html" if path is None else path))

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
        return export_student(self.student(), self.train.export, self.numbers(), pathlib.Path(folder), formats)

    def numbers(self) -> dict[str, Any]:
        """All that the report and the model card say; scores are in per cent, differences in points."""
        method = self.recommendation.method
        baseline = BASELINE if BASELINE in self.methods and method != BASELINE else None
        shown = [method] if baseline is None else [baseline, method]
        largest_first = np.argsort(-self.class_counts, kind="stable").tolist()
        return {
            "method": method,
            "baseline": baseline,  # `None` if it is recommended, or was not trained
            "baseline_name": BASELINE,
            "sentences": self.recommendation.sentences,
            "class_names": self.class_names,
            "counts": self.class_counts,
            "held_out": self.evidence.counts,
            "groups": self.evidence.groups,
            "seeds": list(self.rounds),
            "methods": [self._method(name) for name in self.methods],
            "largest_first": largest_first,
            "unjudged": [self.class_names[i] for i in largest_first if not self.evidence.counts[i]],
            "accuracies": {name: self.class_accuracies(name) for name in shown},
            "confusion": {name: self.confusion(name) for name in shown},
            "pairs": self._confused_pairs(method),
            "calibration": {name: self.calibration(name) for name in shown},
            "confidences": {name: self._confidences(name) for name in shown},
            "weights": {name: weights for name in self.methods if (weights := self.weights(name))},
            "curves": {name: [own["validation"] for own in self.history(name)] for name in self.methods},
            "suspects": self.suspects,
            "failures": self.failures,
            "setup": self._setup(),
        }

    def _score(self, name: str, seed: int, part: str) -> float | None:
        if part == "test" and self.test is None:
            return None
        return 100 * float(np.nanmean(self._recalls(self.labels(seed, part), self.predicted(name, seed, part))))

    def _recalls(self, labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        return per_class_accuracy(labels, predicted, len(self.class_names))

    def _method(self, name: str) -> dict[str, Any]:
        """The line of a method; `difference` and `times` compare its score and seconds with those of the baseline."""
        evidence, rows = self.evidence, [row for row in self.rows if row["method"] == name]
        known = BASELINE in self.methods
        line = {
            "name": name,
            "score": results.spread(row["validation"] for row in rows),
            "mean": evidence.mean(name),
            "scores": evidence.scores(name),
            "interval": evidence.interval(name),
            "groups": self._groups(evidence.recalls(name)),
            "difference": evidence.difference(name, BASELINE) if known and name != BASELINE else None,
            "seconds": self.seconds(name),
            "times": self.seconds(name) / self.seconds(BASELINE) if known else None,
        }
        if self.test is None:
            return line | {"test": None, "test_groups": {}}
        groups = self._groups(self._recalls(*self._judged(name, "test")))
        return line | {"test": results.spread(row["test"] for row in rows), "test_groups": groups}

    def _groups(self, recalls: np.ndarray) -> dict[str, float]:
        """Accuracy of each group of classes, rarest first: mean over its classes that have samples."""
        chosen = {name: recalls[classes] for name, classes in reversed(self.evidence.groups.items())}
        return {name: 100 * float(np.nanmean(own)) for name, own in chosen.items() if not np.isnan(own).all()}

    def _confused_pairs(self, method: str) -> dict[tuple[int, int], Subset]:
        """The pairs of classes that a method confuses most, true and predicted, with samples that it confuses.

        They are sorted by the lower end of the interval of their share: one of one counts less than eight of ten.
        """
        confusion = self.confusion(method)
        totals = confusion.sum(axis=1)
        pairs = [(i, j) for i, j in np.argwhere(confusion).tolist() if i != j]
        pairs.sort(key=lambda pair: -wilson(confusion[pair] / totals[pair[0]], totals[pair[0]])[0])
        return {pair: self._confused(method, *pair) for pair in pairs[:_MOST_PAIRS]}

    def _confused(self, method: str, label: int, predicted: int) -> Subset:
        """Some validation samples of a class that a method takes for another."""
        samples = self.rounds[self._first_seed].validation.samples
        found = [np.zeros(0, int)]
        for seed, own in self.rounds.items():
            is_confused = (own.validation.labels == label) & (self.predicted(method, seed) == predicted)
            if own.validation.samples is samples:
                found.append(own.validation.ids[is_confused])
        return Subset(samples, np.unique(np.concatenate(found))[:_SAMPLES_PER_PAIR])

    def _confidences(self, method: str) -> tuple[np.ndarray, np.ndarray]:
        """Confidence of every prediction for validation samples over all rounds, and whether it is right."""
        from scipy.special import softmax

        logits = np.concatenate([self.logits(method, seed) for seed in self.rounds])
        labels, predicted = self._judged(method)
        return softmax(logits, axis=-1).max(axis=-1), predicted == labels

    def _judged(self, method: str, part: str = "validation") -> tuple[np.ndarray, np.ndarray]:
        """Labels and predictions of all rounds."""
        labels = [self.labels(seed, part) for seed in self.rounds]
        return np.concatenate(labels), np.concatenate([self.predicted(method, seed, part) for seed in self.rounds])

    def _about_labels(self) -> str:
        share = f"{100 * self.suspects.share:.0f} % of the labels look wrong, or the classes are hard to tell apart."
        if all(division.checked is not None for division in self.rounds.values()):
            return share
        return (
            f"{share} If labels are wrong, check a few samples of every class and pass them as `meta_data`: then BiKD "
            "in two runs can be compared as well."
        )

    def _setup(self) -> dict[str, Any]:
        """How the comparison was done: sizes of the rounds, settings, versions, and hashes of data and networks."""
        plan = results.load_row(self.folder / "plan.json") or {}
        identity, row = plan.get("identity", {}), self.rows[0]
        kinds = {"data": identity.get("data", {}), "network": identity.get("networks", {})}
        return {
            "rounds": [self._sizes(seed) for seed in self.rounds],
            "settings": {
                "steps of a training": row["steps"],
                "seeds": ", ".join(map(str, self.rounds)),
                "batch size": identity.get("batch_size"),
                "optimizer": _optimizer(identity.get("optimizer")),
                "augmentation": identity.get("augment") or "none",
                "teacher": "trained in each round" if self.teacher_seconds() else None,
            },
            "versions": row["versions"],
            "hashes": {f"{name} {kind}": text for kind, own in kinds.items() for name, text in own.items()},
        }

    def _sizes(self, seed: int) -> dict[str, int]:
        own = self.rounds[seed]
        parts = {"training": own.train, "validation": own.validation, "meta": own.meta, "test": self.test}
        return {"seed": seed} | {name: len(part.ids) for name, part in parts.items() if part is not None}


def _imbalance(class_counts: np.ndarray) -> float:
    return float(class_counts.max() / max(class_counts.min(), 1))


def _optimizer(config: dict[str, Any] | None) -> str | None:
    """Name and learning rate of a serialized optimizer."""
    if config is None:
        return None
    rate = config["config"].get("learning_rate")
    if isinstance(rate, dict):
        first = rate["config"].get("initial_learning_rate")
        rate = rate["class_name"] if first is None else f"{rate['class_name']} from {first:g}"
    return f"{config['class_name']}, learning rate {rate}"
