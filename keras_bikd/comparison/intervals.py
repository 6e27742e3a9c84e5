"""Balanced accuracies of methods on validation samples, with the intervals and the covariance of their errors."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from keras_bikd.long_tail import class_groups
from keras_bikd.metrics import per_class_accuracy

_QUANTILE = 1.6449  # of the normal distribution, for intervals of 90 %
_ADDED = 2.0  # pseudo-samples per class, as Agresti and Coull (1998) add to the counts of a share


class Judged(NamedTuple):
    """The predictions of all methods for the validation samples of one round.

    Attributes:
        labels: Class of every sample, integer array of shape `(samples,)`.
        predicted: Method to predicted classes, each of shape `(samples,)`.
        ids: Ids of the samples, which tell whether two rounds were judged by the same ones.
    """

    labels: np.ndarray
    predicted: Mapping[str, np.ndarray]
    ids: np.ndarray


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Balanced accuracy of every method in per cent, and how much it would vary with other samples and seeds.

    The variance has two parts: that of the validation samples, if they were drawn anew within each class, and that of
    the rounds. Two pseudo-samples are added to each class, which are like those of all classes (Agresti and Coull), so
    that one sample is not taken for certainty. Methods are judged by the same samples: their errors are correlated.

    Attributes:
        methods: Names of the methods.
        accuracies: Accuracy per round, method and class, shape `(rounds, methods, classes)`; NaN without samples.
        smoothed: The same, mean over the rounds, with the pseudo-samples, shape `(methods, classes)`.
        noise: Covariance between the methods of the accuracy on each class, shape `(classes, methods, methods)`.
        counts: Different validation samples per class, integer array of shape `(classes,)`.
        groups: Name to class ids: `"frequent"`, `"medium"` and `"rare"`, a third of the classes each; of two classes
            one is frequent and one rare.
    """

    methods: list[str]
    accuracies: np.ndarray
    smoothed: np.ndarray
    noise: np.ndarray
    counts: np.ndarray
    groups: dict[str, np.ndarray]

    def scores(self, method: str) -> list[float]:
        """Balanced accuracy of a method in every round."""
        return (100 * np.nanmean(self.accuracies[:, self.methods.index(method)], axis=-1)).tolist()

    def mean(self, method: str) -> float:
        """Balanced accuracy of a method, mean over the rounds."""
        return float(np.mean(self.scores(method)))

    def recalls(self, method: str) -> np.ndarray:
        """Accuracy of a method per class, mean over the rounds, shape `(classes,)`; NaN where there is no sample."""
        return _mean_of_present(self.accuracies[:, self.methods.index(method)])

    def covariance(self, group: str | None = None) -> np.ndarray:
        """Covariance of the errors of the balanced accuracies, in points squared, shape `(methods, methods)`."""
        seen = self._seen(group)
        of_rounds = np.cov(np.nanmean(self.accuracies[:, :, seen], axis=-1), rowvar=False, ddof=0)
        return 1e4 * (self.noise[seen].sum(axis=0) / len(seen) ** 2 + of_rounds / len(self.accuracies))

    def interval(self, method: str) -> tuple[float, float]:
        """A 90 % interval of the balanced accuracy of a method."""
        low, high = self._interval({method: 1.0}, self.mean(method) / 100)
        return 100 * low, 100 * high

    def difference(self, method: str, other: str, group: str | None = None) -> tuple[float, float, float]:
        """How much better a method is than another, in points: `(estimate, low, high)`, a 90 % interval."""
        if not len(seen := self._seen(group)):
            return float("nan"), float("nan"), float("nan")
        estimate = float(np.mean(self.recalls(method)[seen] - self.recalls(other)[seen]))
        if method == other:
            return 0.0, 0.0, 0.0
        # Differences from -1 to 1 become shares from 0 to 1.
        low, high = self._interval({method: 0.5, other: -0.5}, (1 + estimate) / 2, 0.5, group)
        return 100 * estimate, 200 * low - 100, 200 * high - 100

    def _seen(self, group: str | None) -> np.ndarray:
        """Classes of a group that have samples."""
        classes = np.arange(len(self.counts)) if group is None else self.groups[group]
        return classes[self.counts[classes] > 0]

    def _interval(
        self, weights: Mapping[str, float], share: float, offset: float = 0.0, group: str | None = None
    ) -> tuple[float, float]:
        """Wilson's interval of a weighted sum of balanced accuracies, for as many samples as its variance is worth."""
        factors = np.array([weights.get(method, 0.0) for method in self.methods])
        expected = offset + factors @ self.smoothed[:, self._seen(group)].mean(axis=1)
        variance = factors @ self.covariance(group) @ factors / 1e4
        return wilson(share, np.inf if variance < 1e-12 else expected * (1 - expected) / variance)


