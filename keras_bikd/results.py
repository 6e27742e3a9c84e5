"""Rows of results: stored one file each, averaged over seeds, compared method by method."""

import csv
import importlib
import importlib.metadata
import json
import os
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_bikd.files import atomic_write

Row: TypeAlias = dict[str, Any]
"""One result, such as that of one method with one seed: names to values that JSON can hold."""


def save_row(path: str | os.PathLike[str], row: Row) -> None:
    """Write one row as JSON, whole or not at all: a run that is killed leaves no broken file.

    Args:
        path: File to write; missing folders are created.
        row: Dict of values that JSON can hold.

    Examples:
        >>> import tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "CE", "0.json")
        >>> save_row(path, {"method": "CE", "seed": 0})
        >>> load_row(path)
        {'method': 'CE', 'seed': 0}
    """
    with atomic_write(path) as unfinished:
        unfinished.write_text(json.dumps(row, indent=1) + "\n")


def load_row(path: str | os.PathLike[str]) -> Row | None:
    """Read a row that `save_row` wrote; `None` if there is no such file."""
    path = pathlib.Path(path)
    return json.loads(path.read_text()) if path.exists() else None


def versions() -> dict[str, str]:
    """Versions of what a result depends on: this library, Keras, its backend and NumPy.

    Examples:
        >>> list(versions())
        ['keras_bikd', 'keras', 'backend', 'numpy']
    """
    backend = keras.backend.backend()
    return {
        "keras_bikd": importlib.metadata.version("keras_bikd"),
        "keras": keras.__version__,
        "backend": f"{backend} {importlib.import_module(backend).__version__}",
        "numpy": np.__version__,
    }


def markdown(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Lay out a Markdown table: the first column is text, the others are numbers.

    Args:
        headings: Heading of every column.
        lines: The cells of every line.

    Returns:
        The table, without a newline at the end.

    Examples:
        >>> print(markdown(["method", "few-shot"], [["CE", "2.0"]]))
        | method | few-shot |
        |---|---:|
        | CE | 2.0 |
    """
    first, *others = [f"| {' | '.join(cells)} |" for cells in (headings, *lines)]
    return "\n".join([first, f"|---|{'---:|' * (len(headings) - 1)}", *others])


def markdown_table(rows: Sequence[Row], columns: Mapping[str, str], by: str = "method") -> str:
    """Mean and standard deviation over seeds as a Markdown table, one line per method.

    Args:
        rows: List of dicts, one per method and seed.
        columns: Dict of heading to key of a number in the rows.
        by: Key whose values name the lines.

    Returns:
        The table, its lines in the order of their first rows.

    Examples:
        >>> print(
        ...     markdown_table(
        ...         [{"method": "CE", "few": 1.0}, {"method": "CE", "few": 3.0}],
        ...         {"few-shot": "few"},
        ...     )
        ... )
        | method | few-shot | seeds |
        |---|---:|---:|
        | CE | 2.0 ± 1.4 | 2 |
    """
    lines = []
    for name in dict.fromkeys(row[by] for row in rows):
        own = [row for row in rows if row[by] == name]
        lines.append([name, *(spread([row.get(key) for row in own]) for key in columns.values()), str(len(own))])
    return markdown([by, *columns, "seeds"], lines)


def spread(values: Iterable[float | None]) -> str:
    """Mean and sample standard deviation as text; of a single value the value, of none a dash. `None` is left out.

    Examples:
        >>> spread([70.0, 72.0])
        '71.0 ± 1.4'
    """
    numbers = [value for value in values if value is not None]
    if len(numbers) > 1:
        return f"{statistics.mean(numbers):.1f} ± {statistics.stdev(numbers):.1f}"
    return f"{numbers[0]:.1f}" if numbers else "–"


def duration(seconds: float) -> str:
    """A time as text.

    Examples:
        >>> duration(7.21), duration(75), duration(1800), duration(9000)
        ('7.2 s', '75 s', '30 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def paired(rows: Sequence[Row], method: str, reference: str, key: str) -> dict[str, Any] | None:
    """Compare two methods seed by seed.

    Args:
        rows: List of dicts with `"method"`, `"seed"` and `key`.
        method: Name of a method.
        reference: Name of the method to compare it with.
        key: Key of the number to compare.

    Returns:
        Dict of the differences, method minus reference, over the seeds that both have, with `"difference"` (their
        mean), `"worst"` (the smallest), `"wins"` (how many are positive), `"seeds"` (how many there are) and `"p"`, the
        two-sided p-value of a paired t-test; `None` below three seeds, or if all differences are equal. `None` in
        place of the dict if no seed is common to both.

    Examples:
        >>> rows = [
        ...     {"method": m, "seed": s, "few": v}
        ...     for m, s, v in [
        ...         ("A", 0, 3.0),
        ...         ("B", 0, 1.0),
        ...         ("A", 1, 4.0),
        ...         ("B", 1, 1.0),
        ...         ("A", 2, 3.5),
        ...         ("B", 2, 1.0),
        ...     ]
        ... ]
        >>> result = paired(rows, "A", "B", "few")
        >>> result["difference"], result["wins"], round(result["p"], 3)
        (2.5, 3, 0.013)
    """
    from scipy import stats

    own, other = ({row["seed"]: row[key] for row in rows if row["method"] == name} for name in (method, reference))
    differences = [own[seed] - other[seed] for seed in sorted(own.keys() & other.keys())]
    if not differences:
        return None
    varies = len(differences) > 2 and len(set(differences)) > 1
    return {
        "difference": statistics.mean(differences),
        "worst": min(differences),
        "wins": sum(difference > 0 for difference in differences),
        "seeds": len(differences),
        "p": float(stats.ttest_1samp(differences, 0.0).pvalue) if varies else None,
    }


def write_csv(path: str | os.PathLike[str], rows: Sequence[Row]) -> None:
    """Write rows as CSV, nested values as JSON.

    Args:
        path: File to write.
        rows: List of dicts. The cell of a key that a row does not have is left empty.
    """
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=dict.fromkeys(key for row in rows for key in row))
        writer.writeheader()
        for row in rows:
            writer.writerow({key: json.dumps(v) if isinstance(v, (dict, list)) else v for key, v in row.items()})
