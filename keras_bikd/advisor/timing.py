"""How long trainings take, from a few steps of each."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras

from keras_bikd.advisor.training import EPOCHS

TIMED_STEPS = 10
"""Steps that are timed."""

FEWEST = 50
"""The fewest steps that a training may have."""

_PLANNED = 0.8  # part of the minutes that is planned: trainings took a sixth longer than their first steps said


class Timing(NamedTuple):
    """Seconds of a training.

    Attributes:
        besides: Seconds besides its steps: building, tracing, looking at the result.
        step: Seconds of a step.
    """

    besides: float
    step: float

    def seconds(self, steps: int) -> float:
        """Seconds of a training of so many steps."""
        return self.besides + steps * self.step


class Stopwatch(keras.callbacks.Callback):
    """Seconds of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._begin = 0.0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._begin = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seconds.append(time.perf_counter() - self._begin)


def timed(training: Callable[[Stopwatch], Any]) -> Timing:
    """Time a training of `TIMED_STEPS` steps, or of two runs of so many.

    Args:
        training: Function of a callback for `fit`.

    Returns:
        A `Timing`.
    """
    watch, start = Stopwatch(), time.perf_counter()
    training(watch)
    total, warm = time.perf_counter() - start, watch.seconds[-TIMED_STEPS // 2 :]
    in_steps = sum(warm) / len(warm) * len(watch.seconds)
    return Timing(max(total - in_steps, 0.0), in_steps / TIMED_STEPS)


def steps_within(minutes: float, timings: Mapping[str, Timing], rounds: int) -> int:
    """Steps of every training, so that all of them take at most so many minutes, with some room.

    Args:
        minutes: Time for all rounds.
        timings: Name to `Timing` of everything that a round trains.
        rounds: Number of rounds.

    Returns:
        Number of steps.

    Raises:
        ValueError: If these are too few.

    Examples:
        >>> steps_within(
        ...     1, {"cross-entropy": Timing(2.0, 0.1), "KD": Timing(3.0, 0.2)}, rounds=2
        ... )
        60
    """
    if not timings:
        raise ValueError(
            "No training could be timed, so no number of steps fits `Protocol(minutes=...)`. Pass `steps` to see why "
            f"they fail. Received: minutes={minutes:g}"
        )
    besides, step = (sum(column) for column in zip(*timings.values()))
    steps = int((_PLANNED * 60 * minutes / rounds - besides) / step) // EPOCHS * EPOCHS
    if steps < FEWEST:
        needed = rounds * (besides + FEWEST * step) / 60 / _PLANNED
        raise ValueError(
            f"`Protocol(minutes=...)` is too short for {len(timings) * rounds} trainings of at least {FEWEST} steps. "
            f"Received: minutes={minutes:g}. Give it {needed:.1f} minutes, or take fewer seeds or "
            "methods."
        )
    return steps
