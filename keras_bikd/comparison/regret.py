"""What is lost if nothing is tuned: the distance of every method to the best constant of a situation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_bikd import results
from keras_bikd.comparison.setting import counts_name
from keras_bikd.results import Row


class Regret(NamedTuple):
    """How far a method is behind the best constant of each situation, which is known only with hindsight.

    Attributes:
        method: Name of the method.
        of_situation: Dict of situation (data and imbalance) to regret in points; negative where the method is ahead.
        worst: The largest regret, with the ends of its 95 % interval.
        mean: The mean over the situations, likewise.
    """

    method: str
    of_situation: dict[str, float]
    worst: tuple[float, float, float]
    mean: tuple[float, float, float]


def regret(rows: Sequence[Row], constants: Sequence[str], *, resamples: int = 2000, seed: int = 0) -> list[Regret]:
    """Compare every method with the best constant of each situation.

    The best constant has the highest mean over the seeds of the situation. For the intervals, the seeds are drawn with
    replacement, the same ones for all methods, and the best constant is chosen anew.

    Args:
        rows: Rows of `train`; situations with missing rows are left out.
        constants: Names of the methods among which the best one is chosen.
        resamples: Number of draws.
        seed: Seed of the draws.

    Returns:
        One `Regret` per method, in the order of the rows.

    Raises:
        ValueError: If no situation is complete.

    Examples:
        >>> scores = {"1/0": [80.0, 82.0], "0/1": [70.0, 72.0], "learned": [79.0, 82.0]}
        >>> rows = [
        ...     {
        ...         "data": "digits",
        ...         "imbalance_factor": 50,
        ...         "method": m,
        ...         "seed": i,
        ...         "overall": v,
        ...     }
        ...     for m, values in scores.items()
        ...     for i, v in enumerate(values)
        ... ]
        >>> [(found.method, found.mean[0]) for found in regret(rows, ["1/0", "0/1"])]
        [('1/0', 0.0), ('0/1', 10.0), ('learned', 0.5)]
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    scores = _scores(rows, methods)
    if not scores:
        raise ValueError(f"`regret(rows)`: no situation has a row of every method and seed. Received: {len(rows)} rows")
    fixed = [methods.index(name) for name in constants]
    generator = np.random.default_rng(seed)
    drawn = {size: generator.integers(size, size=(resamples, size)) for size in {s.shape[1] for s in scores.values()}}
    found, resampled = [], []
    for values in scores.values():
        own = values.mean(axis=1)
        again = values[:, drawn[values.shape[1]]].mean(axis=2)
        found.append(own[fixed].max() - own)
        resampled.append(again[fixed].max(axis=0) - again)
    of_all, again_of_all = np.stack(found), np.stack(resampled)

    def interval(value: float, draws: np.ndarray) -> tuple[float, float, float]:
        low, high = np.percentile(draws, (2.5, 97.5))
        return float(value), float(low), float(high)

    return [
        Regret(
            method,
            {situation: float(of_all[i, m]) for i, situation in enumerate(scores)},
            interval(of_all[:, m].max(), again_of_all[:, m].max(axis=0)),
            interval(of_all[:, m].mean(), again_of_all[:, m].mean(axis=0)),
        )
        for m, method in enumerate(methods)
    ]


def _scores(rows: Sequence[Row], methods: Sequence[str]) -> dict[str, np.ndarray]:
    """Accuracies of shape `(methods, seeds)` of every situation that has all of them."""
    tables: dict[str, dict[tuple[str, int], float]] = {}
    for row in rows:
        tables.setdefault(_situation(row), {})[row["method"], row["seed"]] = row["overall"]
    complete = {}
    for situation, table in tables.items():
        seeds = sorted({seed for _, seed in table})
        if len(table) == len(methods) * len(seeds):
            complete[situation] = np.array([[table[method, seed] for seed in seeds] for method in methods])
    return complete


def _situation(row: Row) -> str:
    return f"{row['data']}, {counts_name(row['imbalance_factor'])}"


def regret_tables(rows: Sequence[Row], constants: Sequence[str]) -> str:
    """Lay out the regrets and the accuracies they come from as two Markdown tables.

    Args:
        rows: As in `regret`.
        constants: As in `regret`.
    """
    found = regret(rows, constants)

    def cell(value: tuple[float, float, float]) -> str:
        middle, low, high = (round(number, 1) + 0.0 for number in value)  # no -0.0
        return f"{middle:.1f} ({low:.1f} to {high:.1f})"

    summary = [
        [own.method, cell(own.worst), max(own.of_situation, key=own.of_situation.__getitem__), cell(own.mean)]
        for own in found
    ]
    situations = list(found[0].of_situation)
    accuracy = [
        [
            name,
            *(
                results.spread([r["overall"] for r in rows if (_situation(r), r["method"]) == (name, own.method)])
                for own in found
            ),
        ]
        for name in situations
    ]
    return "\n\n".join(
        [
            results.markdown(["method", "worst regret", "where", "mean regret"], summary),
            results.markdown(["situation", *(own.method for own in found)], accuracy),
        ]
    )
