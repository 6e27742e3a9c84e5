"""The report of a comparison: one HTML file with its figures and sample images inside, which needs nothing else."""

import base64
import csv
import functools
import importlib.util
import io
import math
import pathlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_bikd import plots
from keras_bikd.comparison.samples import Samples
from keras_bikd.files import atomic_write
from keras_bikd.results import duration

if TYPE_CHECKING:  # optional dependencies
    from jinja2 import Environment
    from markupsafe import Markup
    from matplotlib.figure import Figure

SUSPECTS_FILE = "suspected_labels.csv"
"""Name of the file of all suspected labels, next to the report."""

BINS = 10
"""Bins of confidence."""

_CLASSES_DRAWN, _LARGEST_CHANGES, _SUSPECTS_SHOWN = 40, 20, 20
_NARROW = 3.9  # inches of a figure whose letters can be read on a phone
_SIDE = 96  # pixels of a sample image
_STYLE: dict[Any, Any] = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 11,
    "savefig.dpi": 160,  # of what is drawn as pixels
    "svg.hashsalt": "keras_bikd",  # the same figure gives the same bytes
}

Numbers = Mapping[str, Any]
"""What `Findings.numbers` returns."""


class _Picture(NamedTuple):
    """A figure of the report, and the same for narrow screens."""

    uri: str
    alt: str
    narrow: str


def _picture(alt: str, draw: Callable[..., "Figure"], *arguments: Any, **named: Any) -> _Picture:
    drawn = functools.partial(draw, *arguments, **named)
    return _Picture(figure_uri(drawn), alt, figure_uri(drawn, _NARROW))


def write_report(numbers: Numbers, train: Samples, path: pathlib.Path) -> pathlib.Path:
    """Write the report, and the list of suspected labels next to it.

    Args:
        numbers: What `Findings.numbers` returns, with `"command"`.
        train: The training samples.
        path: The file.

    Returns:
        The path.
    """
    plots.require_matplotlib()
    environment = template_environment()
    suspected = [_suspected(numbers, train, suspect) for suspect in numbers["suspects"].samples]
    shown = _classes_shown(numbers)
    text = environment.get_template("report.html").render(
        numbers,
        figures=_figures(numbers, shown),
        shown_groups=[name for name in ("rare", "medium", "frequent") if _has_group(numbers, name)],
        compared=any(line["difference"] for line in numbers["methods"]),
        drawn=len(shown),
        pairs=[_pair(pair) for pair in numbers["pairs"]],
        suspected=_with_images(suspected[:_SUSPECTS_SHOWN], train),
        suspects_file=SUSPECTS_FILE,
    )
    with (
        atomic_write(path.with_name(SUSPECTS_FILE)) as unfinished,
        open(unfinished, "w", newline="", encoding="utf-8") as file,
    ):
        headings = ["name", "position", "label", "suggested", "margin", "held_out"]
        writer = csv.DictWriter(file, headings)
        writer.writeheader()
        writer.writerows({**line, "margin": f"{line['margin']:.4f}"} for line in suspected)
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
        "duration": duration,
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


def _prose(text: str) -> "Markup":
    """Text as HTML: minus signs, no line break before a unit, and what stands in backticks as code."""
    from markupsafe import Markup, escape  # which Jinja2 requires

    typeset = re.sub(r"(?<= )-(?=\d)", "−", str(escape(text))).replace(" %", "\N{NO-BREAK SPACE}%")
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", typeset))  # noqa: S704 (escaped above)


def _markdown(text: object) -> str:
    """Text that Markdown shows as it is, also in the cell of a table."""
    plain = str(text).replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#~$" else letter for letter in plain)


def _has_group(numbers: Numbers, group: str) -> bool:
    return any(group in line["groups"] for line in numbers["methods"])


def _classes_shown(numbers: Numbers) -> list[dict[str, Any]]:
    """The classes of the figure; of many those that change most, or that are most often wrong."""
    lines: list[dict[str, Any]] = numbers["classes"]
    if len(lines) <= _CLASSES_DRAWN:
        return lines
    judged = [line for line in lines if line["recommended"].samples]
    judged.sort(key=lambda line: (-abs(line["change"]), line["recommended"].accuracy))
    chosen = {line["name"] for line in judged[:_LARGEST_CHANGES]}
    return [line for line in lines if line["name"] in chosen]


def _figures(numbers: Numbers, shown: list[dict[str, Any]]) -> dict[str, Any]:
    """Name to picture; what there is nothing to draw for is missing or empty."""
    return {
        "methods": _methods(numbers),
        "classes": _classes(numbers, shown) if shown else None,
        "tail": _tail(numbers),
        "confusion": _confusion(numbers) if numbers["pairs"] else [],
        "calibration": _calibration(numbers),
        "weights": {method: _weights(method, found) for method, found in numbers["weights"].items()},
        "curves": _curves(numbers),
    }


def _methods(numbers: Numbers) -> _Picture:
    lines = numbers["methods"]
    intervals = {line["name"]: (line["mean"], line["low"], line["high"]) for line in lines}
    listed = ", ".join(f"{line['name']} {line['mean']:.1f}" for line in lines)
    rounds = {line["name"]: line["scores"] for line in lines}
    alt = f"Balanced accuracy in per cent: {listed}."
    return _picture(alt, plots.score_intervals, intervals, rounds, numbers["method"])


def _classes(numbers: Numbers, shown: list[dict[str, Any]]) -> _Picture:
    drawn = {numbers["baseline"]: "baseline", numbers["method"]: "recommended"}
    accuracies = {name: [line[key][:3] for line in shown] for name, key in drawn.items() if name}
    counts, names = [line["samples"] for line in shown], [line["name"] for line in shown]
    alt = "Accuracy of every class with its interval; the numbers are in the table of all classes."
    return _picture(alt, plots.class_accuracy_dots, accuracies, counts, names)


