"""Which method to use, in words, from validation samples alone."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from keras_bikd.advisor.candidates import BASELINE, SAFE_DEFAULT, TWO_RUNS
from keras_bikd.advisor.evidence import Evidence

__all__ = ["Recommendation", "recommend"]

EQUAL, MARGIN = 0.3, 1.0
"""Points: what counts as equal, and what a cheaper method may lose at most."""

UNCLEAR = 1.5
"""Points: standard error of a difference above which the data cannot tell small differences."""


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """The method to use.

    Attributes:
        method: Its name.
        can_tell: Whether the data tell it apart from the others. If not, it is the safe default.
        sentences: Why, and what it gains and costs, in plain sentences.
    """

    method: str
    can_tell: bool
    sentences: list[str]

    def __str__(self) -> str:
        return "\n".join(self.sentences)


def recommend(
    evidence: Evidence, seconds: Mapping[str, float], teacher_seconds: float, with_teacher: Mapping[str, bool]
) -> Recommendation:
    """Choose the cheapest method that is within noise of the best.

    A cheaper method is preferred if it is behind by less than one standard error of the difference, and by less than
    one point. Where the noise is larger than what the methods differ by, a safe default is chosen: BiKD with class
    counts, which loses least over many situations with nothing tuned, or BiKD in two runs where it is compared, which
    gains most where labels are wrong (results, "Wrong labels").

    Args:
        evidence: The `Evidence`; its methods stand from the cheapest to the dearest.
        seconds: Method to seconds of a training.
        teacher_seconds: Seconds of the training of a teacher; 0 if it was there.
        with_teacher: Method to whether it learns from a teacher.

    Returns:
        A `Recommendation`.
    """
    best = max(evidence.methods, key=evidence.mean)
    chosen = next(name for name in evidence.methods if _is_as_good(evidence, name, best))
    can_tell, safe = True, _safe_default(evidence)
    if safe is not None and _is_unclear(evidence, best, safe):
        chosen, can_tell = safe, False
    sentences = [_headline(evidence, chosen, best, can_tell)]
    if BASELINE in evidence.methods and chosen != BASELINE:
        sentences += [_gain(evidence, chosen, group) for group in ("rare", "frequent")]
    sentences.append(_cost(chosen, seconds, teacher_seconds, with_teacher))
    if teacher := _teacher(evidence, with_teacher):
        sentences.append(teacher)
    return Recommendation(chosen, can_tell, sentences)


def _is_as_good(evidence: Evidence, name: str, best: str) -> bool:
    behind = evidence.mean(best) - evidence.mean(name)
    return behind <= max(EQUAL, min(evidence.standard_error(best, name), MARGIN))


def _safe_default(evidence: Evidence) -> str | None:
    """What to choose where the data cannot tell. Two runs are compared only if many labels look wrong."""
    return next((name for name in (*TWO_RUNS, SAFE_DEFAULT) if name in evidence.methods), None)


def _is_unclear(evidence: Evidence, best: str, safe: str) -> bool:
    """Whether the best method and the safe default could well be in the other order, and far apart."""
    low = evidence.difference(best, safe)[1]
    return low <= 0 and evidence.standard_error(best, safe) > UNCLEAR


def _headline(evidence: Evidence, chosen: str, best: str, can_tell: bool) -> str:
    low, high = evidence.interval(chosen)
    score = f"Its balanced accuracy is {evidence.mean(chosen):.1f} % (90 % interval {low:.1f} to {high:.1f})"
    if not can_tell:
        return (
            f"Use {chosen}. The validation samples are too few to tell the best methods apart, and in our studies this "
            f"one {'gains most where labels are wrong' if chosen in TWO_RUNS else 'loses least over many data sets'}. "
            f"{score}."
        )
    if chosen == best:
        return f"Use {chosen}. {score}, the best of all methods."
    behind = evidence.mean(best) - evidence.mean(chosen)
    return (
        f"Use {chosen}. {score}. The best, {best}, has {behind:.1f} points more, which is within the noise, and costs "
        "more."
    )


def _gain(evidence: Evidence, chosen: str, group: str) -> str:
    estimate, low, high = evidence.difference(chosen, BASELINE, group)
    if np.isnan(estimate):
        return f"There are no validation samples of the {group} classes."
    verb = "gains" if estimate >= 0 else "loses"
    certain = "" if low > 0 or high < 0 else ", so it may be noise"
    return (
        f"On the {group} classes it {verb} {abs(estimate):.1f} points over {BASELINE} (90 % interval {low:+.1f} to "
        f"{high:+.1f}{certain})."
    )


def _cost(chosen: str, seconds: Mapping[str, float], teacher_seconds: float, with_teacher: Mapping[str, bool]) -> str:
    text = f"A training took {_duration(seconds[chosen])}"
    if BASELINE in seconds and chosen != BASELINE:
        text += f", {seconds[chosen] / seconds[BASELINE]:.1f} times as long as {BASELINE}"
    if with_teacher[chosen] and teacher_seconds:
        text += f", after {_duration(teacher_seconds)} for the teacher"
    return f"{text}."


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _teacher(evidence: Evidence, with_teacher: Mapping[str, bool]) -> str | None:
    """Whether a teacher is worth it: the best method with one against the best without."""
    groups = [[name for name in evidence.methods if with_teacher[name] is has] for has in (True, False)]
    if not all(groups):
        return None
    taught, alone = (max(group, key=evidence.mean) for group in groups)
    estimate, low, high = evidence.difference(taught, alone)
    if low > 0:
        judged = "The teacher is worth its cost"
    elif high < MARGIN:
        judged = "The teacher is not worth its cost"
    else:
        judged = "Whether the teacher is worth its cost cannot be told from these samples"
    return (
        f"{judged}: {taught} is {abs(estimate):.1f} points {'ahead of' if estimate >= 0 else 'behind'} {alone} (90 % "
        f"interval {low:+.1f} to {high:+.1f})."
    )
