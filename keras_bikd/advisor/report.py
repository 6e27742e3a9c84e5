"""The report of a comparison: one HTML file that needs nothing else."""

import csv
import functools
import importlib.util
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_bikd import plots
from keras_bikd.advisor import facts
from keras_bikd.advisor.candidates import BASELINE
from keras_bikd.advisor.findings import Findings
from keras_bikd.advisor.pictures import figure_uri, thumbnails
from keras_bikd.advisor.suspects import Suspect
from keras_bikd.files import atomic_write

if TYPE_CHECKING:  # optional dependencies
    from jinja2 import Environment
    from markupsafe import Markup
    from matplotlib.figure import Figure

SUSPECTS_FILE = "suspected_labels.csv"
"""Name of the file of all suspected labels, next to the report."""

_CLASSES_DRAWN, _LARGEST_CHANGES = 40, 20
_NARROW = 3.9  # inches of a figure whose letters can be read on a phone
_SUSPECTS_SHOWN, _IMAGES_PER_PAIR = 20, 4


class _Picture(NamedTuple):
    """A figure of the report, and the same for narrow screens."""

    uri: str
    alt: str
    narrow: str


def _picture(draw: Callable[[], "Figure"], alt: str) -> _Picture:
    return _Picture(figure_uri(draw), alt, figure_uri(draw, _NARROW))


def write_report(
    findings: Findings, path: str | os.PathLike[str] | None = None, command: str | None = None
) -> pathlib.Path:
    """Write the report, and the list of suspected labels next to it; see `Findings.report`."""
    plots.require_matplotlib()
    environment = template_environment()
    path = pathlib.Path(findings.folder / "report.html" if path is None else path)
    text = environment.get_template("report.html").render(_content(findings, command or findings.command))
    with atomic_write(path.with_name(SUSPECTS_FILE)) as unfinished:
        _write_suspects(findings, unfinished)
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return path


def template_environment() -> "Environment":
    """The templates of the package, with the filters that they use.

    Raises:
        ImportError: If Jinja2 is missing.
    """
    if importlib.util.find_spec("jinja2") is None:
        raise ImportError("Reports need Jinja2. Install it with `pip install jinja2`, or the extra `viz`.")
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).with_name("templates")),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "duration": _duration,
        "number": lambda value: _text(value, ".1f"),
        "percent": lambda value: _text(100 * value, ".0f"),
        "points": lambda value: _text(value, "+.1f").replace("-", "−"),
        "markdown": _markdown,
        "prose": _prose,
    }
    environment.filters.update(filters)
    return environment


def _text(value: float, style: str) -> str:
    return "–" if math.isnan(value) else format(value, style)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _prose(text: str) -> "Markup":
    """Text as HTML: minus signs, no line break before a unit, and what stands in backticks as code."""
    from markupsafe import Markup, escape  # which Jinja2 requires

    typeset = re.sub(r"(?<= )-(?=\d)", "−", str(escape(text))).replace(" %", "\N{NO-BREAK SPACE}%")
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", typeset))  # noqa: S704 (escaped above)


def _markdown(text: object) -> str:
    """Text that Markdown shows as it is, also in the cell of a table."""
    plain = str(text).replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#~$" else letter for letter in plain)


def _content(findings: Findings, command: str | None) -> dict[str, Any]:
    """Everything that the template shows; what is `None` or empty is left out."""
    found = findings.recommendation
    first, *others = found.sentences
    return {
        "method": found.method,
        "baseline": facts.baseline_of(findings),
        "baseline_name": BASELINE,
        "lead": first.removeprefix(f"Use {found.method}. "),
        "sentences": others,
        "counts": findings.class_counts,
        "seeds": len(findings.rounds),
        "methods": _methods(findings),
        "classes": _classes(findings),
        "tail": _tail(findings),
        "confusion": _confusion(findings),
        "calibration": _calibration(findings),
        "weights": _weights(findings),
        "curves": _curves(findings),
        "suspects": _suspects(findings),
        "failures": findings.failures,
        "setup": facts.setup_of(findings),
        "command": command,
    }


