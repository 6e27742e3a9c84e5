"""Figures of the paper, of a training run and of a comparison. Every function returns a matplotlib figure."""

import importlib.util
import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from keras_bikd.types import Counts

if TYPE_CHECKING:  # an optional dependency
    from matplotlib.figure import Figure

# The palette of Okabe and Ito, which colour-blind readers can tell apart too.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
_MANY_CLASSES = 20  # above this number, the classes are not labelled


def weight_map(
    teacher_losses: ArrayLike,
    student_losses: ArrayLike,
    weights: ArrayLike,
    names: Sequence[str] = ("hard", "soft"),
    *,
    stacked: bool = False,
) -> "Figure":
    """Scatter plots of all samples over teacher loss and student loss, one per weight, and their density.

    Args:
        teacher_losses: Cross-entropy of the teacher per sample, shape `(samples,)`.
        student_losses: Cross-entropy of the student per sample, shape `(samples,)`.
        weights: Weights per sample, shape `(samples, losses)`.
        names: Name of the loss that each column of `weights` belongs to.
        stacked: Whether the panels stand below each other, for a narrow page.

    Returns:
        A `matplotlib.figure.Figure` with one panel per weight and one for the density.

    Raises:
        ImportError: If matplotlib is missing.

    Examples:
        >>> figure = weight_map(
        ...     [0.1, 2.0, 4.0], [0.2, 1.0, 3.0], [[0.1, 0.2], [0.5, 0.6], [0.9, 0.8]]
        ... )
        >>> len(figure.axes)  # three panels, three colour bars
        6

    Reference: arXiv 2605.17839, Figure 3.
    """
    teacher_losses, student_losses, weights = (np.asarray(a) for a in (teacher_losses, student_losses, weights))
    panels = len(names) + 1
    size = (3.8, 3.0 * panels, panels, 1) if stacked else (3.6 * panels, 3.2, 1, panels)
    figure, axes = _figure(*size, sharex=True, sharey=True)
    for axis, name, column in zip(axes, names, weights.T):
        points = axis.scatter(
            teacher_losses, student_losses, c=column, s=6, cmap="viridis", vmin=0, vmax=1, linewidths=0, rasterized=True
        )
        figure.colorbar(points, ax=axis)
        axis.set_title(f"{name} weight")
    density = axes[-1].hexbin(teacher_losses, student_losses, gridsize=30, bins="log", mincnt=1, cmap="cividis")
    figure.colorbar(density, ax=axes[-1], label="samples")
    axes[-1].set_title("density")
    axes[0].set_ylabel("student cross-entropy (nats)")
    figure.supxlabel("teacher cross-entropy (nats)", fontsize="medium")
    return figure


def confusion_matrices(matrices: Mapping[str, ArrayLike], class_names: Sequence[str]) -> "Figure":
    """Confusion matrices side by side; each row holds shares of the samples of its true class.

    Args:
        matrices: Dict of title to integer array of shape `(classes, classes)`, true class by predicted class.
        class_names: Names of the classes; shown if there are at most twenty.

    Returns:
        A `matplotlib.figure.Figure`.

    Examples:
        >>> figure = confusion_matrices(
        ...     {"KD": np.eye(3), "BiKD": np.eye(3)}, ["a", "b", "c"]
        ... )
        >>> [axis.get_title() for axis in figure.axes[:2]]
        ['KD', 'BiKD']

    Reference: arXiv 2605.17839, Figure 4(a).
    """
    figure, axes = _figure(3.6 * len(matrices) + 0.6, 3.6, 1, len(matrices), sharey=True, squeeze=False)
    for axis, (title, matrix) in zip(axes[0], matrices.items()):
        totals = np.asarray(matrix).sum(axis=1, keepdims=True)
        image = axis.imshow(np.asarray(matrix) / np.maximum(totals, 1), cmap="Blues", vmin=0, vmax=1)
        axis.set_title(title)
        axis.set_xlabel("predicted class")
        if len(class_names) <= _MANY_CLASSES:
            axis.set_xticks(range(len(class_names)), class_names, rotation=90, parse_math=False)
            axis.set_yticks(range(len(class_names)), class_names, parse_math=False)
    axes[0, 0].set_ylabel("true class")
    figure.colorbar(image, ax=axes, label="share of the true class")
    return figure


