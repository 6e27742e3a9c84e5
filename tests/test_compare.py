"""`compare`: what is held out, what counts as evidence, what is recommended, and that nothing finished is lost."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import keras_bikd as bikd
from keras_bikd import comparison
from keras_bikd.comparison import Method, intervals, label_errors, methods, recommendation, run
from keras_bikd.comparison.samples import Batches, Given, Samples, balanced, hold_out, read_data, samples_of
from keras_bikd.comparison.store import Store
from models import tensorflow_only

COUNTS = (40, 20, 8, 3)


def arrays(seed=0):
    random = np.random.default_rng(seed)
    y = np.repeat(np.arange(4), COUNTS)
    return random.normal(size=(len(y), 5)).astype("float32") + 2 * np.eye(5, dtype="float32")[y], y


def network(units=4):
    layers = [keras.Input((5,)), keras.layers.Dense(units, "relu"), keras.layers.Dense(4)]
    return keras.Sequential(layers)


def teacher():
    return network(8)


def compare(folder, **arguments):
    names = ("cross-entropy", "balanced softmax", "BiKD with class counts")
    how = {"methods": names, "seeds": (0, 1), "steps": 20, "batch_size": 8, **arguments.pop("protocol", {})}
    given = {"data": arrays(), "student": network, "teacher": teacher, **arguments}
    return bikd.compare(folder=folder, protocol=bikd.Protocol(**how), **given)


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    return compare(tmp_path_factory.mktemp("compared"), test_data=arrays(1))


# What is held out


def given(train):
    return Given(train, None, None, None)


@pytest.mark.parametrize("size", [2, 3, 5, 7, 100])
def test_folds_hold_out_every_sample_of_a_class_in_turn_and_at_least_one_of_two(size):
    samples = Samples(np.arange(size + 10).__getitem__, np.repeat([0, 1], [size, 10]), ["a", "b"])
    held = [set(hold_out(given(samples), fold=fold).validation.ids) for fold in range(5)]
    own = set(range(size))
    assert all(len(fold & own) >= max(1, size // 5) for fold in held)
    assert set().union(*held) == set(range(size + 10))
    if size >= 5:
        assert sum(len(fold & own) for fold in held) == size


def test_a_single_sample_is_trained_on():
    samples = Samples(np.arange(6).__getitem__, np.array([0, 0, 0, 0, 0, 1]), ["a", "b"])
    division = hold_out(given(samples))
    assert division.train.class_counts.tolist() == [4, 1]
    assert division.validation.class_counts.tolist() == [1, 0]


def test_training_and_validation_samples_share_none_and_meta_samples_are_trained_on():
    train = samples_of("training", arrays())
    division = hold_out(given(train), 3, fold=1)
    assert not set(division.train.ids) & set(division.validation.ids)
    assert set(division.meta.ids) <= set(division.train.ids)
    assert set(division.meta.class_counts) == {10}


def test_balanced_takes_none_twice_before_all_were_taken():
    subset = samples_of("training", arrays()).all()
    drawn = balanced(subset, np.random.default_rng(0))
    times = np.bincount(drawn.ids, minlength=sum(COUNTS))
    assert times[:60].max() == 1
    assert set(times[-3:]) == {3, 4}


def test_checked_meta_samples_are_trained_on_as_a_method_asks():
    train, checked = samples_of("training", arrays()), samples_of("meta", arrays(5)).all()
    division = hold_out(Given(train, checked, checked, None))
    assert len(division.trained_on(False).ids) == len(train)
    assert len(division.trained_on(True).ids) == 2 * len(train)
    half = division.trained_on(0.5)
    assert (half.ids >= len(train)).mean() == 0.5
    # The ids of the checked samples continue those of the others.
    inputs, labels = Batches(half, len(half.ids))[0]
    assert np.array_equal(inputs[: len(train)], arrays()[0])
    assert np.array_equal(inputs[len(train) :], arrays(5)[0])
    assert np.array_equal(labels, half.labels)


def test_joined_samples_keep_their_order_within_a_batch():
    first, second = samples_of("training", arrays()), samples_of("training", arrays(5))
    both = first.all().together(second.all())
    mixed = np.array([70, 71, 0, 141, 3, 100])
    expected = np.concatenate([arrays()[0], arrays(5)[0]])[mixed]
    assert np.array_equal(both.samples.inputs(mixed), expected)


# Batches


def test_drawn_batches_are_full_and_pass_over_all_samples():
    subset = samples_of("training", arrays()).all()
    batches = Batches(subset, 8, steps=18, seed=0)
    labels = np.concatenate([batches[i][1] for i in range(len(batches))])
    assert [len(batches[i][1]) for i in range(len(batches))] == [8] * 18
    assert np.array_equal(np.bincount(labels[:71]), COUNTS)
    assert np.array_equal(np.bincount(labels[71:142]), COUNTS)


def test_the_augmentation_of_a_batch_depends_on_its_seed_and_number():
    subset = samples_of("training", arrays()).all()
    noise = bikd.data.gaussian_noise(1.0)
    first, again, other = (Batches(subset, 8, steps=2, seed=seed, augment=noise)[1][0] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@tensorflow_only
def test_strings_are_trained_on(tmp_path):
    words = np.array(["good thing", "bad thing"] * 20, dtype=object)
    vectorize = keras.layers.TextVectorization(5, output_sequence_length=2)
    vectorize.adapt(words)

    def reader():
        layers = [keras.Input((), dtype="string"), vectorize, keras.layers.Embedding(5, 4), keras.layers.Flatten()]
        return keras.Sequential([*layers, keras.layers.Dense(2)])

    names = ("cross-entropy", "BiKD with class counts")
    how = bikd.Protocol(methods=names, seeds=(0,), steps=10)
    found = bikd.compare((words, np.arange(40) % 2), reader, reader, folder=tmp_path, protocol=how)
    assert list(found.methods) == list(names)


@pytest.mark.parametrize("kind", ["arrays", "one-hot", "tuple of inputs", "batches", "source"])
def test_samples_of_any_kind_are_the_same(kind):
    x, y = arrays()
    data = {
        "arrays": lambda: (x, y),
        "one-hot": lambda: (x, np.eye(4)[y]),
        "tuple of inputs": lambda: ((x, 2 * x), y),
        "batches": lambda: [(x[:30], y[:30]), (x[30:], y[30:])],
        "source": lambda: bikd.data.Arrays(x, y),
    }[kind]()
    samples = samples_of("training", data)
    ids = np.array([70, 2, 2])
    inputs = samples.inputs(ids)
    if kind == "tuple of inputs":
        inputs, doubled = inputs
        assert np.array_equal(doubled, 2 * x[ids])
    assert np.array_equal(inputs, x[ids])
    assert np.array_equal(samples.labels, y)
    assert samples.class_counts.tolist() == list(COUNTS)


# Evidence


def judged(right, labels, ids=None):
    """Predictions of methods that are right for the given samples."""
    predicted = {name: np.where(mask, labels, labels + 1) for name, mask in right.items()}
    return intervals.Judged(labels, predicted, np.arange(len(labels)) if ids is None else ids)


def test_scores_are_the_mean_of_the_accuracies_per_class():
    labels = np.repeat([0, 1, 2], [6, 3, 1])
    right = np.array([1, 1, 1, 0, 0, 0, 1, 0, 0, 1], bool)
    found = intervals.evidence_of([judged({"A": right}, labels)], np.array([60, 30, 10]))
    assert found.mean("A") == pytest.approx(100 * (1 / 2 + 1 / 3 + 1) / 3)
    assert found.recalls("A") == pytest.approx([1 / 2, 1 / 3, 1])
    assert found.counts.tolist() == [6, 3, 1]


def test_errors_are_those_of_binomials():
    """One class of 100 samples, half right: the standard error of a share is sqrt(p (1 - p) / n)."""
    labels, right = np.zeros(100, int), np.arange(100) % 2 == 0
    found = intervals.evidence_of([judged({"A": right}, labels)], np.array([100]))
    assert np.sqrt(found.covariance()) == pytest.approx(100 * np.sqrt(0.25 / 100), rel=0.01)
    assert found.interval("A") == pytest.approx([100 * bound for bound in intervals.wilson(0.5, 100)], abs=0.1)


def test_a_difference_between_methods_that_fail_on_the_same_samples_is_certain():
    labels = np.repeat([0, 1], 50)
    right = np.arange(100) % 3 > 0
    found = intervals.evidence_of([judged({"A": right, "B": right}, labels)], np.array([50, 50]))
    assert found.difference("A", "B") == (0.0, 0.0, 0.0)


def test_a_class_of_one_sample_is_not_thought_to_be_certain():
    labels = np.append(np.zeros(50, int), 1)
    right = {"A": np.arange(51) % 2 == 0, "B": np.arange(51) % 2 == 1}  # A is right for the only sample
    found = intervals.evidence_of([judged(right, labels)], np.array([500, 5]))
    low, high = found.difference("A", "B")[1:]
    assert low < 0 < high


def test_a_class_without_samples_does_not_count():
    labels = np.zeros(10, int)
    found = intervals.evidence_of([judged({"A": labels == 0}, labels)], np.array([50, 1]))
    assert found.mean("A") == 100
    assert np.isnan(found.recalls("A")[1])
    assert np.isnan(found.difference("A", "A", "rare")[0])


def test_samples_of_several_rounds_are_counted_once():
    labels = np.repeat([0, 1], 5)
    same, other = np.arange(10), np.arange(10, 20)
    rounds = [judged({"A": labels == 0}, labels, ids) for ids in (same, same, other)]
    assert intervals.evidence_of(rounds, np.array([50, 50])).counts.tolist() == [10, 10]


# Recommendation


def recommended(scores, per_class=400, **arguments):
    """The recommendation for methods that are right for the first samples of each of two classes."""
    labels = np.repeat([0, 1], per_class)
    place = np.tile(np.arange(per_class), 2)
    right = {name: place < round(score / 100 * per_class) for name, score in scores.items()}
    found = intervals.evidence_of([judged(right, labels)], np.array([500, 50]))
    seconds = dict(zip(scores, range(1, 10)))
    with_teacher = {name: "KD" in name for name in scores}
    return recommendation.recommend(found, (10.0, 10.0), seconds, 5.0, with_teacher, **arguments)


def test_the_cheapest_of_equals_is_recommended():
    assert recommended({"cross-entropy": 80, "balanced softmax": 80, "KD": 80}).method == "cross-entropy"


def test_a_clearly_better_method_is_recommended_at_any_cost():
    found = recommended({"cross-entropy": 60, "balanced softmax": 70, "KD": 90})
    assert (found.method, found.can_tell) == ("KD", True)
    assert "gains 30.0 points over cross-entropy" in str(found)
    assert "3.0 times as long" in str(found)
    assert "The teacher is worth its cost" in str(found)


def test_a_cheaper_method_may_not_be_clearly_behind():
    assert recommended({"balanced softmax": 78, "KD": 80}, per_class=4000).method == "KD"
    assert recommended({"balanced softmax": 79.9, "KD": 80}, per_class=4000).method == "balanced softmax"


def test_few_samples_are_weighed_against_what_other_data_said():
    """Ten of each class, of which the two methods get other ones right: what was seen is within the noise."""
    labels, place = np.repeat([0, 1], 10), np.tile(np.arange(10), 2)
    right = {"cross-entropy": place < 7, methods.SAFE_DEFAULT: place >= 4}
    found = intervals.evidence_of([judged(right, labels)], np.array([500, 10]))
    seconds, teachers = dict.fromkeys(right, 1.0), dict.fromkeys(right, True)
    got = recommendation.recommend(found, (50.0, 50.0), seconds, 0.0, teachers)
    assert (got.method, got.can_tell) == (methods.SAFE_DEFAULT, False)
    assert "on other data" in str(got)


def test_a_distance_that_noise_does_not_explain_is_called_so():
    """Ten of each class; what is known of other data speaks for the method that got none of them right."""
    labels, place = np.repeat([0, 1], 10), np.tile(np.arange(10), 2)
    right = {"cross-entropy": place < 4, methods.SAFE_DEFAULT: place < 0}
    found = intervals.evidence_of([judged(right, labels)], np.array([500, 10]))
    got = recommendation.recommend(found, (50.0, 50.0), dict.fromkeys(right, 1.0), 0.0, dict.fromkeys(right, True))
    assert got.method == methods.SAFE_DEFAULT
    assert "40.0 points more, more than the noise explains" in str(got)


def test_without_an_imbalance_nothing_speaks_against_methods_without_class_counts():
    expected = recommendation.expected
    assert expected("cross-entropy", 1.0, 1.0)[0] == 0
    assert expected("cross-entropy", 200.0, 1.0) == expected("cross-entropy", 50.0, 1.0)
    assert expected("KD", 50.0, 1.0)[0] == 0 > expected("KD", 1.0, 50.0)[0]


def test_one_or_two_samples_are_no_certainty():
    """One held-out sample of each of two classes, both right with A and wrong with B."""
    labels = np.array([0, 1])
    found = intervals.evidence_of([judged({"A": [True, True], "B": [False, False]}, labels)], np.array([50, 10]))
    low, high = found.interval("A")
    assert (low, high) == pytest.approx([100 * bound for bound in intervals.wilson(1.0, 2)])
    assert found.difference("A", "B") == pytest.approx((100, 200 * low / 100 - 100, 100))
    one = intervals.evidence_of([judged({"A": [True]}, labels[:1])], np.array([50, 10]))
    assert one.interval("A") == pytest.approx([100 * bound for bound in intervals.wilson(1.0, 1)])


def test_intervals_contain_what_was_seen():
    """Also those of a class of three samples that are all wrong."""
    labels = np.repeat([0, 1], [90, 3])
    right = {"A": np.append(np.arange(90) < 80, [False, False, False])}
    found = intervals.evidence_of([judged(right, labels)], np.array([900, 30]))
    low, high = found.interval("A")
    assert low < found.mean("A") < high


# Suspects


def test_wrong_labels_are_found_and_ranked_by_margin():
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 300)
    probabilities = np.full((300, 3), 0.1) + 0.7 * np.eye(3)[truth]
    labels = truth.copy()
    labels[:30] = (labels[:30] + 1) % 3
    found = label_errors.suspects_of(np.arange(300), labels, probabilities, np.ones(300, bool))
    assert {one.position for one in found.samples} == set(range(30))
    assert all(one.suggested == truth[one.position] for one in found.samples)
    assert found.share == pytest.approx(0.1)


def test_a_rare_class_that_is_seen_timidly_is_not_suspect():
    """Samples of class 1 are given 0.4 at best; that is what the class has on average."""
    probabilities = np.array([[0.9, 0.1]] * 20 + [[0.6, 0.4]] * 5)
    labels = np.repeat([0, 1], [20, 5])
    assert not label_errors.suspects_of(np.arange(25), labels, probabilities, np.ones(25, bool)).samples


# Comparisons


def test_every_method_has_a_row_for_every_seed_and_its_own_configuration(findings):
    assert {(row["method"], row["seed"]) for row in findings.rows} == {
        (name, seed) for name in findings.methods for seed in (0, 1)
    }
    for row in findings.rows:
        assert row["steps"] == 20
        assert len(row["history"]["validation"]) == 10
        assert row["config"]["method"]["meta_in_train"] is True
        assert json.loads(json.dumps(row)) == row


def test_scores_are_those_of_the_stored_students(findings):
    x, y = arrays(1)
    row = findings.rows[-1]
    predicted = findings.student(row["method"], row["seed"]).predict(x, verbose=0).argmax(axis=-1)
    assert row["test"] == pytest.approx(100 * np.mean([(predicted[y == c] == c).mean() for c in range(4)]))


def test_validation_samples_are_those_that_the_round_held_out(findings):
    seed, division = 1, findings.rounds[1]
    x = arrays()[0][division.validation.ids]
    logits = findings.student("cross-entropy", seed).predict(x, verbose=0)
    assert findings.logits("cross-entropy", seed) == pytest.approx(logits, abs=1e-5)


def test_confusion_counts_every_validation_sample_of_every_round(findings):
    matrix = findings.confusion("cross-entropy")
    assert matrix.sum() == sum(len(division.validation.ids) for division in findings.rounds.values())


def test_a_second_call_trains_nothing_and_finds_the_same(findings, monkeypatch):
    def fail(*arguments):
        raise AssertionError("trained again")

    monkeypatch.setattr(run, "train_student", fail)
    monkeypatch.setattr(run, "train_teacher", fail)
    again = compare(findings.folder, test_data=arrays(1))
    assert again.rows == findings.rows
    assert str(again.recommendation) == str(findings.recommendation)
    assert again.suspects == findings.suspects


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"data": arrays(3)}, "data"),
        ({"student": lambda: network(5)}, "networks"),
        ({"protocol": {"augment": bikd.data.gaussian_noise(0.1)}}, "augment"),
    ],
)
def test_another_comparison_in_the_same_folder_is_refused(findings, change, name):
    with pytest.raises(ValueError, match=f"holds another comparison.*{name}"):
        compare(findings.folder, **{"test_data": arrays(1), **change})


def test_another_strength_of_an_augmentation_is_another_comparison(tmp_path):
    how = {"methods": ("cross-entropy",), "seeds": (0,)}
    compare(tmp_path, protocol={**how, "augment": bikd.data.gaussian_noise(0.1)})
    with pytest.raises(ValueError, match=r"holds another comparison.*augment"):
        compare(tmp_path, protocol={**how, "augment": bikd.data.gaussian_noise(0.9)})


def kd(parts):
    return bikd.DistillationModel(parts.student, parts.teacher, bikd.objectives.KnowledgeDistillation())


def test_a_teacher_that_the_data_do_not_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'mine' needs a teacher.*teachers \['teacher'\], needed: \['experts"):
        compare(tmp_path, protocol={"methods": {"mine": Method(kd, teacher="experts")}})


def test_fields_of_a_method_are_honoured(tmp_path):
    chosen = {"longer": Method(kd, budget=2), "on meta samples": Method(kd, lambda parts: {"x": parts.meta})}
    found = compare(tmp_path, protocol={"methods": chosen, "seeds": (0,)})
    assert [row["steps"] for row in found.rows] == [40, 20]


def test_methods_and_seeds_are_added_to_a_comparison(tmp_path):
    compare(tmp_path, protocol={"methods": ("cross-entropy",), "seeds": (0,)})
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("rows/*")}
    found = compare(tmp_path, protocol={"methods": ("cross-entropy", "balanced softmax"), "seeds": (0, 1)})
    assert len(found.rows) == 4
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_a_folder_with_other_bytes_under_the_same_names_is_other_data(tmp_path):
    def samples(level):
        for name in ("cat", "dog"):
            (tmp_path / name).mkdir(exist_ok=True)
            keras.utils.save_img(tmp_path / name / "0.png", np.full((8, 8, 3), level), scale=False)
        return samples_of("training", bikd.data.Folder(tmp_path, (8, 8)))

    assert samples(10).sha256 == samples(10).sha256 != samples(20).sha256


def test_other_arrays_in_a_source_are_other_data():
    x, y = arrays()
    first, second = (samples_of("training", bikd.data.Arrays(own, y)).sha256 for own in (x, 2 * x))
    assert first != second


def test_minutes_without_a_training_that_can_be_timed():
    with pytest.raises(ValueError, match=r"No training could be timed.*minutes=10"):
        run.steps_within(10, {}, 3)


def test_a_method_that_fails_is_reported_and_the_others_go_on(tmp_path, monkeypatch):
    broken = True

    def sometimes(parts):
        def stop(epoch, logs):
            if broken:
                raise RuntimeError("out of paper")

        return {"callbacks": [keras.callbacks.LambdaCallback(on_epoch_end=stop)]}

    monkeypatch.setattr(run, "described", lambda value: "the same")
    chosen = {"cross-entropy": comparison.METHODS["cross-entropy"], "mine": Method(kd, sometimes)}
    how = {"methods": chosen, "seeds": (0,)}
    with pytest.warns(UserWarning, match=r"mine, seed 0, failed.*out of paper"):
        found = compare(tmp_path, protocol=how)
    assert list(found.methods) == ["cross-entropy"]
    assert [(failure.method, failure.seed) for failure in found.failures] == [("mine", 0)]
    assert "out of paper" in found.failures[0].error
    broken = False
    assert list(compare(tmp_path, protocol=how).methods) == list(chosen)


def test_minutes_become_steps_that_fit_and_are_kept(tmp_path):
    how = bikd.Protocol(methods=("cross-entropy",), seeds=(0,), minutes=0.2, batch_size=8)
    found = run.prepare(read_data(arrays()), network, None, folder=tmp_path, protocol=how)
    plan = found.plan()
    besides, step = plan["timing"]["cross-entropy"]
    assert besides + plan["steps"] * step <= 12
    assert found.plan() == plan
    assert not Store(tmp_path).row("cross-entropy", 0)


def test_too_few_minutes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"minutes=0.001.*fewer seeds or methods"):
        compare(tmp_path, protocol={"steps": None, "minutes": 0.001, "methods": ("cross-entropy",)})


def test_wrong_labels_with_checked_samples_are_met_with_two_runs(tmp_path, monkeypatch):
    x, y = arrays()
    wrong = y.copy()
    wrong[::2] = (wrong[::2] + 1) % 4
    checked = arrays(5)
    few = {name: comparison.METHODS[name] for name in ("cross-entropy", "KD")}
    monkeypatch.setattr(methods, "METHODS", few)
    how = {"methods": None, "seeds": (0,), "steps": 100}
    found = compare(tmp_path, data=(x, wrong), meta_data=checked, validation_data=arrays(6), protocol=how)
    assert found.labels_look_wrong
    assert list(found.methods)[-1] == "BiKD in two runs"
    row = found.rows[-1]
    assert row["steps"] == 200
    assert row["config"]["method"]["before"]["meta_in_train"] is False


def test_a_trained_teacher_is_not_trained_again(tmp_path):
    given = teacher()
    before = [variable.numpy() for variable in given.variables]
    found = compare(tmp_path, teacher=(given, (10, 10, 10, 10)), protocol={"methods": ("KD",), "seeds": (0,)})
    assert found.teacher_seconds() == 0
    assert all(np.array_equal(variable.numpy(), value) for variable, value in zip(given.variables, before))


def networks(trained):
    """What tells the networks from others."""
    train = samples_of("training", arrays())
    return run._checked_networks(train, network, (trained, [1, 1, 1, 1]))


def test_another_trained_teacher_is_another_comparison():
    """Its architecture is the same, and what it has learned is not."""
    first, second = networks(teacher()), networks(teacher())
    assert first["student"] == second["student"]
    assert first["teacher"] != second["teacher"]


def test_a_trained_teacher_is_the_same_whatever_its_layers_are_called():
    first, second = teacher(), teacher()
    second.set_weights(first.get_weights())
    assert networks(first) == networks(second)


def test_one_logit_is_enough_for_two_classes(tmp_path):
    x, y = arrays()

    def one_logit():
        return keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])

    how = {"methods": ("cross-entropy", "BiKD with class counts"), "seeds": (0,)}
    found = compare(tmp_path, data=(x, (y > 0).astype(int)), student=one_logit, teacher=one_logit, protocol=how)
    assert found.logits("cross-entropy", 0).shape[1] == 2


BAD = {
    "data of another type": ({"data": 3}, "training data are arrays.*type int"),
    "no samples": ({"data": (np.zeros((0, 5)), np.zeros(0, int))}, "training_data.*at least one"),
    "one class": ({"data": (np.zeros((4, 5)), np.zeros(4, int))}, "at least two classes"),
    "an empty class": ({"data": (np.zeros((4, 5), "float32"), np.array([0, 0, 2, 2]))}, "have no sample of 1"),
    "outputs": ({"student": lambda: keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])}, "4 classes"),
    "no model": ({"student": lambda: None}, "student is given as.*returns None"),
    "no teacher": ({"teacher": None}, "BiKD with class counts' needs a teacher"),
    "classes of the validation data": (
        {"validation_data": (np.zeros((9, 5)), np.arange(9))},
        "classes of the training.*Received: .*'8'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_training(tmp_path, case):
    change, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        compare(tmp_path, **change)
    assert not (tmp_path / "rows").exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="results need a folder that may be written to"):
        compare(tmp_path / "file")


def test_a_class_of_one_sample_is_named(tmp_path):
    x, y = arrays()
    with pytest.warns(UserWarning, match=r"1 classes have a single sample.*: 3\."):
        compare(tmp_path, data=(x[:-2], y[:-2]), protocol={"methods": ("cross-entropy",), "seeds": (0,)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps"),
        ({"minutes": -1}, "minutes"),
        ({"steps": 10, "minutes": 1}, "one of the two"),
        ({"seeds": ()}, r"takes seeds.*seeds=\(\)"),
        ({"seeds": (1, 1)}, "each once"),
        ({"methods": ("KD", "magic")}, "magic"),
        ({"validation_share": 1.0}, "validation_share"),
    ],
)
def test_bad_protocols_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        bikd.Protocol(**arguments)


@pytest.mark.slow
def test_a_comparison_that_is_killed_resumes_and_finds_the_same(findings, tmp_path):
    """The kill comes when the first rows are there; what was finished is not trained again."""
    code = f"import test_compare; test_compare.compare({str(tmp_path)!r}, test_data=test_compare.arrays(1))"
    # Rows that are there already: the process begins with the second round.
    for kind in ("rows", "arrays", "models"):
        for path in findings.folder.joinpath(kind).glob("*_0.*"):
            tmp_path.joinpath(kind).mkdir(exist_ok=True)
            shutil.copy(path, tmp_path / kind)
    shutil.copy(findings.folder / "plan.json", tmp_path)
    given = len(list(tmp_path.glob("rows/*")))
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(pathlib.Path(__file__).parent), *sys.path])}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rows = tmp_path / "rows"
    while process.poll() is None and len(list(rows.glob("*.json"))) < given + 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.read_bytes() for path in rows.glob("*.json")}
    resumed = compare(tmp_path, test_data=arrays(1))
    assert len(done) >= given + 2
    assert all(path.read_bytes() == content for path, content in done.items())
    for row, other in zip(resumed.rows, findings.rows):
        assert (row["method"], row["seed"]) == (other["method"], other["seed"])
        assert row["validation"] == pytest.approx(other["validation"])
        assert row["test"] == pytest.approx(other["test"])
