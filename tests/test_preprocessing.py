"""A model with a preprocessor, as keras-hub's classifiers have one, is refused with what to do instead."""

import keras
import numpy as np
import pytest

import keras_bikd as bikd
import models
from keras_bikd.objectives import KnowledgeDistillation

SCALE = 0.25
X, Y = models.arrays(24)


@keras.saving.register_keras_serializable(package="tests")
class Classifier(keras.Model):
    """The protocol of `keras_hub.models.Task`: `preprocessor`, and `preprocess_samples` in front of every batch."""

    def __init__(self, classes=models.CLASSES, **kwargs):
        super().__init__(**kwargs)
        self.classes = classes
        self.preprocessor = keras.layers.Rescaling(SCALE)
        self.dense = keras.layers.Dense(classes)
        self.dense.build((None, models.FEATURES))
        self.built = True

    def preprocess_samples(self, x, y=None, sample_weight=None):
        return x if self.preprocessor is None else self.preprocessor(x), y, sample_weight

    def call(self, inputs):
        return self.dense(inputs)

    def get_config(self):
        return {"classes": self.classes}


@pytest.mark.parametrize("kind", ["DistillationModel", "BiKDModel", "RWKDModel"])
@pytest.mark.parametrize("role", ["student", "teacher", "path", "experts"])
def test_a_preprocessor_is_refused(kind, role, tmp_path):
    teachers = {"student": models.perceptron(), "teacher": Classifier(), "path": tmp_path / "teacher.keras"}
    teachers["teacher"].save(teachers["path"])
    teachers["experts"] = bikd.Experts([Classifier(2), Classifier(2)], [[0, 1], [2, 3]])
    student = Classifier() if role == "student" else models.perceptron()
    own = [KnowledgeDistillation()] if kind == "DistillationModel" else []
    name = "student" if role == "student" else "teacher"
    with pytest.raises(ValueError, match=rf"{kind}\({name}=\.\.\.\)`.*data\.map.*`{name}\.preprocessor = None`"):
        getattr(bikd, kind)(student, teachers[role], *own)


def test_what_the_refusal_says_trains():
    student = Classifier()
    x, y = keras.ops.convert_to_numpy(student.preprocessor(X / SCALE)), Y
    student.preprocessor = None
    model = bikd.DistillationModel(student, models.perceptron(), KnowledgeDistillation())
    model.compile("sgd", run_eagerly=models.EAGERLY)
    model.fit(x, y, verbose=0)
    np.testing.assert_allclose(model.predict(x, verbose=0), student.predict(X, verbose=0), rtol=1e-5, atol=1e-6)
