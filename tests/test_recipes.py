"""Every recipe runs, shortly, and says something true."""

import csv
import importlib
import pathlib

import keras
import numpy as np
import pytest
import tensorflow_datasets as tfds
from test_data import write_folder

RECIPES = pathlib.Path(__file__).parents[1] / "recipes"


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(RECIPES)
    return importlib.import_module


def test_digits_lt(recipe, tmp_path, capsys):
    rows = recipe("digits_lt").main(seeds=(0,), steps=400, folder=tmp_path)
    scores = {row["method"]: row for row in rows}
    assert set(scores) == {"CE", "KD", "BiKD", "balanced softmax"}
    for row in rows:
        assert row["overall"] > 30  # chance is 10
        counts = {"many": 3, "medium": 3, "few": 4}
        mean = sum(counts[group] * row[group] for group in counts) / 10
        assert row["overall"] == pytest.approx(mean, abs=0.01)
    assert scores["balanced softmax"]["few"] > scores["CE"]["few"]
    assert "| method | overall |" in capsys.readouterr().out

    with open(tmp_path / "results.csv") as file:
        assert [row["method"] for row in csv.DictReader(file)] == [row["method"] for row in rows]
    with open(tmp_path / "seed_0" / "bikd_history.csv") as file:
        history = list(csv.DictReader(file))
    assert len(history) == 4
    assert float(history[-1]["meta_loss"]) < float(history[0]["meta_loss"])
    student = keras.saving.load_model(tmp_path / "seed_0" / "bikd_student.keras")
    assert student.predict(np.zeros((1, 8, 8, 1)), verbose=0).shape == (1, 10)
    assert (tmp_path / "seed_0" / "weight_map_0004.png").exists()


@pytest.mark.slow
def test_benchmark_step(recipe, capsys):
    rows = recipe("benchmark_step").main(rounds=1, batch_size=2)
    assert rows[0]["ratio"] == rows[0]["memory_ratio"] == 1
    assert all(row["seconds"] > 0 and row["memory"] > 100 for row in rows)
    assert "| naive k=5 |" in capsys.readouterr().out


SMALL = {"widths": (4, 4, 8, 8)}


def small_networks(monkeypatch):
    import keras_bikd as bikd

    monkeypatch.setattr(
        bikd.networks,
        "resnet8x4",
        lambda classes, **kwargs: bikd.networks.cifar_resnet(8, (4, 4, 8, 8), classes, **kwargs),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "name", "mocked"), [("cifar10_lt", "cifar10", True), ("cifar100_lt", "glyphs/h", False)]
)
def test_teacher_then_student(recipe, monkeypatch, tmp_path, page, name, mocked):
    """The CIFAR pages, once on mock CIFAR and once on drawn images: same split for both, or a refusal."""
    small_networks(monkeypatch)

    def run():
        meta_size = 100
        teach = recipe("train_teacher")
        teach.main(name, tmp_path, 20.0, epochs=1, meta_size=meta_size, **SMALL)
        assert {"teacher.keras", "teacher.json", "history.csv"} <= {path.name for path in tmp_path.iterdir()}
        student = recipe(page)
        results = student.main(tmp_path, 20.0, seeds=(0,), data=name, epochs=1, meta_size=meta_size)
        assert set(results[0]) >= {"loss", "balanced_accuracy"}
        assert np.isfinite(results[0]["loss"])
        assert (tmp_path / "student_k5_seed0" / "student.keras").exists()
        assert (tmp_path / "student_k5_seed0" / "weight_map_0001.png").exists()
        with pytest.raises(ValueError, match="other data.*imbalance_factor: 20.0 there, 10.0 here"):
            student.main(tmp_path, 10.0, seeds=(0,), data=name, epochs=1, meta_size=meta_size)

    if mocked:
        with tfds.testing.mock_data(num_examples=1500):
            run()
    else:
        run()


@pytest.mark.slow
def test_teacher_goes_on_where_it_was(recipe, tmp_path, monkeypatch):
    """Killed after the first of two epochs: the second run trains the second epoch alone."""
    teach = recipe("train_teacher")
    arguments = {"epochs": 2, "meta_size": 100, **SMALL}

    class Killed(Exception):
        pass

    def kill(self, epoch, logs=None):
        if epoch == 0:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(keras.callbacks.CSVLogger, "on_epoch_begin", lambda self, epoch, logs=None: kill(self, epoch - 1))
        with pytest.raises(Killed):
            teach.main("glyphs/h", tmp_path, 100.0, **arguments)
    teach.main("glyphs/h", tmp_path, 100.0, **arguments)
    with open(tmp_path / "history.csv") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1"]


@pytest.mark.slow
def test_your_data(recipe, tmp_path):
    write_folder(tmp_path / "images", counts=(60, 30, 15))
    arguments = {"image_size": (16, 16), "meta_size": 9, "test_size": 15, "epochs": 2, "batch_size": 16}
    results = recipe("your_data").main(tmp_path / "images", out=tmp_path / "out", **arguments)
    assert np.isfinite(results["loss"])
    assert {"student.keras", "classes.json", "manifest.json"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert keras.saving.load_model(tmp_path / "out" / "student.keras").output_shape == (None, 3)


@pytest.mark.slow
def test_imagenet_lt(recipe, tmp_path, monkeypatch):
    """The page on drawn images, with perceptrons in the place of the two large networks."""

    def small(input_shape, classes, **kwargs):
        layers = [keras.layers.Flatten(), keras.layers.Dense(classes)]
        return keras.Sequential([keras.Input(input_shape), *layers])

    monkeypatch.setattr(keras.applications, "ResNet50", small)
    monkeypatch.setattr(keras.applications, "MobileNetV2", small)
    arguments = {"name": "glyphs/h", "meta_size": 100, "image_size": (8, 8), "epochs": 1}
    results = recipe("imagenet_lt").main(tmp_path, **arguments)
    assert results["balanced_accuracy"] > 0.1
    assert {"teacher.keras", "teacher.json", "student.keras"} <= {path.name for path in tmp_path.iterdir()}
