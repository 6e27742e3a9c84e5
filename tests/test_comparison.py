"""`recipes/compare.py`: rows, restarts, kills, failures, and the tables."""

import csv
import dataclasses
import json
import pathlib
import runpy
import sys
import time
import types

import compare
import keras
import numpy as np
import pytest
from test_data import mock_data
from wrong_labels import with_wrong_labels

import compare_extras
import compare_tables
import forks
import keras_bikd as bikd
from compare_networks import CifarResNet
from compare_protocol import largest_first
from keras_bikd import results
from keras_bikd.comparison import Batches, Samples, described
from keras_bikd.comparison.store import file_name

RECIPES = pathlib.Path(__file__).parents[1] / "recipes"
ARGUMENTS = {"imbalance_factors": [50.0], "seeds": [0], "quick": True}
FOLDER = "digits-noise_50_quick"


def without_clock(rows):
    return [{key: value for key, value in row.items() if key not in ("seconds", "memory")} for row in rows]


@pytest.mark.slow
def test_a_comparison_that_is_killed_resumed_and_run_again(tmp_path, capfd):
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

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / FOLDER).glob("rows/*.json")}
    (tmp_path / FOLDER / "rows" / "LFME_0.json").unlink()
    (tmp_path / FOLDER / "rows" / "experts_0.json").unlink()  # the teacher of LFME, which is trained again
    again = compare.main(["digits-noise"], methods=methods, folder=tmp_path, **ARGUMENTS)
    assert without_clock(again) == without_clock(rows)
    touched = {path.name for path in before if path.stat().st_mtime_ns != before[path]}
    assert touched == {"LFME_0.json", "experts_0.json"}


def start(methods, folder):
    arguments = ["digits-noise", "--quick", "--seeds", "0", "--imbalance-factors", "50"]
    arguments += ["--folder", folder, "--methods", *methods]
    return forks.start("comparison_worker.py", *arguments, backend=keras.backend.backend())


def paths(methods, folder):
    return [folder / FOLDER / "rows" / f"{file_name(name)}_0.json" for name in methods]


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
        assert {"train", "test"} < set(row["split"])
        assert set(row["versions"]) == {"keras_bikd", "keras", "backend", "numpy"}
        assert row["steps"] == (20 + 40 if "twice the steps" in row["method"] else 20)
    assert model(rows[2])["objective"]["config"]["variant"] == "training_prior"
    first, second = rows[3]["config"]["models"]
    assert (first["inner_steps"], second["objective"]["class_name"]) == (5, "LearnedWeights")
    method = rows[3]["config"]["method"]
    assert (method["meta_in_train"], method["before"]["meta_in_train"]) == (0.5, False)
    assert "hypergradient_norm" in rows[3]["history"]


def model(row):
    return row["config"]["models"][-1]


def trained(name, method, folder, factor=50.0):
    """The table of one short training, and its row."""
    table = compare.table_of(name, factor, {method: compare.ALL_METHODS[method]}, (0,), folder, quick=True)
    table.comparison.train(table.comparison.methods)
    assert not table.comparison.failures
    return table, compare.rows_of(table)[0][0]


@pytest.mark.slow
def test_the_grid_of_table_1_on_mock_cifar(tmp_path, monkeypatch):
    """The settings of `--paper`, with small networks and few images in the place of CIFAR."""
    assert {"cifar10", "cifar100"} == set(compare.PAPER)
    setting = compare.SETTINGS["cifar10"]
    assert (setting.passes, setting.imbalance_factors, setting.seeds) == (120, (10.0, 50.0, 100.0), (0, 1, 2))
    small = CifarResNet(8, (16, 16, 16, 16))
    setting = dataclasses.replace(setting, student=small, teacher=small, meta_size=100, passes=20)
    monkeypatch.setitem(compare.SETTINGS, "cifar10", setting)
    with mock_data(500):
        row = trained("cifar10", "KD", tmp_path, 10.0)[1]
    assert 0 <= row["overall"] <= 100
    assert row["steps"] == 10


def test_of_two_classes_none_is_between():
    labels = np.array([0, 1])
    scores = compare_tables.group_accuracies(labels, np.array([0, 0]), np.arange(2))
    assert scores == {"overall": 50.0, "many": 100.0, "medium": None, "few": 0.0}
    assert results.spread([scores["medium"]]) == "–"


def test_a_training_on_every_backend(tmp_path):
    row = trained("digits-noise", next(iter(compare.STUDIES["meta-size"])), tmp_path)[1]
    assert 0 < row["overall"] <= 100
    assert "images_per_class" in json.dumps(row["config"]["method"]["fit"])


@pytest.mark.slow
def test_a_teacher_that_was_trained_elsewhere(tmp_path):
    """The other setting decides its data, and the student's samples for judging are none of its own."""
    table, _ = trained("digits/strong-teacher", "KD", tmp_path)
    setting = compare.SETTINGS["digits/strong-teacher"]
    own, elsewhere = setting.load(50.0, 0), setting.taught.load(1.0, 0)
    assert (own.split.test == elsewhere.split.test).all()
    assert not set(own.split.meta) & set(elsewhere.split.train)
    counts = table.comparison.store.row("teacher", 0)["class_counts"]
    assert counts == elsewhere.class_counts.tolist() != own.class_counts.tolist()


