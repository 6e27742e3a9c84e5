"""The harness behind `recipes/compare.py`: rows, restarts, kills, failures."""

import csv
import dataclasses
import importlib
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import time
import types

import keras
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_bikd as bikd
from keras_bikd import comparison, results

pytestmark = pytest.mark.backend

RECIPES = pathlib.Path(__file__).parents[1] / "recipes"
ARGUMENTS = {"imbalance_factors": [50.0], "seeds": [0], "quick": True}
FOLDER = "digits-noise_50"


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.syspath_prepend(RECIPES)
    return importlib.import_module("compare")


def without_clock(rows):
    return [{key: value for key, value in row.items() if key not in ("seconds", "memory")} for row in rows]


@pytest.mark.slow
def test_rows_tables_and_restart(compare, tmp_path, capsys):
    methods = ["CE", "balanced softmax", "LFME", "BiKD, class counts +meta, half", "RW-KD", "CCKD (training_prior)"]
    methods.append(f"{compare.LEARNED_FIRST}, twice the steps")
    rows = compare.main(["digits-noise"], methods=methods, folder=tmp_path, **ARGUMENTS)
    assert [row["method"] for row in rows] == methods
    for row in rows:
        assert 0 < row["overall"] <= 100
        groups = (3 * row["many"] + 4 * row["medium"] + 3 * row["few"]) / 10
        assert row["overall"] == pytest.approx(groups)
        assert row["seconds"] > 0
        assert len(row["manifest"]) == 64
        assert set(row["versions"]) == {"keras_bikd", "keras", "backend", "numpy"}
        assert row["hyper_parameters"]["steps"] == (40 if "twice the steps" in row["method"] else 20)
    assert rows[3]["hyper_parameters"]["meta_in_train"] == 0.5
    assert rows[5]["hyper_parameters"]["objective"]["config"]["variant"] == "training_prior"
    learned = rows[6]["hyper_parameters"]
    assert learned["objective"]["class_name"] == "LearnedWeights"
    assert learned["meta_in_train"] == 0.5
    assert learned["before"]["meta_in_train"] is False
    assert learned["before"]["inner_steps"] == 5
    assert "hypergradient_norm" in rows[6]["history"]
    out = capsys.readouterr().out
    assert "| balanced softmax |" in out
    assert "Paired with balanced softmax" in out
    assert "Stability of the outer loop" in out
    with open(tmp_path / "results.csv") as file:
        assert [row["method"] for row in csv.DictReader(file)] == methods
    assert (tmp_path / FOLDER / "methods.png").exists()

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / FOLDER).glob("*.json")}
    for path in (tmp_path / FOLDER).glob("*experts*"):  # the teacher of LFME, which is trained anew
        path.unlink()
    (tmp_path / FOLDER / "LFME_0_quick.json").unlink()
    again = compare.main(["digits-noise"], methods=methods, folder=tmp_path, **ARGUMENTS)
    assert without_clock(again) == without_clock(rows)
    touched = {path.name for path in before if path.stat().st_mtime_ns != before[path]}
    assert touched == {"LFME_0_quick.json", "teacher_experts_0_quick.json", "teacher_experts_0_quick.setting.json"}


@pytest.mark.slow
def test_the_grid_of_table_1_on_mock_cifar(compare, tmp_path):
    """The settings of `--paper`, with small networks and few images in the place of CIFAR."""
    cell = comparison.Cell("cifar10", 10.0, "BiKD", 0, quick=True)
    assert {"cifar10", "cifar100"} == set(compare.PAPER)
    setting, method = compare.lookup(cell)
    assert (setting.passes, setting.imbalance_factors, setting.seeds) == (120, (10.0, 50.0, 100.0), (0, 1, 2))
    small = {
        "student_widths": (16, 16, 16, 16),
        "teacher_widths": (16, 16, 16, 16),
        "teacher": "resnet8",
        "meta_size": 100,
    }
    setting = dataclasses.replace(setting, **small, passes=20)
    with tfds.testing.mock_data(num_examples=1000):
        row = comparison.train(cell, setting, method, tmp_path)
    assert 0 <= row["overall"] <= 100
    assert row["hyper_parameters"]["inner_steps"] == 5


