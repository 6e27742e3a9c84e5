"""The harness behind `recipes/compare.py`: rows, restarts, kills, failures."""

import csv
import dataclasses
import importlib
import json
import pathlib
import runpy
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_data import mock_data

import forks
import keras_bikd as bikd
from keras_bikd import comparison, results

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
def test_a_comparison_that_is_killed_resumed_and_run_again(compare, tmp_path, capfd):
    methods = ["balanced softmax", "LFME", "CCKD (training_prior)", f"{compare.LEARNED_FIRST}, twice the steps"]
    start_and_kill(methods, tmp_path)
    rows = compare.main(["digits-noise"], methods=methods, folder=tmp_path, **ARGUMENTS)
    assert [row["method"] for row in rows] == methods
    check_rows(rows)
    out = capfd.readouterr().out
    assert "| balanced softmax |" in out
    assert "Paired with balanced softmax" in out
    assert "Stability of the outer loop" in out
    with open(tmp_path / "results.csv") as file:
        assert [row["method"] for row in csv.DictReader(file)] == methods
    assert (tmp_path / FOLDER / "methods.png").exists()

    plant_teacher_of_other_data(compare, tmp_path / FOLDER)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / FOLDER).glob("*.json")}
    for path in (tmp_path / FOLDER).glob("*experts*"):  # the teacher of LFME, which is trained again
        path.unlink()
    (tmp_path / FOLDER / "LFME_0_quick.json").unlink()
    out = start(["CE +meta", *methods], tmp_path).communicate()
    assert without_clock(stored(methods, tmp_path)) == without_clock(rows)
    touched = {path.name for path in before if path.stat().st_mtime_ns != before[path]}
    assert touched == {"LFME_0_quick.json", "teacher_experts_0_quick.json", "teacher_experts_0_quick.setting.json"}
    assert "FAILED: digits-noise, imbalance 50, CE +meta, seed 0" in out
    assert "describes other data" in out
    assert "Failed or missing" in out


def start(methods, folder):
    arguments = ["digits-noise", "--quick", "--seeds", "0", "--imbalance-factors", "50"]
    arguments += ["--folder", folder, "--methods", *methods]
    return forks.start("comparison_worker.py", *arguments, backend=keras.backend.backend())


def paths(methods, folder):
    return [comparison.Cell("digits-noise", 50.0, name, 0, quick=True).path(folder) for name in methods]


def stored(methods, folder):
    return [results.load_row(path) for path in paths(methods, folder)]


def start_and_kill(methods, folder):
    """Kill a comparison after its first cell."""
    process = start(methods, folder)
    first, *_, last = paths(methods, folder)
    end = time.monotonic() + 120
    while not first.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert not last.exists()


def check_rows(rows):
    for row in rows:
        assert 0 < row["overall"] <= 100
        groups = (3 * row["many"] + 4 * row["medium"] + 3 * row["few"]) / 10
        assert row["overall"] == pytest.approx(groups)
        assert row["seconds"] > 0
        assert len(row["manifest"]) == 64
        assert set(row["versions"]) == {"keras_bikd", "keras", "backend", "numpy"}
        assert row["steps"] == (40 if "twice the steps" in row["method"] else 20)
    assert objective(rows[2])["variant"] == "training_prior"
    assert objective(rows[3])["weight_net"] == {"part": "before.weight_net"}
    learned = rows[3]["config"]["method"]["arguments"]
    assert (learned["meta_in_train"], learned["before"]["arguments"]["meta_in_train"]) == (0.5, False)
    assert learned["before"]["arguments"]["model"]["arguments"]["inner_steps"] == 5
    assert "hypergradient_norm" in rows[3]["history"]


def objective(row):
    return row["config"]["method"]["arguments"]["model"]["arguments"]["objective"]["arguments"]


def plant_teacher_of_other_data(compare, folder):
    (folder / "teacher_ce_meta_0_quick.json").write_text(json.dumps({"data_set": "another"}))
    results.save_row(folder / "teacher_ce_meta_0_quick.setting.json", compare.SETTINGS["digits-noise"].config())


@pytest.mark.slow
def test_the_grid_of_table_1_on_mock_cifar(compare, tmp_path):
    """The settings of `--paper`, with small networks and few images in the place of CIFAR."""
    cell = comparison.Cell("cifar10", 10.0, "KD", 0, quick=True)
    assert {"cifar10", "cifar100"} == set(compare.PAPER)
    setting, method = compare.lookup(cell)
    assert (setting.passes, setting.imbalance_factors, setting.seeds) == (120, (10.0, 50.0, 100.0), (0, 1, 2))
    small = comparison.CifarResNet(8, (16, 16, 16, 16))
    setting = dataclasses.replace(setting, student=small, teacher=small, meta_size=100, passes=20)
    with mock_data(500):
        row = comparison.train(cell, setting, method, tmp_path)
    assert 0 <= row["overall"] <= 100
    assert row["steps"] == 10


def test_of_two_classes_none_is_between():
    student = keras.Sequential([keras.Input((2,)), keras.layers.Identity()])
    test = tf.data.Dataset.from_tensor_slices(([[1.0, 0.0], [1.0, 0.0]], [0, 1])).batch(2)
    scores = comparison.protocol._group_accuracies(student, test, np.arange(2))
    assert scores == {"overall": 50.0, "many": 100.0, "medium": None, "few": 0.0}
    assert results.spread([scores["medium"]]) == "–"


