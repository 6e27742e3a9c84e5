"""Figures of single recipes: accuracy over the inner steps, and the trials of a search."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure


def inner_steps_curve(inner_steps, accuracies, spreads):
    """Accuracy over the number of inner steps, one line per setting, as Figure 4(b) of the paper (arXiv 2605.17839).

    Args:
        inner_steps: The numbers of inner steps.
        accuracies: Dict of label to accuracies in per cent, one per number of inner steps.
        spreads: Dict of label to standard deviations, drawn as error bars.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure = Figure(figsize=(4.8, 3.2), layout="constrained")
    axis = figure.subplots()
    for label, values in accuracies.items():
        axis.errorbar(inner_steps, values, yerr=spreads[label], label=label, marker="o", capsize=3)
    axis.set_xscale("log")
    axis.set_xticks(inner_steps, [str(steps) for steps in inner_steps])
    axis.minorticks_off()
    axis.set_xlabel("inner steps k")
    axis.set_ylabel("accuracy (%)")
    axis.legend()
    return figure


def parallel_coordinates(rows, keys, logarithmic=()):
    """A hyper-parameter search at a glance: one line per trial across one axis per key, coloured by the last key.

    Args:
        rows: List of dicts of numbers, one per trial.
        keys: The axes, from left to right; the last is the score.
        logarithmic: Keys whose axis is logarithmic.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure = Figure(figsize=(1.8 * len(keys), 3.6), layout="constrained")
    axis = figure.subplots()
    table = np.array([[float(row[key]) for key in keys] for row in rows])
    scaled = np.column_stack([np.log(v) if key in logarithmic else v for key, v in zip(keys, table.T)])
    low, high = scaled.min(axis=0), scaled.max(axis=0)
    places = (scaled - low) / np.where(high > low, high - low, 1)
    for row in np.argsort(table[:, -1]):
        axis.plot(range(len(keys)), places[row], color=matplotlib.colormaps["viridis"](places[row, -1]), linewidth=1.5)
    for i in range(len(keys)):
        axis.axvline(i, color="0.5", linewidth=0.8)
        for place, value in ((0, table[:, i].min()), (1, table[:, i].max())):
            axis.annotate(f"{value:.3g}", (i, place), xytext=(3, 3), textcoords="offset points", fontsize="small")
    axis.set_xticks(range(len(keys)), keys)
    axis.set_yticks([])
    return figure
