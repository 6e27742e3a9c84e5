"""The recommended method: validation scores weighed against a prior from the studies, with reasons in sentences."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from keras_bikd.comparison.intervals import Evidence
from keras_bikd.comparison.methods import BASELINE, SAFE_DEFAULT, TWO_RUNS
from keras_bikd.results import duration

EQUAL = 0.3
"""Points: by how much more a cheaper method may be expected to fall behind the best."""

CLEARLY = 1.0
"""Points: a method that is this much behind another is worse."""

UNLIKELY = 0.1
"""Probability of being worse than the safe default, above which the safe default is kept."""

_DRAWS = 4000
_WORTH = 1.0  # points that a teacher must be able to gain
_SHOWN = 0.05  # points, below which a difference is printed as 0.0
_ANY_LEVEL = 100.0  # points: the deviation of a score of which nothing is known

# Points of balanced accuracy that a method was ahead of BiKD with class counts, and their spread over data sets:
# rounded from the results on digits, glyphs and keywords, and from ten situations of right and wrong labels, weak and
# strong teachers. Two runs: where many labels are wrong.
_STUDIES = {
    BASELINE: (-12.0, 8.0),
    "balanced softmax": (-3.0, 5.0),
    "KD": (-12.0, 8.0),
    "balanced softmax + corrected teacher": (-1.0, 2.0),
    "BiKD as published": (-10.0, 6.0),
    SAFE_DEFAULT: (0.0, 1.0),
    "BiKD in two runs": (2.0, 2.0),
}


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """The method to use.

    Attributes:
        method: Its name.
        can_tell: Whether the validation samples alone say so. If not, it rests on what the studies found as well.
        sentences: Why, and what it gains and costs, in plain sentences.
    """

    method: str
    can_tell: bool
    sentences: list[str]

    def __str__(self) -> str:
        return "\n".join(self.sentences)


def recommend(
    evidence: Evidence,
    imbalance_factors: tuple[float, float],
    seconds: Mapping[str, float],
    teacher_seconds: float,
    with_teacher: Mapping[str, bool],
) -> Recommendation:
    """Choose the cheapest method that is within noise of the best.

    The risk of a method is the root mean square of its distance to the best method, over scores drawn with the
    covariance of the noise. Of the methods whose risk is at most 0.3 points above the smallest, the cheapest is chosen;
    but the safe default instead if the probability that it is better by more than a point exceeds a tenth. The safe
    default is BiKD with class counts, or BiKD in two runs where it is compared.

    Before that, the scores are combined with those that the studies let expect (`expected`), each weighted by its
    precision: with many validation samples the expectation hardly matters, with very few it decides.

    Args:
        evidence: The `Evidence`; its methods stand from the cheapest to the most expensive.
        imbalance_factors: Largest class count over smallest, of the training samples and of those of the teacher.
        seconds: Method to seconds of a training.
        teacher_seconds: Seconds of the training of a teacher; 0 if it was there.
        with_teacher: Method to whether it learns from a teacher.

    Returns:
        A `Recommendation`.
    """
    seen, noise = np.array([evidence.mean(name) for name in evidence.methods]), evidence.covariance()
    by_data = _cheapest_within_noise((), seen, noise)
    weighed = _weighed(evidence.methods, seen, noise, imbalance_factors)
    choice = _cheapest_within_noise(evidence.methods, *weighed)
    chosen, can_tell = evidence.methods[choice], choice == by_data
    sentences = [_headline(evidence, chosen, can_tell)]
    if BASELINE in evidence.methods and chosen != BASELINE:
        sentences += [_gain(evidence, chosen, group) for group in ("rare", "frequent")]
    sentences.append(_cost(chosen, seconds, teacher_seconds, with_teacher))
    if teacher := _teacher(evidence, with_teacher):
        sentences.append(teacher)
    return Recommendation(chosen, can_tell, sentences)


def expected(name: str, imbalance_factor: float, teacher_imbalance: float) -> tuple[float, float]:
    """What the studies say of a method before any of the data are seen.

    Args:
        name: Name of a method.
        imbalance_factor: Largest class count over smallest.
        teacher_imbalance: Likewise, of what the teacher was trained on.

    Returns:
        Points of balanced accuracy that it is ahead of BiKD with class counts, and the standard deviation over data
        sets. Of a method that no study has, nothing is expected: 0, and a wide deviation.

    Examples:
        >>> expected("balanced softmax", 100, 100), expected("my own", 100, 100)
        ((-3.0, 5.0), (0.0, 30.0))
        >>> # A teacher without a bias needs no correction.
        >>> expected("KD", 100, 1)[0] == 0
        True
    """
    ahead, deviation = _STUDIES.get(name, (0.0, 30.0))
    factor = {BASELINE: imbalance_factor, "KD": teacher_imbalance, "BiKD as published": teacher_imbalance}.get(name)
    # Without an imbalance, there is nothing to be corrected; the studies have factors of fifty and more.
    grown = 1.0 if factor is None else min(math.log(max(factor, 1.0)) / math.log(50), 1.0)
    return ahead * grown, deviation


def _weighed(
    methods: Sequence[str], seen: np.ndarray, noise: np.ndarray, imbalance_factors: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and their covariance, of what was seen and what was expected, each weighted by its precision.

    The studies say nothing of the level that all methods share: only their differences are expected.
    """
    ahead, deviations = (np.array(column) for column in zip(*(expected(name, *imbalance_factors) for name in methods)))
    before = np.diag(deviations**2) + _ANY_LEVEL**2
    gain = before @ np.linalg.inv(before + noise)
    return ahead + gain @ (seen - ahead), before - gain @ before


