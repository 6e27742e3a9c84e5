"""Every recipe runs, shortly, and says something true."""

import csv
import importlib
import json
import pathlib
import runpy
import sys

import keras
import numpy as np
import pytest
from test_data import FEW_GLYPHS, mock_data

import forks
import keras_bikd as bikd
import models

RECIPES = pathlib.Path(__file__).parents[1] / "recipes"


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(RECIPES)
    return importlib.import_module


@models.tensorflow_only
def test_digits_lt(recipe, tmp_path, capsys, monkeypatch):
    rows = recipe("digits_lt").main(seeds=(0,), steps=200, folder=tmp_path)
    scores = {row["method"]: row for row in rows}
    assert set(scores) == {"CE", "KD", "BiKD", "balanced softmax"}
    for row in rows:
        assert row["overall"] > 30  # chance is 10
        counts = {"many": 3, "medium": 3, "few": 4}
        mean = sum(counts[group] * row[group] for group in counts) / 10
        assert row["overall"] == pytest.approx(mean, abs=0.01)
    assert scores["balanced softmax"]["few"] > scores["CE"]["few"]
    out = capsys.readouterr().out
    assert "| method | overall |" in out
    assert f"| CE | {scores['CE']['overall']:.1f} |" in out
    with open(tmp_path / "results.csv") as file:
        assert [row["method"] for row in csv.DictReader(file)] == [row["method"] for row in rows]

    monkeypatch.setattr(recipe("digits_lt"), "METHODS", ("KD", "BiKD"))
    for again in recipe("digits_lt").main(seeds=(0,), steps=200, folder=tmp_path):
        assert {**again, "seconds": 0} == {**scores[again["method"]], "seconds": 0}
    with open(tmp_path / "seed_0" / "bikd_history.csv") as file:
        history = list(csv.DictReader(file))
    assert len(history) == 4
    assert float(history[-1]["meta_loss"]) < float(history[0]["meta_loss"])
    student = keras.saving.load_model(tmp_path / "seed_0" / "bikd_student.keras")
    assert student.predict(np.zeros((1, 8, 8, 1)), verbose=0).shape == (1, 10)
    assert (tmp_path / "seed_0" / "weight_map_0004.png").exists()
    with open(tmp_path / "seed_0" / "weights.csv") as file:
        rows = [(row["epoch"], row["weight"], row["group"]) for row in csv.DictReader(file)]
    assert len(rows) == len(set(rows)) == 4 * 2 * 3


@pytest.mark.slow
def test_benchmark_step():
    variants = ("KD", "BiKD k=5, last layer", "naive k=5", "BiKD k=5, difference, meta / 4, stored teacher")
    *table, last = forks.start("benchmark_worker.py", *variants).communicate().splitlines()
    rows = json.loads(last)
    assert [row["variant"] for row in rows] == list(variants)
    assert rows[0]["ratio"] == rows[0]["memory_ratio"] == 1
    assert all(row["seconds"] > 0 and row["memory"] > 100 for row in rows)
    assert any("| naive k=5 |" in line for line in table)


