"""Metrics against scikit-learn and in `compile`."""

import keras
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, recall_score

import keras_bikd as bikd
import models

COUNTS = [500, 120, 60, 30, 8]


def random_case(seed, samples=200):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 5, samples), generator.normal(size=(samples, 5)).astype("float32")


@pytest.mark.parametrize("seed", range(5))
def test_against_scikit_learn(seed):
    labels, logits = random_case(seed)
    balanced = bikd.metrics.BalancedAccuracy(5)
    shots = bikd.metrics.ShotAccuracy(COUNTS)
    for rows in np.array_split(np.arange(len(labels)), 3):
        balanced.update_state(labels[rows], logits[rows])
        shots.update_state(np.eye(5)[labels[rows]], logits[rows])
    predicted = logits.argmax(axis=1)
    assert float(balanced.result()) == pytest.approx(balanced_accuracy_score(labels, predicted), rel=1e-5)
    recall = recall_score(labels, predicted, average=None)
    expected = {"many": recall[:2].mean(), "medium": recall[2:4].mean(), "few": recall[4]}
    assert {name: float(value) for name, value in shots.result().items()} == pytest.approx(expected, rel=1e-5)


def test_sample_weights_and_classes_without_samples():
    metric = bikd.metrics.BalancedAccuracy(3)
    logits = np.eye(3)[[0, 1, 0]]
    metric.update_state([0, 0, 1], logits, sample_weight=[3.0, 1.0, 2.0])
    assert float(metric.result()) == pytest.approx((3 / 4 + 0) / 2)  # class 2 has no samples
    metric.reset_state()
    metric.update_state([0], logits[:1])
    assert float(metric.result()) == 1


def test_an_empty_group_is_left_out():
    metric = bikd.metrics.ShotAccuracy([500, 400])
    metric.update_state([0, 1], np.eye(2))
    assert set(metric.result()) == {"many"}


@pytest.mark.parametrize(
    "metric", [bikd.metrics.BalancedAccuracy(4), bikd.metrics.ShotAccuracy([200, 50, 20, 2], 100, 20)]
)
def test_in_compile_and_through_a_file(metric, tmp_path):
    model = models.perceptron()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=[metric])
    x, y = models.arrays()
    before = model.evaluate(x, y, verbose=0, return_dict=True)
    model.save(tmp_path / "model.keras")
    after = keras.saving.load_model(tmp_path / "model.keras").evaluate(x, y, verbose=0, return_dict=True)
    assert after == pytest.approx(before)
    assert len(after) == (2 if isinstance(metric, bikd.metrics.BalancedAccuracy) else 4)