def test_a_cell_on_every_backend(compare, tmp_path):
    cell = comparison.Cell("digits-noise", 50.0, next(iter(compare.STUDIES["meta-size"])), 0, quick=True)
    row = comparison.train(cell, *compare.lookup(cell), tmp_path)
    assert 0 < row["overall"] <= 100
    assert row["config"]["method"]["arguments"]["meta_data"]["arguments"]["images_per_class"] == 1


def test_a_stored_teacher_gives_way_to_a_new_one(compare, tmp_path):
    cell = comparison.Cell("digits-noise", 50.0, "BiKD, stored teacher, 10 views", 0, quick=True)
    setting, method = compare.lookup(cell)
    row = comparison.train(cell, setting, method, tmp_path)
    assert 0 < row["overall"] <= 100
    (file,) = tmp_path.glob("*_views_10.npy")
    first = file.read_bytes()
    comparison.train(cell, dataclasses.replace(setting, learning_rate=0.01), method, tmp_path)
    assert file.read_bytes() != first


@pytest.mark.slow
def test_a_teacher_that_was_trained_elsewhere(compare, tmp_path):
    """The other setting decides its data, and the student's samples for judging are none of its own."""
    cell = comparison.Cell("digits/strong-teacher", 50.0, "KD", 0, quick=True)
    setting, method = compare.lookup(cell)
    own = comparison.setting.load_data(setting, cell)
    elsewhere = comparison.setting.load_data(setting.taught, cell._replace(imbalance_factor=1.0))
    assert (own.split.test == elsewhere.split.test).all()
    assert not set(own.split.meta) & set(elsewhere.split.train)
    teacher, counts = comparison.teachers.teacher_of(cell, setting, method, own, tmp_path)
    assert counts == elsewhere.class_counts.tolist() != own.class_counts.tolist()
    again, _ = comparison.teachers.teacher_of(cell, setting, method, own, tmp_path)
    assert (again.get_weights()[0] == teacher.get_weights()[0]).all()
    weak, weak_method = compare.lookup(cell._replace(setting="digits/weak-teacher"))
    weak_teacher, _ = comparison.teachers.teacher_of(cell, weak, weak_method, own, tmp_path)
    assert (weak_teacher.get_weights()[0] != teacher.get_weights()[0]).any()


def test_a_setting_is_taught_in_one_setting(compare):
    digits = compare.SETTINGS["digits-noise"]
    with pytest.raises(ValueError, match="takes the setting of a single table"):
        dataclasses.replace(digits, taught=digits)


def test_regret_is_the_distance_to_the_best_constant_of_each_situation():
    scores = {
        ("a", "1/0"): [80.0, 84.0],
        ("a", "0/1"): [70.0, 74.0],
        ("a", "learned"): [81.0, 81.0],
        ("b", "1/0"): [50.0, 50.0],
        ("b", "0/1"): [60.0, 60.0],
        ("b", "learned"): [58.0, 58.0],
    }
    rows = [
        {"data": data, "imbalance_factor": 50.0, "method": method, "seed": seed, "overall": score}
        for (data, method), values in scores.items()
        for seed, score in enumerate(values)
    ]
    hard, soft, learned = comparison.regret(rows, ["1/0", "0/1"])
    assert hard.of_situation == {"a, imbalance 50": 0.0, "b, imbalance 50": 10.0}
    assert soft.of_situation == {"a, imbalance 50": 10.0, "b, imbalance 50": 0.0}
    assert learned.of_situation == {"a, imbalance 50": 1.0, "b, imbalance 50": 2.0}
    milder = [{**row, "imbalance_factor": 10.0, "overall": 90.0} for row in rows if row["data"] == "a"]
    assert comparison.regret(rows + milder, ["1/0", "0/1"])[1].of_situation == {
        "a, imbalance 50": 10.0,
        "b, imbalance 50": 0.0,
        "a, imbalance 10": 0.0,
    }
    assert learned.worst[0] == 2.0
    assert learned.mean[0] == 1.5
    assert learned.mean[1] == 0.5  # both draws take the seed in which it is a point ahead in a
    assert learned.mean[2] == 2.5
    assert len(comparison.regret(rows[1:], ["1/0", "0/1"])[0].of_situation) == 1  # a is not complete
    with pytest.raises(ValueError, match="has a row of every method and seed"):
        comparison.regret(rows[:1] + rows[-1:], ["1/0"])


def test_a_kill_while_a_teacher_is_written(compare, tmp_path, monkeypatch):
    """The files of the teacher before must not be taken for those of the new one."""
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


def test_every_method_and_study_is_a_record(compare):
    assert len(compare.METHODS) > 25
    assert {"CE", "KD", "WSL", "RW-KD", "BKD", "DiVE", "LFME", "BiKD"} <= set(compare.METHODS)
    assert all(isinstance(method, comparison.Method) for method in compare.ALL_METHODS.values())
    assert len({label for study in compare.STUDIES.values() for label in study}) > 30
    for study in compare.STUDIES.values():  # one label, one method
        for label, method in study.items():
            assert comparison.config_of(method) == comparison.config_of(compare.ALL_METHODS[label])


def test_paired_comparison_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    a, b = [70.0, 72.5, 71.0, 69.0], [68.0, 72.0, 69.5, 69.5]
    rows = [{"method": m, "seed": s, "x": v} for m, vs in (("A", a), ("B", b)) for s, v in enumerate(vs)]
    pair = bikd.results.paired(rows, "A", "B", "x")
    assert pair["p"] == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert (pair["wins"], pair["seeds"], pair["worst"]) == (3, 4, -0.5)
    assert bikd.results.paired(rows[:3], "A", "B", "x") is None