@pytest.fixture
def shallow(monkeypatch):
    """Most of the time of a short training is tracing."""
    monkeypatch.setattr(bikd.networks, "cifar_resnet", models.shallow_resnet)


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_teacher_then_students_that_go_on_where_they_were(recipe, tmp_path, monkeypatch):
    """The CIFAR page on mock CIFAR. The second of two seeds, alone and killed, ends as it did beside the first."""
    arguments = {"data": "cifar10", "epochs": 2, "meta_size": 50}
    student = recipe("cifar10_lt")

    def kill(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt

    def written(name):
        with open(tmp_path / "student_k5_seed1" / name) as file:
            return list(csv.DictReader(file))

    with mock_data(400):
        recipe("train_teacher").main("cifar10", tmp_path, 10.0, epochs=1, meta_size=50)
        assert {path.name for path in tmp_path.iterdir()} == {"teacher.keras", "teacher.json", "history.csv"}
        with pytest.raises(ValueError, match=r"other data.*imbalance_factor: 10.0 there, 5.0 here"):
            student.main(tmp_path, 5.0, seeds=(0,), **arguments)
        _, expected = student.main(tmp_path, 10.0, seeds=(0, 1), **arguments)
        assert set(expected) >= {"loss", "balanced_accuracy"}
        assert np.isfinite(expected["loss"])
        for name in ("student.keras", "weight_map_0002.png"):
            assert (tmp_path / "student_k5_seed1" / name).exists()
        logs = {name: written(name) for name in ("history.csv", "weights.csv")}
        with monkeypatch.context() as patch:
            patch.setattr(keras.callbacks.CSVLogger, "on_epoch_begin", kill)
            with pytest.raises(KeyboardInterrupt):
                student.main(tmp_path, 10.0, seeds=(1,), **arguments)
        assert len(written("weights.csv")) == len(logs["weights.csv"]) / 2
        assert student.main(tmp_path, 10.0, seeds=(1,), **arguments) == [expected]
    told = lambda rows: [(row["epoch"], row["weight"], row["group"]) for row in rows]
    assert told(written("weights.csv")) == told(logs["weights.csv"])
    assert [row["loss"] for row in written("history.csv")] == [row["loss"] for row in logs["history.csv"]]


def test_cifar100_is_the_page_of_cifar10_with_other_data(recipe, monkeypatch):
    given = {}
    monkeypatch.setattr(recipe("cifar10_lt"), "main", given.update)
    monkeypatch.setattr(sys, "argv", ["cifar100_lt.py", "--teacher", "somewhere", "--seeds", "4"])
    runpy.run_path(str(RECIPES / "cifar100_lt.py"), run_name="__main__")
    assert (given["data"], given["teacher"], given["seeds"], given["epochs"]) == ("cifar100", "somewhere", [4], 120)


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_teacher_goes_on_where_it_was(recipe, tmp_path, monkeypatch):
    """Killed after the first of two epochs: the second run trains the second epoch alone."""
    train = lambda seed=0: recipe("train_teacher").main("cifar10", tmp_path, 10.0, epochs=2, meta_size=50, seed=seed)

    def kill(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt

    with mock_data(400):
        with monkeypatch.context() as patch:
            patch.setattr(keras.callbacks.CSVLogger, "on_epoch_begin", kill)
            with pytest.raises(KeyboardInterrupt):
                train()
        assert not (tmp_path / "teacher.keras").exists()
        with pytest.raises(ValueError, match=r"other data.*seed: 0 there, 1 here"):
            train(seed=1)
        train()
    assert {path.name for path in tmp_path.iterdir()} == {"teacher.keras", "teacher.json", "history.csv"}
    with open(tmp_path / "history.csv") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1"]


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_your_data(recipe, tmp_path):
    """Red, green and blue images: all methods are trained, one is recommended and written."""
    generator = np.random.default_rng(0)
    for label, count in enumerate((20, 10, 5)):
        (tmp_path / "images" / f"class_{label}").mkdir(parents=True)
        for i in range(count):
            image = generator.integers(0, 80, (16, 16, 3))
            image[..., label] += 120
            keras.utils.save_img(tmp_path / "images" / f"class_{label}" / f"{i:03d}.png", image, scale=False)
    out, methods = tmp_path / "out", ("cross-entropy", "balanced softmax")
    arguments = {"image_size": (16, 16), "steps": 20, "seeds": 1, "methods": methods, "out": out}
    findings = recipe("your_data").main(tmp_path / "images", **arguments)
    assert [row["method"] for row in findings.rows] == [*methods]
    assert findings.recommendation.method in methods
    assert (out / "report.html").exists()
    assert keras.saving.load_model(out / "student" / "student.keras").output_shape == (None, 3)


@pytest.mark.slow
def test_imagenet_lt(recipe, tmp_path, monkeypatch):
    """The page on drawn images, with perceptrons in the place of the two large networks."""

    def small(input_shape, classes, **kwargs):
        layers = [keras.layers.Flatten(), keras.layers.Dense(classes)]
        return keras.Sequential([keras.Input(input_shape), *layers])

    monkeypatch.setattr(keras.applications, "ResNet50", small)
    monkeypatch.setattr(keras.applications, "MobileNetV2", small)
    arguments = {"name": FEW_GLYPHS, "meta_size": 100, "image_size": (8, 8), "batch_size": 32, "epochs": 2}
    results = recipe("imagenet_lt").main(tmp_path, **arguments)
    assert results["balanced_accuracy"] > 0.1
    assert {"teacher.keras", "teacher.json", "student.keras"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_benchmark_input(recipe, capsys):
    assert recipe("benchmark_input").main(rounds=1, batch_size=2, name=FEW_GLYPHS) > 0
    assert "ratio" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:currentThread:DeprecationWarning", "ignore:getName:DeprecationWarning")
def test_tune(recipe, tmp_path, capsys):
    """A search, its best configuration against the defaults; and what is done is not done again."""
    arguments = {"trials": 2, "steps": 20, "folder": tmp_path, "seeds": (0, 1)}
    rows = recipe("tune").main(**arguments)
    assert [row["method"] for row in rows] == ["defaults", "best of the search"] * 2
    assert all(0 < row["accuracy"] <= 100 for row in rows)
    folder = tmp_path / "digits-noise_20"
    assert {"trials.md", "search.png", "best.json", "results.md"} <= {path.name for path in folder.iterdir()}
    trials = list((folder / "bayesian").glob("trial_*/trial.json"))
    assert len(trials) == 2
    before = [path.stat().st_mtime_ns for path in trials]
    assert recipe("tune").main(**arguments) == rows
    assert [path.stat().st_mtime_ns for path in trials] == before
    assert "Best minus defaults" in capsys.readouterr().out


@pytest.mark.slow
def test_from_distiller(recipe, tmp_path, capsys, monkeypatch):
    module = recipe("from_distiller")
    methods = ("Distiller, loss=KLDivergence()", "DistillationModel")
    monkeypatch.setattr(module, "METHODS", {name: module.METHODS[name] for name in methods})
    rows = module.main(seeds=(0,), steps=200, folder=tmp_path)
    assert [row["method"] for row in rows] == list(methods)
    assert rows[0]["overall"] == pytest.approx(rows[1]["overall"], abs=10)  # one leaves out the L2 regularisation
    assert "| DistillationModel |" in capsys.readouterr().out
    assert (tmp_path / "results.csv").exists()