@pytest.mark.slow
def test_a_failed_cell_is_told_and_stops_nothing(compare, tmp_path, capfd):
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / "teacher_ce_meta_0_quick.json").write_text(json.dumps({"data_set": "another"}))
    setting = compare.SETTINGS["digits-noise"].config()
    results.save_row(folder / "teacher_ce_meta_0_quick.setting.json", setting)
    methods = ["CE +meta", "CE"]  # the first finds a teacher of other data
    rows = compare.main(["digits-noise"], methods=methods, folder=tmp_path, **ARGUMENTS)
    assert [row["method"] for row in rows] == ["CE"]
    out = capfd.readouterr().out
    assert "FAILED: digits-noise, imbalance 50, CE +meta, seed 0" in out
    assert "describes other data" in out
    assert "Failed or missing" in out


@pytest.mark.slow
def test_a_killed_comparison_goes_on_and_ends_the_same(compare, tmp_path):
    methods = ["CE", "BiKD"]
    command = [sys.executable, str(RECIPES / "compare.py"), "digits-noise", "--quick", "--seeds", "0"]
    command += ["--imbalance-factors", "50", "--methods", *methods, "--folder"]
    killed = tmp_path / "killed"
    process = subprocess.Popen([*command, str(killed)], stdout=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + 120
    while not (killed / FOLDER / "CE_0_quick.json").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / FOLDER / "BiKD_0_quick.json").exists()
    rows = compare.main(["digits-noise"], methods=methods, folder=killed, **ARGUMENTS)
    whole = compare.main(["digits-noise"], methods=methods, folder=tmp_path / "whole", **ARGUMENTS)
    assert without_clock(rows) == without_clock(whole)


@pytest.mark.parametrize("name", ["CE", "BiKD, class counts, last layer", "LEARNED_FIRST"])
def test_a_row_of_another_protocol_or_method_counts_as_missing(compare, tmp_path, name):
    cell = comparison.Cell("digits-noise", 50.0, getattr(compare, name, name), 0)
    setting, method = compare.lookup(cell)
    config = comparison.setting.config_of(cell, setting, method)
    results.save_row(cell.path(tmp_path), {"config": config})
    assert comparison.cells.row_of(cell, compare.lookup, tmp_path)
    other = lambda cell: (setting, dataclasses.replace(method, meta_learning_rate=1.0))
    assert comparison.cells.row_of(cell, other, tmp_path) is None
    results.save_row(cell.path(tmp_path), {"config": config | {"steps": 1}})
    assert comparison.cells.row_of(cell, compare.lookup, tmp_path) is None


def test_a_row_is_its_own_when_it_is_read_again(tmp_path):
    setting = comparison.Setting(name="sklearn_digits", imbalance_factors=(50.0,), seeds=(0,), meta_size=100)
    method = comparison.Method(make=None, compile_arguments={"loss_weights": (1, 2)})
    cell = comparison.Cell("digits", 50.0, "BiKD", 0)
    lookup = lambda cell: (setting, method)
    results.save_row(cell.path(tmp_path), {"config": comparison.setting.config_of(cell, setting, method)})
    assert comparison.cells.row_of(cell, lookup, tmp_path)
    results.save_row(cell.path(tmp_path), {"method": "BiKD"})  # of an older version
    assert comparison.cells.row_of(cell, lookup, tmp_path) is None


def test_of_two_classes_none_is_between():
    student = keras.Sequential([keras.Input((2,)), keras.layers.Identity()])
    test = tf.data.Dataset.from_tensor_slices(([[1.0, 0.0], [1.0, 0.0]], [0, 1])).batch(2)
    scores = comparison.protocol._group_accuracies(student, types.SimpleNamespace(test=test), 2)
    assert scores == {"overall": 50.0, "many": 100.0, "medium": None, "few": 0.0}
    assert results.spread([scores["medium"]]) == "–"


