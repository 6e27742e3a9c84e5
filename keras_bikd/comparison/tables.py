"""Tables of a comparison: means over seeds, differences seed by seed, stability of the upper level."""

import pathlib
import statistics
from collections.abc import Iterator, Sequence

from keras_bikd import plots, results
from keras_bikd.comparison.cells import row_of
from keras_bikd.comparison.setting import Cell, Lookup, counts_name
from keras_bikd.results import Row

GROUPS = ("overall", "many", "medium", "few")
COLUMNS = {name: name for name in GROUPS} | {"best on meta": "best_on_meta", "seconds": "seconds", "peak MiB": "memory"}


def report(cells: Sequence[Cell], lookup: Lookup, folder: str | pathlib.Path, reference: str) -> list[Row]:
    """Print and write the tables, one per setting and imbalance, and list the cells that are missing.

    Args:
        cells: As in `run_cells`.
        lookup: As in `run_cells`.
        folder: As in `run_cells`; `results.md`, `results.csv` and a plot per table are written there.
        reference: Name of the method with which the others are compared, seed by seed.

    Returns:
        The rows, a list of dicts.
    """
    found = {cell: row_of(cell, lookup, folder) for cell in cells}
    rows = [row for row in found.values() if row]
    sections = []
    for name, factor in dict.fromkeys((row["data"], row["imbalance_factor"]) for row in rows):
        own = [row for row in rows if (row["data"], row["imbalance_factor"]) == (name, factor)]
        sections += [f"## {name}, {counts_name(factor)}", *_sections(own, reference)]
        figure = plots.method_bars(own, ("overall", "few"))
        figure.savefig(Cell(name, factor, "", 0).folder(folder) / "methods.png", dpi=150)
    if missing := [cell for cell, row in found.items() if not row]:
        sections += ["Failed or missing:", "\n".join(f"- {cell}" for cell in missing)]
    text = "\n\n".join(sections)
    print(f"\n{text}")
    if rows:
        (pathlib.Path(folder) / "results.md").write_text(text + "\n")
        results.write_csv(pathlib.Path(folder) / "results.csv", rows)
    return rows


def _sections(rows: list[Row], reference: str) -> Iterator[str]:
    """The tables of one setting and imbalance."""
    yield results.markdown_table(rows, COLUMNS)
    if any(row["method"] == reference for row in rows):
        yield f"Paired with {reference}:"
        yield _differences(rows, reference)
    if stability := _stability(rows):
        yield "Stability of the outer loop, after the first, the fifth and the last epoch:"
        yield stability


def _stability(rows: list[Row]) -> str:
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


def _differences(rows: list[Row], reference: str) -> str:
    """Every other method against the reference, over the seeds that both have."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows if row["method"] != reference):
        if pair := results.paired(rows, method, reference, "overall"):
            p = "–" if pair["p"] is None else f"{pair['p']:.2g}"
            wins = f"{pair['wins']}/{pair['seeds']}"
            lines.append([method, f"{pair['difference']:+.1f}", f"{pair['worst']:+.1f}", wins, p])
    return results.markdown(["method", "difference", "worst seed", "wins", "p"], lines)
