"""Figures hold what they were given."""

import importlib.util

import figures
import matplotlib.image
import numpy as np
import pytest

from keras_bikd import callbacks, plots


def test_weight_map_places_every_sample():
    teacher, student, weights = np.random.default_rng(0).uniform(size=(3, 50)), None, None
    teacher, student, hard = teacher
    weights = np.stack([hard, 1 - hard], axis=1)
    figure = plots.weight_map(teacher, student, weights)
    points = figure.axes[1].collections[0]
    np.testing.assert_allclose(points.get_offsets(), np.stack([teacher, student], axis=1))
    np.testing.assert_allclose(points.get_array(), 1 - hard)
    assert figure.axes[2].collections[0].get_array().sum() == 50


def test_confusion_matrices_are_shares_of_the_true_class():
    figure = plots.confusion_matrices({"KD": [[3, 1], [0, 0]], "BiKD": [[4, 0], [1, 1]]}, ["a", "b"])
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), [[0.75, 0.25], [0, 0]])
    np.testing.assert_allclose(figure.axes[1].images[0].get_array(), [[1, 0], [0.5, 0.5]])


def test_score_intervals_show_means_rounds_and_the_marked_method():
    intervals = {"a long name of a method": (50, 45, 55), "B": (60, 52, 66)}
    axis = plots.score_intervals(intervals, {"a long name of a method": [48, 52], "B": [60]}, marked="B").axes[0]
    np.testing.assert_allclose([line.get_xdata() for line in axis.lines], [[45, 55], [52, 66]])
    np.testing.assert_allclose([dots.get_offsets()[:, 0] for dots in axis.collections[1::2]], [[50], [60]])
    np.testing.assert_allclose(axis.collections[0].get_offsets(), [[48, 0], [52, 0]])
    assert axis.lines[0].get_color() != axis.lines[1].get_color()


def test_class_accuracy_dots_leave_out_what_is_not_known():
    values = {"CE": [(0.5, 0.4, 0.6), (np.nan, 0, 1)], "BiKD": [(0.7, 0.6, 0.8), (0.1, 0, 0.3)]}
    figure = plots.class_accuracy_dots(values, [9, 1], ["$\\foo$", "b"])
    lines, dots = figure.axes[0].collections[::2], figure.axes[0].collections[1::2]
    assert [len(part.get_segments()) for part in lines] == [1, 2]
    np.testing.assert_allclose(np.concatenate([part.get_offsets()[:, 0] for part in dots]), [50, 70, 10])
    plots.as_image(figure)  # a name is no formula


def test_class_count_bars_colour_the_groups():
    axis = plots.class_count_bars([5, 500, 50], groups={"frequent": [1], "rare": [2, 0]}).axes[0]
    assert [bar.get_height() for bar in axis.patches] == [500, 50, 5]
    assert len({bar.get_facecolor() for bar in axis.patches}) == 2


def test_reliability_diagram_bins_the_confidences():
    curves, shares = plots.reliability_diagram({"CE": ([0.61, 0.69, 0.95, 1.0], [1, 0, 1, 1])}).axes
    np.testing.assert_allclose(curves.lines[1].get_xydata(), [[65, 50], [97.5, 100]])
    assert shares.patches[0].get_xy()[:, 1].max() == 50


def test_the_figures_of_recipes():
    rows = [{"k": 1, "score": 0.4}, {"k": 20, "score": 0.6}]
    lines = figures.parallel_coordinates(rows, ["k", "score"], logarithmic=["k"]).axes[0].lines
    assert [line.get_ydata().tolist() for line in lines[:2]] == [[0, 0], [1, 1]]


def test_inner_steps_curve_and_training_curves():
    curve = figures.inner_steps_curve([1, 5], {"a": [50, 60], "b": [40, 45]}, {"a": [1, 1], "b": [2, 2]})
    assert [text.get_text() for text in curve.axes[0].get_legend().get_texts()] == ["a", "b"]
    lines = plots.training_curves({"KD": {"loss": [2.0, 1.0]}}, "loss").axes[0].lines
    np.testing.assert_array_equal(lines[0].get_xydata(), [[1, 2.0], [2, 1.0]])


def test_more_curves_than_colours():
    nine = {str(i): {"loss": [i, i]} for i in range(9)}
    assert len(plots.training_curves(nine, "loss").axes[0].lines) == 9


@pytest.mark.parametrize("dpi", [50, 100])
def test_figures_become_pixels(tmp_path, dpi):
    figure = plots.training_curves({"KD": {"loss": [2.0, 1.0]}}, "loss")
    pixels = plots.as_image(figure, dpi=dpi)
    assert pixels.shape == (3.2 * dpi, 4.8 * dpi, 4)
    assert len(np.unique(pixels)) > 10
    figure.savefig(tmp_path / "figure.png")
    assert matplotlib.image.imread(tmp_path / "figure.png").ndim == 3


DRAWING = {
    "WeightMap": callbacks.WeightMap,
    "PerClassReport": lambda folder: callbacks.PerClassReport(folder, data=[]),
    "TensorBoard": callbacks.TensorBoard,
}


@pytest.mark.parametrize("what", DRAWING)
def test_without_matplotlib_what_draws_says_so_before_a_training(what, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="Plots need matplotlib"):
        DRAWING[what](tmp_path)
