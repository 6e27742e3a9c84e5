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
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from keras_bikd import plots
from keras_bikd.comparison.label_errors import Suspect
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

Numbers: TypeAlias = dict[str, Any]
"""What `Findings.numbers` returns."""


Picture: TypeAlias = tuple[str, str]
"""Data URIs of a figure of the report, and of the same for narrow screens."""


def _picture(draw: Callable[..., "Figure"], *arguments: Any, **named: Any) -> Picture:
    drawn = functools.partial(draw, *arguments, **named)
    return figure_uri(drawn), figure_uri(drawn, _NARROW)


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
    suspects, drawn = numbers["suspects"].samples, _classes_drawn(numbers)
    shown = suspects[:_SUSPECTS_SHOWN]
    pairs = numbers["pairs"].items()
    text = environment.get_template("report.html").render(
        numbers
        | {
            "figures": _figures(numbers, drawn),
            "drawn": len(drawn),
            "pairs": [(pair, _names(*subset), thumbnails(*subset)) for pair, subset in pairs],
            "suspected": shown,
            "suspected_names": _names(train, [suspect.position for suspect in shown]),
            "suspected_images": thumbnails(train, [suspect.position for suspect in shown]),
            "suspects_file": SUSPECTS_FILE,
        }
    )
    _write_suspects(path.with_name(SUSPECTS_FILE), suspects, train)
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return path


def _write_suspects(path: pathlib.Path, suspects: Sequence[Suspect], train: Samples) -> None:
    names = train.class_names
    with atomic_write(path) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "position", "label", "suggested", "margin", "held_out"])
        for position, label, suggested, margin, held_out in suspects:
            row = train.name(position), position, names[label], names[suggested], f"{margin:.4f}", held_out
            writer.writerow(row)


def _names(samples: Samples, ids: Iterable[int]) -> list[str]:
    return [samples.name(i) for i in ids]


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


def _classes_drawn(numbers: Numbers) -> list[int]:
    """The classes of the figure; of many those that change most, or that are most often wrong."""
    classes, accuracies = numbers["largest_first"], numbers["accuracies"]
    if len(classes) <= _CLASSES_DRAWN:
        return list(classes)
    own = accuracies[numbers["method"]]
    its = accuracies.get(numbers["baseline"], own)
    judged = [i for i in classes if own[i].samples]
    judged.sort(key=lambda i: (-abs(own[i].accuracy - its[i].accuracy), own[i].accuracy))
    return sorted(judged[:_LARGEST_CHANGES], key=classes.index)


def _figures(numbers: Numbers, drawn: Sequence[int]) -> dict[str, Any]:
    """Name to picture; what there is nothing to draw for is missing or empty."""
    lines, names, counts = numbers["methods"], numbers["class_names"], numbers["counts"]
    intervals = {line["name"]: (line["mean"], *line["interval"]) for line in lines}
    scores = {line["name"]: line["scores"] for line in lines}
    accuracies = {name: [known[i][:3] for i in drawn] for name, known in numbers["accuracies"].items()}
    drawn_names = [names[i] for i in drawn]
    groups = {name: classes for name, classes in numbers["groups"].items() if len(classes)}
    # Names that fit next to a matrix.
    short = [name if len(name) <= 14 else f"{name[:13]}…" for name in names]
    confusion = numbers["confusion"].items() if numbers["pairs"] else ()
    return {
        "methods": _picture(plots.score_intervals, intervals, scores, numbers["method"]),
        "classes": drawn and _picture(plots.class_accuracy_dots, accuracies, counts[drawn], drawn_names),
        "tail": _picture(plots.class_count_bars, counts, names, groups),
        "confusion": {name: _picture(plots.confusion_matrices, {name: matrix}, short) for name, matrix in confusion},
        "calibration": _picture(plots.reliability_diagram, numbers["confidences"], num_bins=BINS),
        "weights": {method: _weights(found) for method, found in numbers["weights"].items()},
        "curves": _curves(numbers["curves"]),
    }


def _weights(found: Mapping[str, np.ndarray]) -> Picture:
    losses, names = (found["teacher_losses"], found["student_losses"]), [*map(str, found["names"])]
    draw = functools.partial(plots.weight_map, *losses, found["weights"], names)
    return figure_uri(draw), figure_uri(functools.partial(draw, stacked=True))


def _curves(found: Mapping[str, Sequence[Sequence[float]]]) -> Picture | None:
    key = "balanced accuracy (%)"
    histories: dict[str, Mapping[str, Any]] = {}
    for method, own in found.items():
        if curves := [curve for curve in own if curve]:
            shortest = min(map(len, curves))
            histories[method] = {key: 100 * np.mean([curve[:shortest] for curve in curves], axis=0)}
    return _picture(lambda: _legend_below(plots.training_curves(histories, key))) if histories else None


def _legend_below(figure: "Figure") -> "Figure":
    """Put the legend under the axes, where it covers no line."""
    (axis,) = figure.axes
    if legend := axis.get_legend():
        legend.remove()
    figure.set_size_inches(5.6, 3.2 + 0.25 * len(axis.lines))
    figure.legend(loc="outside lower left", frameon=False, ncols=1)
    return figure


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
    kind = "png" if max(picture.size) <= _SIDE else "jpeg"
    picture.thumbnail((_SIDE, _SIDE))  # which does not enlarge
    picture.save(file, kind, quality=85)
    return _uri(kind, file.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
