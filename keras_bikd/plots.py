"""Figures of the paper, as functions that return a matplotlib figure."""

import numpy as np


def weight_map(teacher_losses, student_losses, weights, names=("hard", "soft")):
    """Every sample at its teacher loss and student loss, coloured by each of its weights, and their density.

    Args:
        teacher_losses: Cross-entropy of the teacher per sample, shape `(samples,)`.
        student_losses: Cross-entropy of the student per sample, shape `(samples,)`.
        weights: Weights per sample, shape `(samples, losses)`.
        names: Name of the loss of each column of `weights`.

    Returns:
        A `matplotlib.figure.Figure` with one panel per weight and one for the density.

    Raises:
        ImportError: If matplotlib is missing.

    Example:
    >>> figure = weight_map([0.1, 2.0, 4.0], [0.2, 1.0, 3.0], [[0.1, 0.2], [0.5, 0.6], [0.9, 0.8]])
    >>> len(figure.axes)  # three panels, three colour bars
    6

    Reference: arXiv 2605.17839, Figure 3.
    """
    Figure = _figure_class()
    teacher_losses, student_losses, weights = (np.asarray(a) for a in (teacher_losses, student_losses, weights))
    panels = len(names) + 1
    figure = Figure(figsize=(3.6 * panels, 3.2), layout="constrained")
    axes = figure.subplots(1, panels, sharex=True, sharey=True)
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


def _figure_class():
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Plots need matplotlib. Install it with `pip install keras_bikd[viz]`.") from error
    return Figure
