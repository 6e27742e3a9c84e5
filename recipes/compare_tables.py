"""Tables of `compare.py`: means over seeds, differences seed by seed, stability of the upper level, regret."""

import pathlib
import statistics
from typing import NamedTuple

import numpy as np

from compare_protocol import Table
from keras_bikd import plots, results

GROUPS = ("overall", "many", "medium", "few")
COLUMNS = {name: name for name in GROUPS} | {"best on meta": "best_on_meta", "seconds": "seconds", "peak MiB": "memory"}


def rows_of(table):
    """The rows of a table, with accuracies in per cent, and the names of the trainings that are missing."""
    students = [own for own in table.comparison.trainings(table.comparison.methods) if not own.is_teacher]
    done = [own for own in students if table.comparison.is_done(own)]
    missing = [f"{table}, {own.name}, seed {own.seed}" for own in students if own not in done]
    return [_row(table, own.name, own.seed) for own in done], missing


def _row(table, method, seed):
    store, own, order = table.comparison.store, table.comparison.rounds[seed], table.orders[seed]
    row, arrays = store.row(method, seed), store.arrays(method, seed)
    labels, history = own.test.labels, row["history"]
    return {
        "data": table.name,
        "imbalance_factor": table.imbalance_factor,
        "method": method,
        "seed": seed,
        **group_accuracies(labels, arrays["test"].argmax(axis=-1), order),
        "best_on_meta": group_accuracies(labels, arrays["best_test"].argmax(axis=-1), order)["overall"],
        "seconds": row["seconds"],
        "memory": max(history.get("memory", ()), default=None),
        "steps": row["steps"],
        "history": {key: values for key, values in history.items() if "weight" in key or "hypergradient" in key},
        "split": own.hashes(),
        "versions": row["versions"],
        "config": row["config"],
    }


def group_accuracies(labels, predicted, order):
    """Balanced accuracy in per cent: of all classes, of the first 30 %, of the last 30 %, of those in between."""
    per_class = [100 * float((predicted[labels == c] == c).mean()) for c in order]
    cut = round(0.3 * len(order))
    groups = {"overall": per_class, "many": per_class[:cut], "medium": per_class[cut:-cut], "few": per_class[-cut:]}
    # With two classes there is none in between.
    return {name: sum(values) / len(values) if values else None for name, values in groups.items()}


def report(tables, folder, reference):
    """Print and write the tables, one per setting and imbalance, and list the trainings that are missing.

    Args:
        tables: List of `Table`s.
        folder: `results.md` and `results.csv` are written there, and a plot into the folder of every table.
        reference: Name of the method with which the others are compared, seed by seed.

    Returns:
        The rows, a list of dicts.
    """
    sections, rows, missing = [], [], []
    for table in tables:
        own, lacking = rows_of(table)
        rows, missing = rows + own, missing + lacking
        if own:
            sections += [f"## {table}", *_sections(own, reference)]
            plots.method_bars(own, ("overall", "few")).savefig(table.comparison.store.folder / "methods.png", dpi=150)
    if missing:
        sections += ["Failed or missing:", "\n".join(f"- {line}" for line in missing)]
    text = "\n\n".join(sections)
    print(f"\n{text}")
    if rows:
        (pathlib.Path(folder) / "results.md").write_text(text + "\n")
        results.write_csv(pathlib.Path(folder) / "results.csv", rows)
    return rows


def _sections(rows, reference):
    """The tables of one setting and imbalance."""
    yield results.markdown_table(rows, COLUMNS)
    if any(row["method"] == reference for row in rows):
        yield f"Paired with {reference}:"
        yield _differences(rows, reference)
    if stability := _stability(rows):
        yield "Stability of the outer loop, after the first, the fifth and the last epoch:"
        yield stability


def _stability(rows):
    """How much the updates of the weight network vary: means over seeds; empty if no method has one."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        histories = [row["history"] for row in rows if row["method"] == method]
        if "hypergradient_cosine" not in histories[0]:
            continue
        cells = [
            f"{statistics.mean(history[key][min(epoch, len(history[key]) - 1)] for history in histories):.2g}"
            for key in ("hypergradient_cosine", "hypergradient_norm")
            for epoch in (0, 4, len(histories[0][key]) - 1)
        ]
        lines.append([method, *cells])
    quantities, epochs = ("cosine to the one before", "norm"), ("first", "fifth", "last")
    headings = [f"{quantity}, {epoch}" for quantity in quantities for epoch in epochs]
    return results.markdown(["method", *headings], lines) if lines else ""


def _differences(rows, reference):
    """Every other method against the reference, over the seeds that both have."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows if row["method"] != reference):
        if pair := results.paired(rows, method, reference, "overall"):
            p = "–" if pair["p"] is None else f"{pair['p']:.2g}"
            wins = f"{pair['wins']}/{pair['seeds']}"
            lines.append([method, f"{pair['difference']:+.1f}", f"{pair['worst']:+.1f}", wins, p])
    return results.markdown(["method", "difference", "worst seed", "wins", "p"], lines)


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


def regret(rows, constants, *, resamples=2000, seed=0):
    """Compare every method with the best constant of each situation.

    The best constant has the highest mean over the seeds of the situation. For the intervals, the seeds are drawn with
    replacement, the same ones for all methods, and the best constant is chosen anew.

    Args:
        rows: Rows of `rows_of`; situations with missing rows are left out.
        constants: Names of the methods among which the best one is chosen.
        resamples: Number of draws.
        seed: Seed of the draws.

    Returns:
        One `Regret` per method, in the order of the rows.

    Raises:
        ValueError: If no situation is complete.
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

    def interval(value, draws):
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


def _scores(rows, methods):
    """Accuracies of shape `(methods, seeds)` of every situation that has all of them."""
    tables = {}
    for row in rows:
        tables.setdefault(_situation(row), {})[row["method"], row["seed"]] = row["overall"]
    complete = {}
    for situation, table in tables.items():
        seeds = sorted({seed for _, seed in table})
        if len(table) == len(methods) * len(seeds):
            complete[situation] = np.array([[table[method, seed] for seed in seeds] for method in methods])
    return complete


def _situation(row):
    return str(Table(row["data"], row["imbalance_factor"], None, None))


def regret_tables(rows, constants):
    """Lay out the regrets and the accuracies they come from as two Markdown tables.

    Args:
        rows: As in `regret`.
        constants: As in `regret`.
    """
    found = regret(rows, constants)

    def cell(value):
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
