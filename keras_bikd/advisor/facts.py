"""The numbers of a report and of a model card, computed once from what a comparison has found."""

from typing import Any, NamedTuple

import keras
import numpy as np

from keras_bikd import results
from keras_bikd.advisor.candidates import BASELINE, needs_teacher
from keras_bikd.advisor.evidence import wilson
from keras_bikd.advisor.findings import TEACHER, ClassAccuracy, Findings, metadata_of
from keras_bikd.metrics import ExpectedCalibrationError

BINS = 10
"""Bins of confidence."""


class MethodLine(NamedTuple):
    """A method in the table of methods; scores are in per cent, differences in points.

    Attributes:
        name: Name of the method.
        recommended: Whether it is the recommended one.
        teacher: Whether it learns from a teacher.
        score: Balanced accuracy on validation samples, mean and spread over the seeds, as text.
        mean: The mean alone.
        scores: Balanced accuracy of every seed.
        low: Lower end of its 90 % interval.
        high: Upper end of its 90 % interval.
        groups: Group of classes to accuracy, for the groups with validation samples.
        difference: `(estimate, low, high)` against the baseline; `None` for the baseline and without one.
        seconds: Seconds of a training, mean over the seeds.
        times: Seconds over those of the baseline; `None` without one.
        test: Balanced accuracy on test samples as text; `None` without test samples.
        test_groups: As `groups`, on test samples.
    """

    name: str
    recommended: bool
    teacher: bool
    score: str
    mean: float
    scores: list[float]
    low: float
    high: float
    groups: dict[str, float]
    difference: tuple[float, float, float] | None
    seconds: float
    times: float | None
    test: str | None
    test_groups: dict[str, float]


class ClassLine(NamedTuple):
    """A class in the table of classes.

    Attributes:
        name: Name of the class.
        samples: Samples that may be trained on.
        recommended: Accuracy of the recommended method.
        baseline: Accuracy of the baseline; `None` without one, or if it is recommended.
    """

    name: str
    samples: int
    recommended: ClassAccuracy
    baseline: ClassAccuracy | None

    @property
    def change(self) -> float:
        """Recommended method minus baseline, in points; NaN without validation samples."""
        return 0.0 if self.baseline is None else 100 * (self.recommended.accuracy - self.baseline.accuracy)


class ConfusedPair(NamedTuple):
    """Two classes of which one is taken for the other.

    Attributes:
        label: Id of the true class.
        predicted: Id of the predicted class.
        times: How often, over all rounds.
        total: Validation samples of the true class, over all rounds.
        baseline: How often the baseline does it.
    """

    label: int
    predicted: int
    times: int
    total: int
    baseline: int | None


class Calibration(NamedTuple):
    """Expected calibration errors of a method on validation samples, in points.

    Attributes:
        error: Every sample counts as much.
        balanced: Every class counts as much.
    """

    error: float
    balanced: float


def baseline_of(findings: Findings) -> str | None:
    """The baseline, if the recommended method can be compared with it."""
    return BASELINE if BASELINE in findings.methods and findings.recommendation.method != BASELINE else None


def method_lines(findings: Findings) -> list[MethodLine]:
    """The table of methods, in their order."""
    return [_method_line(findings, name) for name in findings.methods]


def _method_line(findings: Findings, name: str) -> MethodLine:
    evidence, known = findings.evidence, BASELINE in findings.methods
    rows = [row for row in findings.rows if row["method"] == name]
    low, high = evidence.interval(name)
    tested = findings.test is not None
    return MethodLine(
        name=name,
        recommended=name == findings.recommendation.method,
        teacher=needs_teacher(findings.methods[name]),
        score=results.spread(row["validation"] for row in rows),
        mean=evidence.mean(name),
        scores=evidence.scores[name],
        low=low,
        high=high,
        groups=_groups(findings, evidence.recalls[name]),
        difference=evidence.difference(name, BASELINE) if known and name != BASELINE else None,
        seconds=findings.seconds(name),
        times=findings.seconds(name) / findings.seconds(BASELINE) if known else None,
        test=results.spread(row["test"] for row in rows) if tested else None,
        test_groups=_groups(findings, _recalls(findings.confusion(name, "test"))) if tested else {},
    )


def _groups(findings: Findings, recalls: np.ndarray) -> dict[str, float]:
    """Accuracy of each group of classes, mean over its classes that have samples."""
    chosen = {name: recalls[classes] for name, classes in findings.evidence.groups.items()}
    return {name: 100 * float(np.nanmean(own)) for name, own in chosen.items() if not np.isnan(own).all()}


