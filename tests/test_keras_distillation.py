"""Losses of `keras.distillation` as candidate losses."""

import keras
import numpy as np
import pytest

import keras_bikd as bikd
import models
from keras_bikd import objectives

TEACHER, STUDENT = np.random.default_rng(0).normal(size=(2, 6, models.CLASSES)).astype("float32") * 2
LABELS = np.arange(6) % models.CLASSES


def divergence(temperature=4.0):
    return keras.distillation.LogitsDistillation(temperature, loss=keras.losses.KLDivergence())


class Margin(keras.distillation.DistillationLoss):
    """A loss of the user's own."""

    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        return keras.ops.mean(keras.ops.relu(teacher_outputs - student_outputs))


@pytest.mark.tensorflow
def test_every_sample_has_the_loss_that_keras_gives_to_a_batch_of_it():
    for loss in (divergence(), keras.distillation.FeatureDistillation("mse"), Margin()):
        found = keras.ops.convert_to_numpy(objectives.KerasDistillation(loss=loss)(LABELS, TEACHER, STUDENT))
        alone = [float(loss.compute_loss(TEACHER[i : i + 1], STUDENT[i : i + 1])) for i in range(6)]
        np.testing.assert_allclose(found, alone, rtol=1e-5)
        np.testing.assert_allclose(found.mean(), float(loss.compute_loss(TEACHER, STUDENT)), rtol=1e-5)


@pytest.mark.tensorflow
def test_keras_loss_in_bikd_is_the_soft_loss_of_the_paper(tmp_path):
    train, meta = models.arrays(), models.arrays(8, seed=1)
    candidates = {
        "paper": {"hard": objectives.CrossEntropy(), "soft": objectives.SoftTargets(temperature=4.0)},
        "keras": {"hard": objectives.CrossEntropy(), "soft": objectives.KerasDistillation(loss=divergence())},
    }
    found = {}
    for name, losses in candidates.items():
        models.reseed()
        model = bikd.BiKDModel(models.perceptron(), models.perceptron(), candidate_losses=losses, inner_steps=1)
        model.compile(keras.optimizers.SGD(0.1))
        model.fit(*train, meta_data=meta, batch_size=8, shuffle=False, verbose=0)
        found[name] = model.predict(train[0], verbose=0)
    np.testing.assert_allclose(found["keras"], found["paper"], rtol=1e-3, atol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    runs = [m.fit(*train, meta_data=meta, shuffle=False, verbose=0).history["loss"] for m in (model, loaded)]
    assert runs[0] == runs[1]


def test_what_is_no_loss_of_keras_is_refused():
    with pytest.raises(ValueError, match="needs no wrapper"):
        objectives.KerasDistillation(loss=lambda labels, teacher, student: student)