def _tail(numbers: Numbers) -> _Picture:
    counts = numbers["counts"]
    groups = {name: classes for name, classes in numbers["groups"].items() if len(classes)}
    alt = f"Bars of the samples of {len(counts)} classes, from {counts.max()} to {counts.min()}, on a logarithmic axis."
    return _picture(alt, plots.class_count_bars, counts, numbers["class_names"], groups)


def _confusion(numbers: Numbers) -> list[_Picture]:
    # Names that fit next to a matrix, and that matplotlib does not read as formulas.
    short = [name if len(name) <= 14 else f"{name[:13]}…" for name in numbers["class_names"]]
    short = [name.replace("$", r"\$") for name in short]
    alt = "Confusion matrix of {}: true class by predicted class, as shares of the true class."
    return [
        _picture(alt.format(name), plots.confusion_matrices, {name: matrix}, short)
        for name, matrix in numbers["confusion"].items()
    ]


def _calibration(numbers: Numbers) -> _Picture:
    listed = ", ".join(f"{name} {own['error']:.1f}" for name, own in numbers["calibration"].items())
    alt = f"Share of right predictions over confidence; expected calibration error in points: {listed}."
    return _picture(alt, plots.reliability_diagram, numbers["confidences"], num_bins=BINS)


def _weights(method: str, found: Mapping[str, np.ndarray]) -> _Picture:
    losses, names = (found["teacher_losses"], found["student_losses"]), [*map(str, found["names"])]
    draw = functools.partial(plots.weight_map, *losses, found["weights"], names)
    alt = f"Samples over teacher and student cross-entropy, coloured by the weights of {method}."
    return _Picture(figure_uri(draw), alt, figure_uri(functools.partial(draw, stacked=True)))


def _curves(numbers: Numbers) -> _Picture | None:
    key = "balanced accuracy (%)"
    histories: dict[str, Mapping[str, Any]] = {}
    for method, found in numbers["curves"].items():
        if curves := [curve for curve in found if curve]:
            shortest = min(map(len, curves))
            histories[method] = {key: 100 * np.mean([curve[:shortest] for curve in curves], axis=0)}
    if not histories:
        return None
    alt = "Balanced accuracy on validation samples after each tenth of the training, one line per method."
    return _picture(alt, lambda: _legend_below(plots.training_curves(histories, key)))


def _legend_below(figure: "Figure") -> "Figure":
    """Put the legend under the axes, where it covers no line."""
    axis = figure.axes[0]
    handles, labels = axis.get_legend_handles_labels()
    if legend := axis.get_legend():
        legend.remove()
    figure.set_size_inches(5.6, 3.2 + 0.25 * len(labels))
    figure.legend(handles, labels, loc="outside lower left", frameon=False, ncols=1)
    return figure


def _pair(pair: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the table of confused pairs, with samples that were confused."""
    samples, ids = pair["samples"]
    names = [samples.name(i) for i in ids]
    return {**pair, "names": names, "images": list(zip(names, thumbnails(samples, ids) or []))}


def _suspected(numbers: Numbers, train: Samples, suspect: Any) -> dict[str, Any]:
    """A line of the table of suspected labels."""
    names = numbers["class_names"]
    label, suggested = names[suspect.label], names[suspect.suggested]
    return {"name": train.name(suspect.position), **suspect._asdict(), "label": label, "suggested": suggested}


def _with_images(lines: list[dict[str, Any]], train: Samples) -> list[dict[str, Any]]:
    images = thumbnails(train, [line["position"] for line in lines])
    return [{**line, "image": images and images[i]} for i, line in enumerate(lines)]


def figure_uri(draw: Callable[[], "Figure"], width: float | None = None) -> str:
    """Draw a figure as SVG.

    Args:
        draw: Function that returns the figure; called here, so that it is drawn in the style of reports.
        width: Another width than its own, in inches.

    Returns:
        A data URI.
    """
    import matplotlib

    # Letters become shapes, which look the same everywhere, unless the font of matplotlib lacks them.
    for letters in ("path", "none"):
        with matplotlib.rc_context(_STYLE | {"svg.fonttype": letters}), warnings.catch_warnings(record=True) as caught:
            warnings.filterwarnings("always", message="Glyph")
            file = io.BytesIO()
            figure = draw()
            if width is not None:
                figure.set_figwidth(width)
            figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        if not any("Glyph" in str(warning.message) for warning in caught):
            break
    return _uri("svg+xml", file.getvalue())


def thumbnails(samples: Samples, ids: Sequence[int]) -> list[str] | None:
    """Small pictures of samples.

    Args:
        samples: The samples.
        ids: Which of them.

    Returns:
        A data URI for each, or `None` if the samples are no images. An image is a float array from 0 to 1 of shape
        `(height, width, channels)` with one or three channels.
    """
    if not len(ids):
        return None
    inputs: Any = samples.inputs(np.asarray(ids))
    if not isinstance(inputs, np.ndarray) or inputs.ndim != 4 or inputs.shape[-1] not in (1, 3):
        return None
    if inputs.dtype.kind != "f" or not (inputs.min() >= 0 and inputs.max() <= 1):
        return None
    return [_thumbnail(image) for image in np.round(255 * inputs).astype("uint8")]


def _thumbnail(image: np.ndarray) -> str:
    from PIL import Image  # which matplotlib requires

    picture, file = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image), io.BytesIO()
    if max(picture.size) <= _SIDE:
        picture.save(file, "PNG")
        return _uri("png", file.getvalue())
    picture.thumbnail((_SIDE, _SIDE))
    picture.save(file, "JPEG", quality=85)
    return _uri("jpeg", file.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