def _recalls(confusion: np.ndarray) -> np.ndarray:
    totals = confusion.sum(axis=1)
    return np.where(totals, np.diag(confusion) / np.maximum(totals, 1), np.nan)


def class_lines(findings: Findings) -> list[ClassLine]:
    """The table of classes, largest class first."""
    baseline = baseline_of(findings)
    own = findings.class_accuracies(findings.recommendation.method)
    its = [None] * len(own) if baseline is None else findings.class_accuracies(baseline)
    order = np.argsort(-findings.class_counts, kind="stable")
    return [ClassLine(findings.class_names[i], int(findings.class_counts[i]), own[i], its[i]) for i in order]


def confused_pairs(findings: Findings, most: int = 8) -> list[ConfusedPair]:
    """The pairs of classes that the recommended student confuses most.

    Pairs are sorted by the lower end of the interval of their share, so that one of one counts less than eight of ten.
    """
    confusion, baseline = findings.confusion(findings.recommendation.method), baseline_of(findings)
    its = None if baseline is None else findings.confusion(baseline)
    totals = confusion.sum(axis=1)
    pairs = [
        ConfusedPair(
            int(i), int(j), int(confusion[i, j]), int(totals[i]), baseline=None if its is None else int(its[i, j])
        )
        for i, j in np.argwhere(confusion)
        if i != j
    ]
    pairs.sort(key=lambda pair: -wilson(pair.times / pair.total, pair.total)[0])
    return pairs[:most]


def confident(findings: Findings, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Confidence of every prediction for validation samples over all rounds, and whether it is right."""
    parts = []
    for seed in findings.rounds:
        probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(findings.logits(method, seed)))
        right = probabilities.argmax(axis=-1) == findings.labels(seed)
        parts.append((probabilities.max(axis=-1), right))
    confidences, right = (np.concatenate(part) for part in zip(*parts))
    return confidences, right


def calibration_of(findings: Findings, method: str) -> Calibration:
    """Expected calibration errors of a method on the validation samples of all rounds."""
    plain, balanced = (ExpectedCalibrationError(num_bins=BINS) for _ in range(2))
    for seed in findings.rounds:
        labels, logits = findings.labels(seed), findings.logits(method, seed)
        plain.update_state(labels, logits)
        balanced.update_state(labels, logits, 1 / np.bincount(labels)[labels])
    return Calibration(100 * float(plain.result()), 100 * float(balanced.result()))


def setup_of(findings: Findings) -> dict[str, Any]:
    """How the comparison was done: sizes per round, plan and versions."""
    metadata = metadata_of(findings)
    plan, row = metadata["plan"], findings.rows[0]
    identity = plan.get("identity", {})
    settings = {
        "steps of a training": row["steps"],
        "seeds": ", ".join(map(str, findings.rounds)),
        "batch size": identity.get("batch_size"),
        "optimizer": _optimizer(identity.get("optimizer")),
        "augmentation": identity.get("augment") or "none",
        "teacher": "trained in each round" if findings.kept.row(TEACHER, next(iter(findings.rounds))) else None,
    }
    hashes = {f"{name} data": text for name, text in identity.get("data", {}).items()}
    hashes |= {f"{name} network": text for name, text in identity.get("networks", {}).items()}
    return {
        "rounds": [_round(findings, seed) for seed in findings.rounds],
        "settings": {name: value for name, value in settings.items() if value is not None},
        "versions": metadata["versions"],
        "hashes": {name: text for name, text in hashes.items() if text is not None},
    }


def _round(findings: Findings, seed: int) -> dict[str, int]:
    division = findings.rounds[seed]
    sizes = {"seed": seed, "training": len(division.train.ids), "validation": len(division.validation.ids)}
    sizes["meta"] = len(division.meta.ids)
    return sizes if findings.test is None else sizes | {"test": len(findings.test.ids)}


def _optimizer(config: dict[str, Any] | None) -> str | None:
    """Name and learning rate of a serialized optimizer."""
    if config is None:
        return None
    rate = config["config"].get("learning_rate")
    if isinstance(rate, dict):
        first = rate["config"].get("initial_learning_rate")
        rate = rate["class_name"] if first is None else f"{rate['class_name']} from {first:g}"
    return f"{config['class_name']}, learning rate {rate}"