def _cheapest_within_noise(methods: Sequence[str], scores: np.ndarray, covariance: np.ndarray) -> int:
    """Position of the method to choose, for scores with this covariance; a safe default is one of `methods`."""
    possible = np.random.default_rng(0).multivariate_normal(scores, covariance, size=_DRAWS, method="eigh")
    behind = possible.max(axis=1, keepdims=True) - possible
    risk = np.sqrt((behind**2).mean(axis=0))
    choice = int(np.flatnonzero(risk <= risk.min() + EQUAL)[0])
    # Two runs are compared only where many labels look wrong.
    if safe := [methods.index(name) for name in (*TWO_RUNS, SAFE_DEFAULT) if name in methods]:
        is_worse = possible[:, choice] < possible[:, safe[0]] - CLEARLY
        choice = safe[0] if is_worse.mean() > UNLIKELY else choice
    return choice


def _headline(evidence: Evidence, chosen: str, can_tell: bool) -> str:
    low, high = evidence.interval(chosen)
    best = max(evidence.methods, key=evidence.mean)
    behind = evidence.mean(best) - evidence.mean(chosen)
    text = (
        f"Use {chosen}. Its balanced accuracy is {evidence.mean(chosen):.1f} % (90 % interval {low:.1f} to {high:.1f})"
    )
    if chosen == best:
        text += ", the highest of all methods."
    elif behind < _SHOWN:
        text += f", as good as that of {best}."
    else:
        _, _, high = evidence.difference(chosen, best)
        noise = "more than the noise explains" if high < 0 else "which is within the noise"
        text += f"; the highest is that of {best}, {behind:.1f} points more, {noise}."
    if not can_tell:
        text += (
            " The validation samples alone are too few to choose by. The choice also rests on how the methods compared "
            "on other data."
        )
    return text


def _gain(evidence: Evidence, chosen: str, group: str) -> str:
    estimate, low, high = evidence.difference(chosen, BASELINE, group)
    if np.isnan(estimate):
        return f"There are no validation samples of the {group} classes."
    if abs(estimate) < _SHOWN:
        return f"On the {group} classes it is level with {BASELINE} (90 % interval {low:+.1f} to {high:+.1f})."
    verb = "gains" if estimate >= 0 else "loses"
    certain = "" if low > 0 or high < 0 else ", so it may be noise"
    return (
        f"On the {group} classes it {verb} {abs(estimate):.1f} points over {BASELINE} (90 % interval {low:+.1f} to "
        f"{high:+.1f}{certain})."
    )


def _cost(chosen: str, seconds: Mapping[str, float], teacher_seconds: float, with_teacher: Mapping[str, bool]) -> str:
    text = f"A training took {duration(seconds[chosen])}"
    if BASELINE in seconds and chosen != BASELINE:
        text += f", {seconds[chosen] / seconds[BASELINE]:.1f} times as long as {BASELINE}"
    if with_teacher[chosen] and teacher_seconds:
        text += f", after {duration(teacher_seconds)} for the teacher"
    return f"{text}."


def _teacher(evidence: Evidence, with_teacher: Mapping[str, bool]) -> str | None:
    """Whether a teacher is worth it: the best method with one against the best without."""
    groups = [[name for name in evidence.methods if with_teacher[name] is has] for has in (True, False)]
    if not all(groups):
        return None
    taught, alone = (max(group, key=evidence.mean) for group in groups)
    estimate, low, high = evidence.difference(taught, alone)
    if low > 0:
        judged = "The teacher is worth its cost"
    elif high < _WORTH:
        judged = "The teacher is not worth its cost"
    else:
        judged = "Whether the teacher is worth its cost cannot be told from these samples"
    return (
        f"{judged}: {taught} is {abs(estimate):.1f} points {'ahead of' if estimate >= 0 else 'behind'} {alone} (90 % "
        f"interval {low:+.1f} to {high:+.1f})."
    )