def method_bars(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> "Figure":
    """Bars of the mean over seeds of every method with its standard deviation, best method at the top.

    Args:
        rows: List of dicts, one per method and seed, with `"method"` and a number in per cent for each of `keys`.
        keys: The numbers to draw, each in its own colour; the methods are sorted by the first.

    Returns:
        A `matplotlib.figure.Figure`.

    Examples:
        >>> figure = method_bars(
        ...     [{"method": "KD", "few": 40.0}, {"method": "BiKD", "few": 50.0}],
        ...     ["few"],
        ... )
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
        ['KD', 'BiKD']
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    values = {m: np.array([[row[key] for key in keys] for row in rows if row["method"] == m]) for m in methods}
    methods.sort(key=lambda method: values[method][:, 0].mean())
    means = np.array([values[method].mean(axis=0) for method in methods])
    spreads = np.array([values[method].std(axis=0, ddof=min(len(values[method]) - 1, 1)) for method in methods])
    figure, axis = _figure(7.0, 0.32 * len(methods) + 1.2)
    height, line = 0.8 / len(keys), {"linewidth": 0.8}
    for i, (key, colour) in enumerate(zip(keys, itertools.cycle(_COLOURS))):
        places = np.arange(len(methods)) + 0.4 - (i + 0.5) * height
        axis.barh(places, means[:, i], height, xerr=spreads[:, i], label=key, color=colour, error_kw=line)
    axis.set_yticks(range(len(methods)), methods)
    axis.set_xlabel("accuracy (%)")
    axis.legend(loc="lower right")
    return figure


def training_curves(
    histories: Mapping[str, Mapping[str, Sequence[float]] | keras.callbacks.History], metric: str
) -> "Figure":
    """Curves of one metric over the epochs, one per run.

    Args:
        histories: Dict of label to a `keras.callbacks.History`, or to its `history` dict.
        metric: Key of the histories; `val_<metric>` is drawn as a dashed line where there is one.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If a history has neither of the two keys.

    Examples:
        >>> figure = training_curves(
        ...     {"BiKD": {"loss": [2.0, 1.0], "val_loss": [2.1, 1.5]}}, "loss"
        ... )
        >>> len(figure.axes[0].lines)
        2
    """
    figure, axis = _figure(4.8, 3.2)
    for colour, (label, given) in zip(itertools.cycle(_COLOURS), histories.items()):
        history = given.history if isinstance(given, keras.callbacks.History) else given
        curves = {metric: (label, "-"), f"val_{metric}": (f"{label}, validation", "--")}
        if not curves.keys() & history.keys():
            raise ValueError(
                f"`training_curves(metric=...)` takes a key of every history. Received: metric={metric!r}; {label!r} "
                f"has {', '.join(history)}"
            )
        for key, (shown, style) in curves.items():
            if key in history:
                axis.plot(range(1, len(history[key]) + 1), history[key], style, color=colour, label=shown)
    axis.locator_params(axis="x", integer=True)
    axis.set_xlabel("epoch")
    axis.set_ylabel(metric)
    axis.legend()
    return figure


def score_intervals(
    intervals: Mapping[str, tuple[float, float, float]],
    rounds: Mapping[str, Sequence[float]] | None = None,
    marked: str | None = None,
) -> "Figure":
    """A dot and an interval for the score of every method, in the given order from the top.

    Args:
        intervals: Dict of method to `(score, low, high)` in per cent.
        rounds: Dict of method to its scores in single rounds, drawn as small open dots.
        marked: Method that is drawn in another colour.

    Returns:
        A `matplotlib.figure.Figure`.

    Examples:
        >>> figure = score_intervals(
        ...     {"KD": (70, 66, 73), "BiKD": (75, 71, 78)}, marked="BiKD"
        ... )
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
        ['KD', 'BiKD']
    """
    names = [textwrap.fill(method, 24) for method in intervals]
    figure, axis = _figure(5.6, sum(0.34 if "\n" not in name else 0.5 for name in names) + 0.8)
    for place, (method, (score, low, high)) in enumerate(intervals.items()):
        colour = _COLOURS[3] if method == marked else _COLOURS[0]
        axis.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
        singles = [] if rounds is None else rounds[method]
        axis.scatter(singles, [place] * len(singles), s=14, facecolors="white", edgecolors=colour, zorder=3)
        axis.scatter([score], [place], s=44, color=colour, zorder=4)
    _name_rows(axis, names)
    axis.set_xlabel("balanced accuracy (%)")
    return figure


def class_accuracy_dots(
    accuracies: Mapping[str, Sequence[tuple[float, float, float]]],
    class_counts: Counts,
    class_names: Sequence[str] | None = None,
) -> "Figure":
    """Dots and intervals of the accuracy of every class, in the given order from the top, one colour per method.

    Args:
        accuracies: Dict of method to `(accuracy, low, high)` per class, in 0..1; a class whose accuracy is NaN has no
            dot.
        class_counts: Training samples per class, shown behind the names.
        class_names: Names of the classes; by default their ids.

    Returns:
        A `matplotlib.figure.Figure`.

    Examples:
        >>> figure = class_accuracy_dots(
        ...     {"KD": [(0.9, 0.8, 1.0), (0.2, 0.1, 0.4)]}, [100, 2]
        ... )
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
        ['0 (100)', '1 (2)']
    """
    names = [str(label) for label in range(len(class_counts))] if class_names is None else class_names
    figure, axis = _figure(5.6, 0.3 * len(names) + 1.1)
    shift = 0.4 / len(accuracies)
    for i, (method, values) in enumerate(accuracies.items()):
        places = np.arange(len(names)) + (i - (len(accuracies) - 1) / 2) * shift
        scores, low, high = 100 * np.asarray(values, dtype=float).T
        seen, colour = ~np.isnan(scores), _COLOURS[(0, 3, 2, 4, 5, 1)[i % 6]]
        axis.hlines(places[seen], low[seen], high[seen], color=colour, linewidth=1.5, alpha=0.6)
        axis.scatter(scores[seen], places[seen], s=26, color=colour, label=method, zorder=3)
    _name_rows(axis, [f"{_short(name)} ({count})" for name, count in zip(names, class_counts)])
    axis.set_xlim(-2, 102)
    axis.set_xlabel("accuracy (%)")
    _legend_above(figure, list(accuracies))
    return figure


def class_count_bars(
    class_counts: Counts,
    class_names: Sequence[str] | None = None,
    groups: Mapping[str, ArrayLike] | None = None,
) -> "Figure":
    """Bars of the samples of every class, largest class first.

    Args:
        class_counts: Training samples per class.
        class_names: Names of the classes, shown if there are at most twenty; by default their ids.
        groups: Dict of name to class ids; each group has its own colour.

    Returns:
        A `matplotlib.figure.Figure`.

    Examples:
        >>> figure = class_count_bars([5, 500, 50], ["few", "many", "medium"])
        >>> [text.get_text() for text in figure.axes[0].get_xticklabels()]
        ['many', 'medium', 'few']
    """
    counts = np.asarray(class_counts)
    order = np.argsort(-counts, kind="stable")
    names = [str(label) for label in range(len(order))] if class_names is None else class_names
    figure, axis = _figure(5.6, 2.9)
    parts = groups or {"": order}
    for i, (group, classes) in enumerate(parts.items()):
        places = np.flatnonzero(np.isin(order, classes))
        colour = _COLOURS[3 if 0 < i == len(parts) - 1 else (0, 5, 2, 4)[i % 4]]
        bars = axis.bar(places, counts[order[places]], 0.8, label=group, color=colour)
        if len(order) <= _MANY_CLASSES:
            axis.bar_label(bars, fontsize="small", padding=1)
    axis.set_yscale("log")
    axis.set_ylim(0.7, 2.5 * counts.max())
    axis.set_ylabel("samples")
    axis.set_xlabel("class, largest first")
    if len(order) <= _MANY_CLASSES:
        shown = [_short(names[label], 14) for label in order]
        turned = max(map(len, shown)) * len(shown) > 56  # they would run into each other
        axis.set_xticks(range(len(order)), shown, rotation=90 if turned else 0, parse_math=False)
    if groups:
        axis.legend(frameon=False)
    return figure


def reliability_diagram(predictions: Mapping[str, tuple[ArrayLike, ArrayLike]], num_bins: int = 10) -> "Figure":
    """Share of right predictions over their confidence, one line per method, above the confidences.

    Args:
        predictions: Dict of method to `(confidences, right)`: probability of the predicted class in 0..1, and whether
            it is the true class, both of shape `(samples,)`.
        num_bins: Number of bins of equal width; empty ones are left out.

    Returns:
        A `matplotlib.figure.Figure`.

    Examples:
        >>> figure = reliability_diagram(
        ...     {"KD": ([0.75, 0.75, 0.95], [True, False, True])}
        ... )
        >>> figure.axes[0].lines[1].get_xydata().tolist()
        [[75.0, 50.0], [95.0, 100.0]]

    Reference: Guo et al., arXiv 1706.04599, Figure 1.
    """
    from sklearn.calibration import calibration_curve

    figure, (curves, shares) = _figure(4.6, 4.4, 2, sharex=True, height_ratios=(3, 1))
    curves.plot([0, 100], [0, 100], color="0.6", linewidth=1, linestyle="--")
    for i, (method, (confidences, right)) in enumerate(predictions.items()):
        percent, colour = 100 * np.asarray(confidences, dtype=float), _COLOURS[(0, 3, 2, 4, 5, 1)[i % 6]]
        accuracy, confidence = calibration_curve(np.asarray(right), percent / 100, n_bins=num_bins, pos_label=True)
        curves.plot(100 * confidence, 100 * accuracy, color=colour, marker="o", markersize=5, label=method)
        edges, part = np.linspace(0, 100, num_bins + 1), np.full(len(percent), 100 / len(percent))
        shares.hist(percent, edges, weights=part, histtype="step", color=colour, linewidth=1.5)
    curves.set_ylabel("right (%)")
    _legend_above(figure, list(predictions))
    shares.set_xlabel("confidence (%)")
    shares.set_ylabel("samples (%)")
    return figure


def as_image(figure: "Figure", dpi: int = 100) -> np.ndarray:
    """Render a figure to a uint8 array of shape `(height, width, 4)`.

    Examples:
        >>> as_image(training_curves({"KD": {"loss": [1.0]}}, "loss")).dtype
        dtype('uint8')
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


def require_matplotlib() -> None:
    """Raise an `ImportError` that says what to install if matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("Plots need matplotlib. Install it with `pip install matplotlib`, or the extra `viz`.")


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple["Figure", Any]:
    """A figure of a size in inches, and its axes."""
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def _name_rows(axis: Any, names: Sequence[str]) -> None:
    """Write a name at the left of every row, first row at the top."""
    axis.set_yticks(range(len(names)), names, parse_math=False)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)


def _legend_above(figure: "Figure", labels: Sequence[str]) -> None:
    """Put the legend above the axes: side by side if it is short."""
    figure.legend(loc="outside upper left", ncols=len(labels) if sum(map(len, labels)) < 26 else 1, frameon=False)


def _short(name: str, length: int = 24) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