def test_a_cell_on_every_backend(compare, tmp_path):
    cell = comparison.Cell("digits-noise", 50.0, next(iter(compare.STUDIES["meta-size"])), 0, quick=True)
    row = comparison.train(cell, *compare.lookup(cell), tmp_path)
    assert 0 < row["overall"] <= 100
    assert row["hyper_parameters"]["meta_images"] == 1


@pytest.mark.slow
def test_a_kill_while_a_teacher_is_written(compare, tmp_path, monkeypatch):
    """What vouched for the teacher before must not vouch for the new one."""
    cell = comparison.Cell("digits-noise", 50.0, "KD", 0, quick=True)
    setting, method = compare.lookup(cell)
    other = dataclasses.replace(setting, learning_rate=0.01)

    def teacher(setting):
        data = comparison.setting.load_data(setting, cell)
        return comparison.teachers.teacher_of(cell, setting, method, data, tmp_path)[0].get_weights()[0]

    first = teacher(setting)
    with monkeypatch.context() as patch:
        patch.setattr(comparison.teachers.results, "save_row", lambda *args: sys.exit())
        with pytest.raises(SystemExit):
            teacher(other)
    assert (teacher(setting) == first).all()
    assert (teacher(other) != first).any()


@pytest.mark.slow
def test_processes_end_when_the_comparison_is_killed(tmp_path):
    """They finish the cell they are at: another run may have begun with the next."""
    command = [sys.executable, str(RECIPES / "compare.py"), "digits-noise", "--quick", "--seeds", "0"]
    command += ["--imbalance-factors", "50", "--methods", "CE", "balanced softmax", "KD", "BiKD"]
    process = subprocess.Popen([*command, "--folder", str(tmp_path)], stdout=subprocess.PIPE)
    end = time.monotonic() + 120
    while not (tmp_path / FOLDER / "CE_0_quick.json").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    process.kill()
    process.stdout.read()  # until the last process that writes there has ended
    process.stdout.close()
    process.wait()
    assert not (tmp_path / FOLDER / "BiKD_0_quick.json").exists()


def test_a_short_trial_does_not_overwrite_a_row():
    cell = comparison.Cell("digits-noise", 50.0, "CE", 0)
    assert cell._replace(quick=True).path("runs") != cell.path("runs")


def test_the_recipe_asks_for_data(compare, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["compare.py", "--study", "inner-steps"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(RECIPES / "compare.py"), run_name="__main__")
    assert "name the data to compare on, or pass --paper" in capsys.readouterr().err


def test_an_unknown_method_is_named(compare):
    with pytest.raises(SystemExit, match=r"no method 'KDD'. Known: CE, balanced softmax"):
        compare.main(["digits-noise"], methods=["KDD"])


def test_every_method_and_study_has_a_maker(compare):
    assert len(compare.METHODS) > 25
    assert {"CE", "KD", "WSL", "RW-KD", "BKD", "DiVE", "LFME", "BiKD"} <= set(compare.METHODS)
    assert all(isinstance(method, comparison.Method) for method in compare.ALL_METHODS.values())
    labels = [label for study in compare.STUDIES.values() for label in study]
    assert len(labels) == len(set(labels)) > 30


def test_paired_comparison_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    a, b = [70.0, 72.5, 71.0, 69.0], [68.0, 72.0, 69.5, 69.5]
    rows = [{"method": m, "seed": s, "x": v} for m, vs in (("A", a), ("B", b)) for s, v in enumerate(vs)]
    told = bikd.results.paired(rows, "A", "B", "x")
    assert told["p"] == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert (told["wins"], told["seeds"], told["worst"]) == (3, 4, -0.5)
    assert bikd.results.paired(rows[:3], "A", "B", "x") is None