def test_views_of_a_stored_teacher_are_those_that_the_student_sees():
    samples = Samples(np.arange(10.0).reshape(5, 2).__getitem__, np.arange(5) % 2, ["a", "b"])
    batches = Batches(samples.all(), 2, steps=6, seed=3, augment=bikd.data.gaussian_noise(1.0))
    teacher = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    stored = compare_extras.StoredViews(batches, teacher, views=2)
    seen = [stored[i] for i in range(6)]
    for x, y in seen:
        assert y["teacher_logits"] == pytest.approx(teacher.predict(x, verbose=0), abs=1e-5)
    labels = np.concatenate([y["labels"] for _, y in seen])
    assert np.bincount(labels[:5]).tolist() == [3, 2]
    assert len({tuple(row) for x, _ in seen for row in x.round(4)}) == 10


def test_classes_are_equally_likely_in_balanced_batches():
    samples = Samples(np.arange(100).__getitem__, np.repeat([0, 1], [95, 5]), ["a", "b"])
    balanced = compare_extras.class_balanced(Batches(samples.all(), 10, steps=200))
    assert np.mean(samples.labels[balanced.order]) == pytest.approx(0.5, abs=0.05)


def test_a_setting_is_taught_in_one_setting_and_has_one_length():
    digits = compare.SETTINGS["digits-noise"]
    with pytest.raises(ValueError, match="takes the setting of a single table"):
        dataclasses.replace(digits, taught=digits)
    for lengths in ({"steps": None}, {"passes": 3}):
        with pytest.raises(ValueError, match="`steps` or `passes`"):
            dataclasses.replace(digits, **lengths)


@pytest.mark.parametrize(("steps", "quick", "expected"), [(2007, False, 2000), (5, False, 10), (2007, True, 20)])
def test_a_training_has_ten_epochs_of_equal_length(steps, quick, expected):
    assert dataclasses.replace(compare.SETTINGS["digits-noise"], steps=steps).steps_of(314, quick) == expected


def test_shifts_of_images_refuse_text():
    samples = Samples(np.zeros((4, 65), "int32").__getitem__, np.arange(4), list("abcd"))
    batches = Batches(samples.all(), 2)
    parts = types.SimpleNamespace(clean_meta=batches, meta=batches, train=batches, class_counts=[1] * 4)
    with pytest.raises(ValueError, match=r"for images.*shift='darker'.*\(65,\)"):
        compare_extras.altered_meta(parts, shift="darker")


def test_groups_are_those_of_the_right_labels():
    """The classes in the order of their size, not of their numbers."""
    y = np.repeat([0, 1, 2], [30, 90, 60])
    data = bikd.data.load(bikd.data.Arrays(np.zeros((180, 2)), y), None, meta_size=6, test_size=30)
    assert largest_first(with_wrong_labels(data, 0.5)).tolist() == [1, 2, 0]


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
    hard, soft, learned = compare_tables.regret(rows, ["1/0", "0/1"])
    assert hard.of_situation == {"a, imbalance 50": 0.0, "b, imbalance 50": 10.0}
    assert soft.of_situation == {"a, imbalance 50": 10.0, "b, imbalance 50": 0.0}
    assert learned.of_situation == {"a, imbalance 50": 1.0, "b, imbalance 50": 2.0}
    milder = [{**row, "imbalance_factor": 10.0, "overall": 90.0} for row in rows if row["data"] == "a"]
    assert compare_tables.regret(rows + milder, ["1/0", "0/1"])[1].of_situation == {
        "a, imbalance 50": 10.0,
        "b, imbalance 50": 0.0,
        "a, imbalance 10": 0.0,
    }
    assert learned.worst[0] == 2.0
    assert learned.mean[0] == 1.5
    assert learned.mean[1] == 0.5  # both draws take the seed in which it is a point ahead in a
    assert learned.mean[2] == 2.5
    assert len(compare_tables.regret(rows[1:], ["1/0", "0/1"])[0].of_situation) == 1  # a is not complete
    with pytest.raises(ValueError, match="has a row of every method and seed"):
        compare_tables.regret(rows[:1] + rows[-1:], ["1/0"])


def test_the_recipe_asks_for_data(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["compare.py", "--study", "inner-steps"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(RECIPES / "compare.py"), run_name="__main__")
    assert "name the data to compare on, or pass --paper" in capsys.readouterr().err


def test_an_unknown_method_is_named():
    with pytest.raises(SystemExit, match=r"no method 'KDD'. Known: CE, balanced softmax"):
        compare.main(["digits-noise"], methods=["KDD"])


def test_every_method_and_study_can_be_described():
    assert len(compare.METHODS) > 25
    assert {"CE", "KD", "WSL", "RW-KD", "BKD", "DiVE", "LFME", "BiKD"} <= set(compare.METHODS)
    assert len({label for study in compare.STUDIES.values() for label in study}) > 30
    for study in compare.STUDIES.values():  # one label, one method
        for label, method in study.items():
            assert described(method) == described(compare.ALL_METHODS[label])


def test_paired_comparison_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    a, b = [70.0, 72.5, 71.0, 69.0], [68.0, 72.0, 69.5, 69.5]
    rows = [{"method": m, "seed": s, "x": v} for m, vs in (("A", a), ("B", b)) for s, v in enumerate(vs)]
    pair = bikd.results.paired(rows, "A", "B", "x")
    assert pair["p"] == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert (pair["wins"], pair["seeds"], pair["worst"]) == (3, 4, -0.5)
    assert bikd.results.paired(rows[:3], "A", "B", "x") is None
