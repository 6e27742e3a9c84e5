"""What can go wrong in real data and real models, one by one: training goes on, and no number becomes infinite."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_bikd as bikd
import models


def run(train=None, meta=None, student=None, teacher=None, weight_net=None, batch_size=4, **fit_arguments):
    """Two epochs with k = 2; returns the model."""
    model = bikd.BiKDModel(
        student or models.perceptron(),
        teacher or models.perceptron(),
        weight_net or bikd.MetaWeightNet((4,)),
        inner_steps=2,
    )
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9), meta_optimizer=keras.optimizers.Adam(0.01), metrics=["accuracy"]
    )
    train, meta = train or models.arrays(20), meta or models.arrays(8, seed=1)
    model.fit(*train, meta_data=meta, batch_size=batch_size, epochs=2, verbose=0, **fit_arguments)
    return model


def assert_finite(model):
    for variable in [*model.variables, *model.optimizer.variables]:
        value = variable.numpy()
        assert not np.issubdtype(value.dtype, np.floating) or np.isfinite(value).all(), variable.path


class Constant(keras.Model):
    """A teacher that says the same of every input."""

    def __init__(self, logits):
        super().__init__()
        self.logits = np.asarray(logits, "float32")
        self.built = True

    def call(self, inputs):
        return keras.ops.broadcast_to(keras.ops.convert_to_tensor(self.logits), (keras.ops.shape(inputs)[0], 4))


class Contrary(keras.Model):
    """A teacher that is sure of a wrong class for every sample: worse than chance."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.wrong = keras.ops.convert_to_tensor(x), (np.asarray(y) + 1) % 4
        self.built = True

    def call(self, inputs):
        distances = keras.ops.sum((inputs[:, None] - self.x[None]) ** 2, axis=-1)
        return 10.0 * keras.ops.one_hot(keras.ops.take(self.wrong, keras.ops.argmin(distances, axis=-1)), 4)


def two_inputs():
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((3,), name="b")}
    return keras.Model(inputs, layers.Dense(4)(layers.Concatenate()([inputs["a"], inputs["b"]])))


def split_inputs(data):
    x, y = data
    return {"a": x[:, :3], "b": x[:, 3:]}, y


def frozen():
    student = models.perceptron(layers.Dense(8))
    student.layers[0].trainable = False
    return student


X, Y = models.arrays(20)
ONE_CLASS = (X, np.zeros(20, int))
DUPLICATED = (np.repeat(X[:5], 4, axis=0), np.repeat(Y[:5], 4))
LARGE = keras.initializers.RandomUniform(-1e3, 1e3)

CASES = {
    "batch of one": {"batch_size": 1},
    "last partial batch": {"batch_size": 7},
    "ragged last meta batch": {"meta": models.arrays(11, seed=1)},
    "a class that never comes": {"train": ONE_CLASS},
    "duplicated samples": {"train": DUPLICATED},
    "huge logits": {"student": keras.Sequential([keras.Input((6,)), layers.Dense(4, kernel_initializer=LARGE)])},
    "huge teacher logits": {"teacher": Constant([1e4, -1e4, 0, 1])},
    "constant teacher": {"teacher": Constant([0, 0, 0, 0])},
    "teacher worse than chance": {"teacher": Contrary(X, Y)},
    "layer norm": {"student": models.perceptron(layers.LayerNormalization())},
    "frozen layers": {"student": frozen()},
    "several inputs": {
        "train": split_inputs(models.arrays(20)),
        "meta": split_inputs(models.arrays(8, seed=1)),
        "student": two_inputs(),
        "teacher": two_inputs(),
    },
    "regularisers": {"student": models.perceptron(layers.Dense(8, kernel_regularizer="l2", activity_regularizer="l1"))},
    "sample weights": {"sample_weight": np.linspace(0, 2, 20).astype("float32")},
    "all sample weights zero": {"sample_weight": np.zeros(20, "float32")},
}


@pytest.mark.parametrize("name", CASES)
def test_training_goes_on(name):
    model = run(**CASES[name])
    assert_finite(model)
    assert int(model.optimizer.iterations) > 2


def test_frozen_layers_stay():
    student = frozen()
    before = student.layers[0].get_weights()
    rest = student.layers[-1].get_weights()
    run(student=student)
    np.testing.assert_array_equal(student.layers[0].get_weights()[0], before[0])
    assert not np.array_equal(student.layers[-1].get_weights()[0], rest[0])


def test_sample_weights_of_zero_train_nothing():
    student = models.perceptron()
    before = student.get_weights()
    run(student=student, sample_weight=np.zeros(20, "float32"))
    for a, b in zip(before, student.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_bad_image_in_the_meta_set_never_reaches_the_weight_network(value):
    meta = models.arrays(8, seed=1)
    meta[0][3, 2] = value
    model = run(meta=meta)
    for variable in [*model.weight_net.variables, *model.optimizer.hypergradients, *model.meta_optimizer.variables]:
        assert np.isfinite(variable.numpy()).all(), variable.path
    assert_finite(model)  # the student did not see it either


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_bad_training_image_spoils_a_plain_student_too(value):
    """What Keras does with it is left as it is: no silent dropping of samples. `TerminateOnNaN` ends the run."""
    train = models.arrays(20)
    train[0][3, 2] = value
    model = run(train=train, callbacks=[keras.callbacks.TerminateOnNaN()])
    for variable in [*model.weight_net.variables, *model.optimizer.hypergradients]:
        assert np.isfinite(variable.numpy()).all(), variable.path
    assert int(model.optimizer.iterations) <= 6  # the last batch of an epoch shows in the first loss of the next


def test_equal_seeds_give_equal_runs():
    ends = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        ends.append(run(student=models.perceptron(layers.Dropout(0.3))).get_weights())
    for a, b in zip(*ends):
        np.testing.assert_array_equal(a, b)


def test_a_meta_set_without_some_class_is_reported():
    x, y = models.arrays(8, seed=1)
    with pytest.warns(UserWarning, match="no sample of 2 of 4 classes.*Received: no label 2, 3"):
        run(meta=(x, y % 2))


def test_a_meta_set_that_is_far_from_balanced_is_reported():
    x, _ = models.arrays(24, seed=1)
    with pytest.warns(UserWarning, match="far from balanced.*Received: between 1 and 21 samples per class"):
        run(meta=(x, np.maximum(np.arange(24) - 20, 0)))


def test_weights_that_were_never_updated_are_reported():
    model = models.compiled(inner_steps=7)
    with pytest.warns(UserWarning, match="never updated.*inner_steps=7 steps.*has taken 6"):
        model.fit(*models.arrays(24), meta_data=models.arrays(8), batch_size=4, verbose=0)


def test_a_meta_loss_that_is_no_number_is_reported():
    x, y = models.arrays(8, seed=1)
    with pytest.warns(UserWarning, match="The meta loss is nan in epoch 1"):
        run(meta=(np.full_like(x, np.nan), y))
    model = bikd.RWKDModel(models.perceptron(), models.perceptron())
    model.compile("sgd", run_eagerly=models.EAGERLY)
    with pytest.warns(UserWarning, match="The meta loss is nan in epoch 1"):
        model.fit(*models.arrays(24), meta_data=(np.full_like(x, np.nan), y), verbose=0)