def _methods(findings: Findings) -> dict[str, Any]:
    lines, evidence = facts.method_lines(findings), findings.evidence
    intervals = {line.name: (line.mean, line.low, line.high) for line in lines}
    draw = functools.partial(plots.score_intervals, intervals, evidence.scores, findings.recommendation.method)
    listed = ", ".join(f"{line.name} {line.mean:.1f}" for line in lines)
    groups = [name for name in ("rare", "medium", "frequent") if any(name in line.groups for line in lines)]
    return {
        "lines": lines,
        "groups": groups,
        "compared": any(line.difference for line in lines),
        "figure": _picture(draw, f"Balanced accuracy in per cent: {listed}."),
    }


def _classes(findings: Findings) -> dict[str, Any]:
    lines = facts.class_lines(findings)
    shown = lines
    if len(lines) > _CLASSES_DRAWN:
        judged = [line for line in lines if line.recommended.samples]
        largest = sorted(judged, key=lambda line: (-abs(line.change), line.recommended.accuracy))[:_LARGEST_CHANGES]
        shown = [line for line in lines if line in largest]
    drawn: dict[str, list[Any]] = {findings.recommendation.method: [line.recommended[:3] for line in shown]}
    if baseline := facts.baseline_of(findings):
        drawn = {baseline: [line.baseline[:3] for line in shown if line.baseline], **drawn}
    names, counts = [line.name for line in shown], [line.samples for line in shown]
    draw = functools.partial(plots.class_accuracy_dots, drawn, counts, names)
    alt = "Accuracy of every class with its interval; the numbers are in the table of all classes."
    return {
        "lines": lines,
        "drawn": len(shown),
        "unjudged": [line.name for line in lines if not line.recommended.samples],
        "figure": _picture(draw, alt) if shown else None,
    }


def _tail(findings: Findings) -> _Picture:
    counts, groups = findings.class_counts, findings.evidence.groups
    filled = {name: classes for name, classes in groups.items() if len(classes)}
    draw = functools.partial(plots.class_count_bars, counts, findings.class_names, filled)
    alt = f"Bars of the samples of {len(counts)} classes, from {counts.max()} to {counts.min()}, on a logarithmic axis."
    return _picture(draw, alt)


def _confusion(findings: Findings) -> dict[str, Any] | None:
    method, baseline = findings.recommendation.method, facts.baseline_of(findings)
    pairs = facts.confused_pairs(findings)
    if not pairs:
        return None
    figures = []
    for name in (method,) if baseline is None else (baseline, method):
        draw = functools.partial(plots.confusion_matrices, {name: findings.confusion(name)}, _short(findings))
        alt = f"Confusion matrix of {name}: true class by predicted class, as shares of the true class."
        figures.append(_picture(draw, alt))
    lines = [_pair(findings, pair) for pair in pairs]
    return {"figures": figures, "pairs": lines, "images": any(line["images"] for line in lines)}


def _short(findings: Findings) -> list[str]:
    """Class names that fit next to a matrix, and that matplotlib does not read as formulas."""
    names = [name if len(name) <= 14 else f"{name[:13]}…" for name in findings.class_names]
    return [name.replace("$", r"\$") for name in names]


def _pair(findings: Findings, pair: facts.ConfusedPair) -> dict[str, Any]:
    """A line of the table of confused pairs, with samples that were confused."""
    method = findings.recommendation.method
    found: dict[int, Any] = {}
    for seed, division in findings.rounds.items():
        validation = division.validation
        confused = (validation.labels == pair.label) & (findings.predicted(method, seed) == pair.predicted)
        found |= {int(i): validation.samples for i in validation.ids[confused]}
    ids = sorted(found)[:_IMAGES_PER_PAIR]
    samples = found[ids[0]]
    names = [samples.name(i) for i in ids]
    return {
        "label": findings.class_names[pair.label],
        "predicted": findings.class_names[pair.predicted],
        "pair": pair,
        "names": names,
        "images": list(zip(names, thumbnails(samples, ids) or [])),
    }


