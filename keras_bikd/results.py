"""Rows of results: kept on disk one by one, summed up over seeds, compared pair by pair."""

import csv
import json
import pathlib
import statistics

import keras
import numpy as np

from keras_bikd.files import atomic_write


def save_row(path, row):
    """Write one row as JSON, whole or not at all, so that a killed run leaves no half of one.

    Args:
        path: File to write; folders are created.
        row: Dict of what JSON can hold.

    Examples:
        >>> import tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "CE", "0.json")
        >>> save_row(path, {"method": "CE", "seed": 0})
        >>> load_row(path)
        {'method': 'CE', 'seed': 0}
    """
    with atomic_write(path) as unfinished:
        unfinished.write_text(json.dumps(row, indent=1) + "\n")


def load_row(path):
    """Read what `save_row` wrote; `None` if there is no such file."""
    path = pathlib.Path(path)
    return json.loads(path.read_text()) if path.exists() else None


def versions():
    """Versions of what a result depends on, as a dict of name to version."""
    from keras_bikd.version import __version__

    return {
        "keras_bikd": __version__,
        "keras": keras.__version__,
        "backend": f"{keras.backend.backend()} {_backend_version()}",
        "numpy": np.__version__,
    }


def _backend_version():
    import importlib.metadata

    names = {"tensorflow": ("tensorflow", "tensorflow-cpu"), "jax": ("jax",), "torch": ("torch",)}
    for name in names[keras.backend.backend()]:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def markdown_table(rows, columns, by="method"):
    """Mean and standard deviation over seeds, one line per method, as Markdown.

    Args:
        rows: List of dicts, one per method and seed.
        columns: Dict of heading to key of a number in the rows.
        by: Key that names the line.

    Returns:
        The table, lines in the order in which they first appear.

    Examples:
        >>> print(markdown_table([{"method": "CE", "few": 1.0}, {"method": "CE", "few": 3.0}], {"few-shot": "few"}))
        | method | few-shot | seeds |
        |---|---:|---:|
        | CE | 2.0 ± 1.4 | 2 |
    """
    lines = [f"| {by} | {' | '.join(columns)} | seeds |", f"|---|{'---:|' * (len(columns) + 1)}"]
    for name in dict.fromkeys(row[by] for row in rows):
        own = [row for row in rows if row[by] == name]
        cells = [spread([row.get(key) for row in own]) for key in columns.values()]
        lines.append(f"| {name} | {' | '.join(cells)} | {len(own)} |")
    return "\n".join(lines)


def spread(values):
    """Mean and sample standard deviation as text; the value alone if there is one, a dash if there is none.

    Examples:
        >>> spread([70.0, 72.0])
        '71.0 ± 1.4'
    """
    values = [value for value in values if value is not None]
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def paired(rows, method, reference, key):
    """Compare two methods seed by seed.

    Args:
        rows: List of dicts with `"method"`, `"seed"` and `key`.
        method: Name of the one.
        reference: Name of the other.
        key: What to compare.

    Returns:
        Dict: `"difference"` (mean over common seeds), `"worst"`, `"wins"`, `"seeds"`, and `"p"`, the two-sided
        p-value of a paired t-test (`None` below three seeds); or `None` without a common seed.

    Examples:
        >>> rows = [{"method": m, "seed": s, "few": v} for m, s, v in
        ...         [("A", 0, 3.0), ("B", 0, 1.0), ("A", 1, 4.0), ("B", 1, 1.0), ("A", 2, 3.5), ("B", 2, 1.0)]]
        >>> result = paired(rows, "A", "B", "few")
        >>> result["difference"], result["wins"], round(result["p"], 3)
        (2.5, 3, 0.013)
    """
    from scipy import stats

    scores = {name: {row["seed"]: row[key] for row in rows if row["method"] == name} for name in (method, reference)}
    seeds = sorted(set(scores[method]) & set(scores[reference]))
    if not seeds:
        return None
    differences = [scores[method][seed] - scores[reference][seed] for seed in seeds]
    varies = len(seeds) > 2 and len(set(differences)) > 1
    return {
        "difference": statistics.mean(differences),
        "worst": min(differences),
        "wins": sum(difference > 0 for difference in differences),
        "seeds": len(seeds),
        "p": float(stats.ttest_1samp(differences, 0.0).pvalue) if varies else None,
    }


def write_csv(path, rows):
    """Write rows as CSV; what is nested goes in as JSON.

    Args:
        path: File to write.
        rows: List of dicts; a key that is missing in a row leaves its cell empty.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=keys)
        writer.writeheader()
        for row in rows:
            flat = {key: json.dumps(value) if isinstance(value, (dict, list)) else value for key, value in row.items()}
            writer.writerow(flat)
