"""Training samples whose labels look wrong, by confident learning."""

from typing import NamedTuple

import numpy as np

_SURE = 0.2  # margin above which a suspect counts: an undertrained student suspects many, and is sure of few


class Suspect(NamedTuple):
    """A sample whose label looks wrong.

    Attributes:
        position: Its position in the training data.
        label: Its class, as it is labelled.
        suggested: The class that the students see in it.
        margin: How much more probable the suggested class is, from 0 to 1; the list is sorted by it.
        held_out: Whether the students that were asked had not been trained on it.
    """

    position: int
    label: int
    suggested: int
    margin: float
    held_out: bool


class Suspects(NamedTuple):
    """All samples whose labels look wrong, most suspect first.

    Attributes:
        samples: The `Suspect`s.
        looked_at: Number of samples that were looked at.
        share: Share of those looked at whose suggested class is more probable by a fifth at least.
    """

    samples: list[Suspect]
    looked_at: int
    share: float


def suspects_of(positions: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, held_out: np.ndarray) -> Suspects:
    """Find label errors by confident learning.

    A class is a candidate for a sample if its probability is at least the mean that samples with this label have, so
    the bar is lower for rare classes, whose probabilities are low. A sample is suspect if its most probable candidate
    is not its label.

    Args:
        positions: Positions of the samples in the training data, integer array of shape `(samples,)`.
        labels: Their labels, shape `(samples,)`.
        probabilities: Class probabilities of students, mean over those that were asked, shape `(samples, classes)`.
        held_out: Whether those students had not been trained on a sample, boolean array of shape `(samples,)`.

    Returns:
        The `Suspects`.

    Examples:
        >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.95, 0.05], [0.1, 0.9]])
        >>> suspects = suspects_of(
        ...     np.arange(4), np.array([0, 0, 1, 1]), probabilities, np.ones(4, bool)
        ... )
        >>> [(suspect.position, suspect.suggested) for suspect in suspects.samples]
        [(2, 0)]

    Reference: Northcutt et al., arXiv 1911.00068, Eq. (1) and (2).
    """
    size, classes = probabilities.shape
    own = probabilities[np.arange(size), labels]
    counts = np.bincount(labels, minlength=classes)
    bars = np.where(counts, np.bincount(labels, own, classes) / np.maximum(counts, 1), np.inf)
    candidates = np.where(probabilities >= bars, probabilities, -1.0)
    suggested = candidates.argmax(axis=1)
    margin = candidates[np.arange(size), suggested] - own
    found = np.flatnonzero((suggested != labels) & (margin > 0))
    samples = [
        Suspect(int(positions[i]), int(labels[i]), int(suggested[i]), float(margin[i]), bool(held_out[i]))
        for i in found[np.argsort(-margin[found], kind="stable")]
    ]
    return Suspects(samples, size, float((margin[found] >= _SURE).sum() / max(size, 1)))