def evidence_of(rounds: Sequence[Judged], class_counts: np.ndarray) -> Evidence:
    """Score all methods and estimate the errors of the scores.

    Args:
        rounds: The rounds in which all methods were trained, at least one.
        class_counts: Training samples per class, integer array of shape `(classes,)`.

    Returns:
        The `Evidence`.

    Examples:
        >>> labels = np.repeat([0, 1], [90, 10])
        >>> always, never = labels.copy(), np.zeros(100, int)
        >>> evidence = evidence_of(
        ...     [Judged(labels, {"A": always, "B": never}, np.arange(100))],
        ...     np.array([900, 100]),
        ... )
        >>> evidence.mean("A"), evidence.mean("B")
        (100.0, 50.0)
        >>> low, high = evidence.difference("A", "B")[1:]
        >>> bool(30 < low < 50)
        True
    """
    methods, classes = list(rounds[0].predicted), len(class_counts)
    names = ("frequent", "medium", "rare") if classes > 2 else ("frequent", "rare")
    accuracies = [[per_class_accuracy(own.labels, own.predicted[name], classes) for name in methods] for own in rounds]
    smoothed, noise = (np.stack(parts) for parts in zip(*(_moments(own, classes) for own in rounds)))
    seen = np.unique(np.concatenate([judged.ids for judged in rounds]), return_index=True)[1]
    labels = np.concatenate([judged.labels for judged in rounds])[seen]
    return Evidence(
        methods=methods,
        accuracies=np.array(accuracies),
        smoothed=_mean_of_present(smoothed).T,
        noise=_mean_of_present(noise) * (2 - 1 / len(rounds)) / len(rounds),  # of rounds drawn with replacement
        counts=np.bincount(labels, minlength=classes),
        groups=dict(zip(names, class_groups(class_counts, len(names)))),
    )


def wilson(share: float, count: float) -> tuple[float, float]:
    """Wilson's 90 % interval of a share of `count` samples, between 0 and 1; the whole range if there is none.

    Examples:
        >>> [round(bound, 2) for bound in wilson(0.75, 4)]
        [0.36, 0.94]
    """
    if not count:
        return 0.0, 1.0
    added = _QUANTILE**2 / count
    centre = (share + added / 2) / (1 + added)
    half = np.sqrt(added * (share * (1 - share) + added / 4)) / (1 + added)
    return float(max(centre - half, 0.0)), float(min(centre + half, 1.0))


def _moments(judged: Judged, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies on each class and their covariance between the methods, with the pseudo-samples; NaN without samples.

    The shapes are `(classes, methods)` and `(classes, methods, methods)`.
    """
    right = np.stack([predicted == judged.labels for predicted in judged.predicted.values()], axis=1).astype(float)
    wrong, size = 1 - right, len(right)
    # All samples, and one whose outcome is the opposite of one of them: nothing is impossible.
    pooled = (right.sum(axis=0) + wrong.mean(axis=0)) / (size + 1)
    products = (right.T @ right + wrong.T @ wrong / size) / (size + 1)
    means = np.full((num_classes, right.shape[1]), np.nan)
    covariances = np.full((num_classes, right.shape[1], right.shape[1]), np.nan)
    for label in np.unique(judged.labels):
        own = right[judged.labels == label]
        means[label] = (own.sum(axis=0) + _ADDED * pooled) / (len(own) + _ADDED)
        product = (own.T @ own + _ADDED * products) / (len(own) + _ADDED)
        covariances[label] = (product - np.outer(means[label], means[label])) / len(own)
    return means, covariances


def _mean_of_present(values: np.ndarray) -> np.ndarray:
    """Mean over rounds, of the rounds in which a class has samples; NaN where none has."""
    means: np.ndarray = np.ma.masked_invalid(values).mean(axis=0).filled(np.nan)
    return means
