"""Metrics against scikit-learn and in `compile`."""

import keras
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, recall_score

import keras_bikd as bikd
import models

pytestmark = pytest.mark.tensorflow  # operations one by one, each of which JAX would compile

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


@pytest.mark.parametrize("seed", range(3))
def test_worst_class_and_per_class_against_scikit_learn(seed):
    labels, logits = random_case(seed)
    recall = recall_score(labels, logits.argmax(axis=1), average=None)
    worst, each = bikd.metrics.WorstClassAccuracy(5), bikd.metrics.PerClassAccuracy(5, class_names="abcde")
    for metric in (worst, each):
        metric.update_state(labels, logits)
    assert float(worst.result()) == pytest.approx(recall.min(), rel=1e-5)
    assert {k: float(v) for k, v in each.result().items()} == pytest.approx(
        {f"accuracy_{name}": value for name, value in zip("abcde", recall)}, rel=1e-5
    )


def test_a_class_without_samples_is_never_zero():
    worst, each = bikd.metrics.WorstClassAccuracy(3), bikd.metrics.PerClassAccuracy(3)
    for metric in (worst, each):
        metric.update_state([0, 1], np.eye(3)[[0, 1]])
    assert float(worst.result()) == 1
    assert np.isnan(float(each.result()["accuracy_2"]))


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_against_a_plain_loop(seed):
    labels, logits = random_case(seed)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0
    for low in np.linspace(0, 1, 11)[:-1]:
        rows = (confidence > low) & (confidence <= low + 0.1)
        if rows.any():
            expected += rows.mean() * abs(confidence[rows].mean() - right[rows].mean())
    metric = bikd.metrics.ExpectedCalibrationError(num_bins=10)
    for rows in np.array_split(np.arange(len(labels)), 4):
        metric.update_state(labels[rows], logits[rows])
    assert float(metric.result()) == pytest.approx(expected, abs=1e-4)


METRICS = {
    "BalancedAccuracy": lambda: bikd.metrics.BalancedAccuracy(4),
    "WorstClassAccuracy": lambda: bikd.metrics.WorstClassAccuracy(4),
    "PerClassAccuracy": lambda: bikd.metrics.PerClassAccuracy(4, class_names=["a", "b", "c", "d"]),
    "ShotAccuracy": lambda: bikd.metrics.ShotAccuracy([200, 50, 20, 2]),
    "ExpectedCalibrationError": bikd.metrics.ExpectedCalibrationError,
}


def test_the_battery_is_complete():
    offered = {name for name, value in vars(bikd.metrics).items() if isinstance(value, type) and name[0] != "_"}
    assert {name for name in offered if bikd.metrics.__name__ == getattr(bikd.metrics, name).__module__} == set(METRICS)


PER_CLASS = [name for name in METRICS if name != "ExpectedCalibrationError"]


@pytest.mark.parametrize("name", PER_CLASS)
@pytest.mark.parametrize("outputs", [1, 5])
def test_a_metric_for_another_number_of_classes_says_so(name, outputs):
    message = rf"`{name}` was created for 4 classes, but the model has {max(outputs, 2)}\..*shape \(6, {outputs}\)"
    with pytest.raises(ValueError, match=message):
        METRICS[name]().update_state(np.zeros(6, "int32"), np.zeros((6, outputs)))


def test_a_metric_for_another_number_of_classes_stops_fit():
    model = models.compiled()
    model.compile("sgd", metrics=[bikd.metrics.BalancedAccuracy(3)])
    with pytest.raises(ValueError, match="`BalancedAccuracy` was created for 3 classes, but the model has 4"):
        model.fit(*models.arrays(), meta_data=models.arrays(8), verbose=0)


def test_two_shot_accuracies_have_log_entries_of_their_own():
    wide, narrow = [200, 50, 20, 2], [40, 30, 20, 10]
    metrics = [bikd.metrics.ShotAccuracy(wide), bikd.metrics.ShotAccuracy(narrow, 35, 15, name="narrow")]
    model = models.perceptron()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=metrics)
    logs = model.evaluate(*models.arrays(), verbose=0, return_dict=True)
    groups = {"many", "medium", "few"}
    assert set(logs) == {"loss"} | groups | {f"narrow_{group}" for group in groups}
    copy = bikd.metrics.ShotAccuracy.from_config(metrics[1].get_config())
    assert set(copy.result()) == {f"narrow_{group}" for group in groups}


DIRECTIONS = {"balanced_accuracy": 1, "worst_class_accuracy": 1, "expected_calibration_error": -1}


class Script(keras.callbacks.Callback):
    """Puts scripted scores into the logs, in front of the callbacks that monitor them."""

    def __init__(self, monitor, scores):
        super().__init__()
        self.monitor, self.scores = monitor, scores

    def on_epoch_end(self, epoch, logs=None):
        logs[self.monitor] = self.scores[epoch]


@pytest.mark.parametrize("name", DIRECTIONS)
def test_callbacks_know_which_way_a_metric_is_better(name, tmp_path):
    """Mode "auto": the second epoch is the best, so that one is kept, and training stops after the third."""
    monitor, scores = f"val_{name}", DIRECTIONS[name] * np.array([0.2, 0.9, 0.5, 0.6])
    model = models.compiled()
    metrics = [metric for make in METRICS.values() if (metric := make()).name == name]
    model.compile("sgd", metrics=metrics)
    stop = keras.callbacks.EarlyStopping(monitor)
    how = {"save_best_only": True, "save_weights_only": True}
    keep = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", monitor, **how)
    data = {"meta_data": models.arrays(8), "validation_data": models.arrays(8, seed=2)}
    history = model.fit(*models.arrays(), epochs=4, verbose=0, callbacks=[Script(monitor, scores), stop, keep], **data)
    assert len(history.epoch) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"1.weights.h5", "2.weights.h5"}


@pytest.mark.parametrize("name", METRICS)
def test_in_compile_and_through_a_file(name, tmp_path):
    model = models.perceptron()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=[METRICS[name]()])
    x, y = models.arrays()
    before = model.evaluate(x, y, verbose=0, return_dict=True)
    model.save(tmp_path / "model.keras")
    after = keras.saving.load_model(tmp_path / "model.keras").evaluate(x, y, verbose=0, return_dict=True)
    assert after == pytest.approx(before)
    assert len(after) == 1 + {"PerClassAccuracy": 4, "ShotAccuracy": 3}.get(name, 1)
