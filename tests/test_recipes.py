"""Every recipe runs, shortly, and says something true."""

import csv
import importlib
import pathlib

import keras
import numpy as np
import pytest

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
