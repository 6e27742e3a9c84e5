"""Files of the version before load, and the training resumes where it was: `saved/`, written by commit 4a296aa."""

import pathlib

import keras
import numpy as np
import pytest
from keras import layers

import keras_bikd as bikd
import models

pytestmark = pytest.mark.backend

SAVED = pathlib.Path(__file__).parent / "saved"
GUIDED = {"bikd", "bikd_class_counts", "rwkd", "lfme"}


def train(model, name):
    (x, y), meta = models.arrays(24), models.arrays(8, seed=1)
    guide = {"meta_data": meta} if name in GUIDED else {}
    return model.fit(x, y, batch_size=8, shuffle=False, verbose=0, **guide).history["loss"]


@models.tensorflow_only
@pytest.mark.parametrize("name", [*sorted(GUIDED), "distillation", "learned_weights"])
def test_a_saved_model(name):
    model = keras.saving.load_model(SAVED / f"{name}.keras")
    x = models.arrays(24)[0][:4]
    with np.load(SAVED / f"{name}.npz") as expected:
        np.testing.assert_allclose(model.predict(x, verbose=0), expected["predictions"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(train(model, name), expected["loss"], rtol=1e-5)
        np.testing.assert_allclose(model.predict(x, verbose=0), expected["after"], rtol=1e-4, atol=1e-5)


def test_a_backup():
    student = models.perceptron(layers.Dropout(0.2), layers.BatchNormalization())
    model = bikd.BiKDModel(student, models.perceptron(), bikd.MetaWeightNet((4,)), inner_steps=2)
    adam = keras.optimizers.Adam(0.01)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), meta_optimizer=adam, metrics=["accuracy"])
    model.load_weights(SAVED / "bikd.weights.h5")
    whole = keras.saving.load_model(SAVED / "bikd.keras")
    models.assert_same_state(model, whole)
    assert int(model.optimizer.iterations) == 3


def test_a_manifest():
    data = bikd.data.load_manifest(SAVED / "manifest.json")
    bikd.data.check_manifest(SAVED / "manifest.json", data)
