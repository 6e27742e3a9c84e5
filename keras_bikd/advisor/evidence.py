"""What the validation samples say about each method, and how sure one can be of it."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from keras_bikd.long_tail import class_groups

_DRAWS = 2000
_ADDED = 2  # samples of all classes, as Agresti and Coull (1998) add to the counts of a share


@dataclasses.dataclass(frozen=True)
class Judged:
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
    """Balanced accuracies in per cent, and draws of what they could have been with other samples and seeds.

    Attributes:
        methods: Names of the methods.
        scores: Method to balanced accuracy per round, a list.
        draws: Balanced accuracy of every method in every draw, float array of shape `(draws, methods)`.
        recalls: Method to accuracy per class over all rounds, shape `(classes,)`; NaN where there is no sample.
        counts: Different validation samples per class, integer array of shape `(classes,)`.
        groups: Name to class ids: `"frequent"`, `"medium"` and `"rare"`, a third of the classes each; of two classes
            one is frequent and one rare.
        group_draws: Name to draws as in `draws`, over the classes of the group alone.
    """

    methods: list[str]
    scores: dict[str, list[float]]
    draws: np.ndarray
    recalls: dict[str, np.ndarray]
    counts: np.ndarray
    groups: dict[str, np.ndarray]
    group_draws: dict[str, np.ndarray]

    def mean(self, method: str) -> float:
        """Balanced accuracy of a method, mean over the rounds."""
        return float(np.mean(self.scores[method]))

    def difference(self, method: str, other: str, group: str | None = None) -> tuple[float, float, float]:
        """How much better a method is than another, in points: `(estimate, low, high)`, a 90 % interval."""
        draws = self.draws if group is None else self.group_draws[group]
        own, its = (draws[:, self.methods.index(name)] for name in (method, other))
        low, high = np.clip(np.percentile(own - its, [5, 95]), -100, 100)
        classes = np.arange(len(self.counts)) if group is None else self.groups[group]
        seen = classes[self.counts[classes] > 0]
        if not len(seen):
            return float("nan"), float("nan"), float("nan")
        estimate = 100 * float(np.mean(self.recalls[method][seen]) - np.mean(self.recalls[other][seen]))
        return estimate, float(low), float(high)

    def interval(self, method: str) -> tuple[float, float]:
        """A 90 % interval of the balanced accuracy of a method."""
        low, high = np.clip(np.percentile(self.draws[:, self.methods.index(method)], [5, 95]), 0, 100)
        return float(low), float(high)

    def standard_error(self, method: str, other: str) -> float:
        """Standard error of the difference between two methods, in points."""
        own, its = (self.draws[:, self.methods.index(name)] for name in (method, other))
        return float(np.std(own - its))


def evidence_of(rounds: Sequence[Judged], class_counts: np.ndarray) -> Evidence:
    """Score all methods, and draw rounds and validation samples again and again to see how much the scores vary.

    In every draw, each class has as many samples as it has, drawn with replacement from its own and from two samples'
    worth of all classes, so that a class of a single sample is not thought to be certain.

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
    methods, random = list(rounds[0].predicted), np.random.default_rng(0)
    names = ("frequent", "medium", "rare") if len(class_counts) > 2 else ("frequent", "rare")
    groups = dict(zip(names, class_groups(class_counts, len(names))))
    recalls = np.stack([_recalls(judged, len(class_counts)) for judged in rounds])  # rounds, methods, classes
    drawn = np.stack([_drawn_recalls(judged, len(class_counts), random) for judged in rounds])
    rounds_drawn = random.integers(len(rounds), size=(_DRAWS, len(rounds)))
    # (draws, methods, classes): for each draw the mean over the rounds drawn.
    mean_recalls = np.mean(drawn[rounds_drawn, np.arange(_DRAWS)[:, None]], axis=1)
    seen = np.unique(np.concatenate([judged.ids for judged in rounds]), return_index=True)[1]
    labels = np.concatenate([judged.labels for judged in rounds])[seen]
    return Evidence(
        methods=methods,
        scores={name: (100 * np.nanmean(recalls[:, i], axis=-1)).tolist() for i, name in enumerate(methods)},
        draws=100 * _mean_over(mean_recalls, np.arange(len(class_counts))),
        recalls={name: _mean_of_present(recalls[:, i]) for i, name in enumerate(methods)},
        counts=np.bincount(labels, minlength=len(class_counts)),
        groups=groups,
        group_draws={name: 100 * _mean_over(mean_recalls, classes) for name, classes in groups.items()},
    )


def wilson(recall: float, count: int) -> tuple[float, float]:
    """Wilson's 90 % interval of a share of `count` samples, between 0 and 1; the whole range if there is none.

    Examples:
        >>> [round(bound, 2) for bound in wilson(0.75, 4)]
        [0.36, 0.94]
    """
    from scipy import stats

    if not count:
        return 0.0, 1.0
    interval = stats.binomtest(round(recall * count), count).proportion_ci(0.9, method="wilson")
    return float(interval.low), float(interval.high)


def _recalls(judged: Judged, num_classes: int) -> np.ndarray:
    """Accuracy of every method on every class, shape `(methods, classes)`; NaN for a class without samples."""
    right = np.stack([predicted == judged.labels for predicted in judged.predicted.values()])
    masks = [judged.labels == label for label in range(num_classes)]
    columns = [right[:, mask].mean(axis=1) if mask.any() else np.full(len(right), np.nan) for mask in masks]
    return np.stack(columns, axis=1)


def _drawn_recalls(judged: Judged, num_classes: int, random: np.random.Generator) -> np.ndarray:
    """Accuracies as in `_recalls`, for samples drawn with replacement, shape `(draws, methods, classes)`."""
    right = np.stack([predicted == judged.labels for predicted in judged.predicted.values()], axis=1)
    # Samples that the same methods get right are alike: a draw is a count of each kind.
    kinds, kind_of = np.unique(right, axis=0, return_inverse=True)
    everywhere = np.bincount(kind_of.reshape(-1), minlength=len(kinds)) / len(right)
    columns = []
    for label in range(num_classes):
        own = np.bincount(kind_of.reshape(-1)[judged.labels == label], minlength=len(kinds))
        total = own.sum()
        if not total:
            columns.append(np.full((_DRAWS, right.shape[1]), np.nan))
            continue
        likely = (own + _ADDED * everywhere) / (total + _ADDED)
        drawn = random.multinomial(total, likely, size=_DRAWS) / total
        columns.append((drawn - likely + own / total) @ kinds)  # around the share that was seen
    return np.stack(columns, axis=-1)


def _mean_of_present(recalls: np.ndarray) -> np.ndarray:
    """Mean over rounds, of the rounds in which a class has samples."""
    present = ~np.isnan(recalls)
    sums = np.where(present, recalls, 0).sum(axis=0)
    return np.where(present.any(axis=0), sums / np.maximum(present.sum(axis=0), 1), np.nan)


def _mean_over(recalls: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Mean over classes that have samples, shape `(draws, methods)`."""
    chosen = recalls[..., classes]
    present = ~np.isnan(chosen)
    return np.where(present, chosen, 0).sum(axis=-1) / np.maximum(present.sum(axis=-1), 1)