def _calibration(findings: Findings) -> dict[str, Any]:
    method, baseline = findings.recommendation.method, facts.baseline_of(findings)
    names = [method] if baseline is None else [baseline, method]
    errors = {name: facts.calibration_of(findings, name) for name in names}
    draw = functools.partial(
        plots.reliability_diagram, {name: facts.confident(findings, name) for name in names}, num_bins=facts.BINS
    )
    listed = ", ".join(f"{name} {error.error:.1f}" for name, error in errors.items())
    alt = f"Share of right predictions over confidence; expected calibration error in points: {listed}."
    return {"errors": errors, "figure": _picture(draw, alt)}


def _weights(findings: Findings) -> dict[str, _Picture]:
    drawn = {}
    for method in findings.methods:
        if weights := findings.weights(method):
            losses, names = (weights["teacher_losses"], weights["student_losses"]), [*map(str, weights["names"])]
            alt = f"Samples over teacher and student cross-entropy, coloured by the weights of {method}."
            wide, narrow = (
                figure_uri(functools.partial(plots.weight_map, *losses, weights["weights"], names, stacked=stacked))
                for stacked in (False, True)
            )
            drawn[method] = _Picture(wide, alt, narrow)
    return drawn


def _curves(findings: Findings) -> _Picture | None:
    key = "balanced accuracy (%)"
    histories: dict[str, Mapping[str, Any]] = {}
    for method in findings.methods:
        curves = [history["validation"] for history in findings.history(method) if history.get("validation")]
        if curves:
            shortest = min(map(len, curves))
            histories[method] = {key: 100 * np.mean([curve[:shortest] for curve in curves], axis=0)}
    if not histories:
        return None
    alt = "Balanced accuracy on validation samples after each tenth of the training, one line per method."
    return _picture(lambda: _legend_below(plots.training_curves(histories, key)), alt)


def _legend_below(figure: "Figure") -> "Figure":
    """Put the legend under the axes, where it covers no line."""
    axis = figure.axes[0]
    handles, labels = axis.get_legend_handles_labels()
    if legend := axis.get_legend():
        legend.remove()
    figure.set_size_inches(5.6, 3.2 + 0.25 * len(labels))
    figure.legend(handles, labels, loc="outside lower left", frameon=False, ncols=1)
    return figure


def _suspects(findings: Findings) -> dict[str, Any] | None:
    suspects = findings.suspects
    if not suspects.samples:
        return None
    shown = suspects.samples[:_SUSPECTS_SHOWN]
    images = thumbnails(findings.train, [suspect.position for suspect in shown])
    lines = [{"suspect": suspect, **_suspect(findings, suspect)} for suspect in shown]
    return {
        "lines": [line | {"image": image} for line, image in zip(lines, images or [""] * len(lines))],
        "images": images is not None,
        "total": len(suspects.samples),
        "looked_at": suspects.looked_at,
        "share": suspects.share,
        "file": SUSPECTS_FILE,
    }


def _suspect(findings: Findings, suspect: Suspect) -> dict[str, Any]:
    names: Callable[[int], str] = findings.class_names.__getitem__
    return {
        "name": findings.train.name(suspect.position),
        "label": names(suspect.label),
        "suggested": names(suspect.suggested),
    }


def _write_suspects(findings: Findings, path: pathlib.Path) -> None:
    """All suspected labels as CSV; a file with headings alone if there are none."""
    headings = ["name", "position", "label", "suggested", "margin", "held_out"]
    rows = [
        {**_suspect(findings, suspect), "position": suspect.position, "margin": f"{suspect.margin:.4f}"}
        | {"held_out": suspect.held_out}
        for suspect in findings.suspects.samples
    ]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, headings)
        writer.writeheader()
        writer.writerows(rows)
