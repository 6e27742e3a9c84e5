"""Binary classifiers with one logit z are those with the two logits (0, z)."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_bikd as bikd
import models
from keras_bikd import losses, objectives

COUNTS = [18, 6]
X, IDS = models.arrays(24, classes=2)
LABELS = {
    "ids": IDS,
    "column": IDS[:, None],
    "column of floats": IDS[:, None].astype("float32"),  # `image_dataset_from_directory(label_mode="binary")`
    "booleans": IDS.astype(bool),
    "rows": np.eye(2, dtype="float32")[IDS],
}


class ZeroFirst(layers.Layer):
    def call(self, z):
        return ops.concatenate([ops.zeros_like(z), z], axis=-1)


def pair_of_nets(units=8):
    """The same network twice: with one logit, and with two."""
    one = models.perceptron(classes=1, units=units)
    two = keras.Sequential([keras.Input((models.FEATURES,)), *one.layers, ZeroFirst()])
    clone = keras.models.clone_model(one)
    clone.set_weights(one.get_weights())
    return clone, two


@pytest.mark.parametrize("labels", LABELS)
def test_losses_of_one_logit(labels):
    z, t = ops.convert_to_tensor(X[:, :1]), ops.convert_to_tensor(X[:, 1:2])
    two = lambda z: ops.concatenate([ops.zeros_like(z), z], axis=-1)
    y = LABELS[labels]
    np.testing.assert_allclose(losses.hard_loss(y, z), np.log1p(np.exp((1 - 2 * IDS) * X[:, 0])), rtol=1e-5)
    for objective in (
        objectives.KnowledgeDistillation(),
        objectives.BalancedSoftmax(class_counts=COUNTS),
        objectives.SoftTargets(class_counts=COUNTS),
    ):
        np.testing.assert_allclose(objective(y, t, z), objective(IDS, two(t), two(z)), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(objective(y, two(t), z), objective(IDS, two(t), two(z)), rtol=1e-5, atol=1e-6)
    loss = losses.BalancedSoftmaxLoss(COUNTS)
    np.testing.assert_allclose(loss(y, z), loss(IDS, two(z)), rtol=1e-5)


@pytest.mark.parametrize("kind", ["DistillationModel", "BiKDModel", "RWKDModel"])
@pytest.mark.parametrize("teacher", ["one logit", "two logits"])
def test_training_is_that_of_two_logits(kind, teacher):
    ends = []
    one, two = pair_of_nets()
    teachers = pair_of_nets(4)
    labels = {"one": LABELS["column of floats"], "two": IDS}
    for name, student in (("one", one), ("two", two)):
        keras.utils.set_random_seed(0)
        own = [objectives.KnowledgeDistillation()] if kind == "DistillationModel" else []
        taught_by = teachers[1] if teacher == "two logits" or name == "two" else teachers[0]
        model = getattr(bikd, kind)(student, taught_by, *own)
        metric = bikd.metrics.BalancedAccuracy(2)
        model.compile(keras.optimizers.SGD(0.1), metrics=[metric, bikd.metrics.ExpectedCalibrationError()])
        y = labels[name]
        guide = {} if kind == "DistillationModel" else {"meta_data": (X[:8], y[:8])}
        before = student.get_weights()
        logs = model.fit(X, y, 8, 2, 0, shuffle=False, validation_data=(X, y), **guide).history
        assert all((a != b).any() for a, b in zip(before, student.get_weights()))
        ends.append((student.get_weights(), logs))
    for a, b in zip(ends[0][0], ends[1][0]):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert ends[0][1].keys() == ends[1][1].keys()
    for name, values in ends[0][1].items():
        np.testing.assert_allclose(values, ends[1][1][name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_balanced_softmax_trains_a_plain_binary_classifier():
    student, _ = pair_of_nets()
    student.compile("sgd", bikd.losses.BalancedSoftmaxLoss(COUNTS), metrics=[bikd.metrics.BalancedAccuracy(2)])
    before = student.get_weights()
    student.fit(X, LABELS["column of floats"], verbose=0)
    assert all((a != b).any() for a, b in zip(before, student.get_weights()))


def test_a_loss_with_counts_of_other_classes():
    student = models.perceptron(classes=4)
    student.compile("sgd", bikd.losses.BalancedSoftmaxLoss(COUNTS))
    with pytest.raises(ValueError, match=r"model has 4 classes. Received: 2 numbers"):
        student.fit(X, IDS, verbose=0)


def test_per_class_report_of_one_logit(tmp_path):
    student, two = pair_of_nets()
    for name, model in (("one", student), ("two", two)):
        model.compile("sgd", bikd.losses.hard_loss)
        report = bikd.callbacks.PerClassReport(tmp_path / name, [(X, LABELS["column"] if name == "one" else IDS)])
        model.fit(X, IDS, shuffle=False, verbose=0, callbacks=[report])
    assert (tmp_path / "one" / "per_class_0001.csv").read_text() == (
        tmp_path / "two" / "per_class_0001.csv"
    ).read_text()


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_sigmoid_at_the_end_is_refused(role):
    sigmoid = keras.Sequential([keras.Input((models.FEATURES,)), layers.Dense(1, "sigmoid")])
    nets = {"student": models.perceptron(classes=1), "teacher": models.perceptron(classes=1), role: sigmoid}
    model = bikd.DistillationModel(**nets, objective=objectives.KnowledgeDistillation())
    model.compile("sgd")
    with pytest.raises(ValueError, match=rf"The {role} must return a logit.*sigmoid of 'dense"):
        model.fit(X, IDS, verbose=0)


def four_classes(kind, labels):
    own = [objectives.KnowledgeDistillation()] if kind == "DistillationModel" else []
    model = getattr(bikd, kind)(models.perceptron(), models.perceptron(), *own)
    model.compile("sgd")
    return model


ROWS = np.eye(4, dtype="float32")
WRONG = {
    "several classes at once": (ROWS[IDS] + ROWS[IDS + 1], "must sum to 1"),
    "out of range": (IDS + 3, r"must lie in 0\.\.3"),
    "negative": (IDS - 1, r"must lie in 0\.\.3"),
    "between two classes": (IDS + 0.5, r"(must lie in 0\.\.3|must be integers or whole numbers)"),
}


@pytest.mark.parametrize("labels", WRONG)
@pytest.mark.parametrize("form", ["arrays", "tf.data", "PyDataset"])
@pytest.mark.parametrize("kind", ["DistillationModel", "BiKDModel"])
def test_labels_that_are_none_are_refused_in_every_form_and_model(kind, form, labels):
    y, message = WRONG[labels]
    model = models.anew(four_classes, kind, labels)
    guide = {} if kind == "DistillationModel" else {"meta_data": models.arrays(8)}
    data = {
        "arrays": lambda d: d,
        "tf.data": lambda d: (models.dataset(d),),
        "PyDataset": lambda d: (models.Batches(d),),
    }
    with pytest.raises(Exception, match=rf"The training labels .*{message}"):  # TensorFlow's, in a pipeline
        model.fit(*data[form]((X, y)), shuffle=False, verbose=0, **guide)
