"""Long trainings: memory does not grow, and the step is traced once."""

import gc
import pathlib

import keras
import numpy as np
import pytest
from keras import layers

import keras_bikd as bikd
import models

STATUS = pathlib.Path("/proc/self/status")


def resident_mebibytes():
    gc.collect()  # what refers to itself is no leak
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


class Counted(keras.Model):
    """Counts how often Python runs through it: once per trace, twice per step of BiKD."""

    def __init__(self):
        super().__init__()
        self.dense, self.calls = layers.Dense(models.CLASSES), 0

    def call(self, inputs, training=None):
        self.calls += 1
        return self.dense(inputs)


@pytest.mark.parametrize("kind", ["train_on_batch", "fit"])
def test_nothing_is_traced_after_the_second_step(kind):
    student = Counted()
    model = models.compiled(student, inner_steps=2, compile_arguments=models.GRAPH)
    batch, meta_batch = models.arrays(8), models.arrays(8, seed=1)
    once = {
        "train_on_batch": lambda: model.train_on_batch(batch, meta_batch),
        "fit": lambda: model.fit(*batch, meta_data=meta_batch, batch_size=4, verbose=0),
    }[kind]
    for _ in range(2):
        once()
    before = student.calls
    for _ in range(5):
        once()
    # `fit` looks at a few samples before it starts, without a gradient.
    assert student.calls - before <= (5 if kind == "fit" else 0)


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="reads the memory of the process from /proc")
@pytest.mark.parametrize("kind", ["train_on_batch", "fit"])
def test_a_thousand_steps_need_no_more_memory_than_two_hundred(kind):
    student = models.perceptron(layers.BatchNormalization(), layers.Dropout(0.2))
    model = models.compiled(student, inner_steps=5, compile_arguments=models.GRAPH)
    batch, meta_batch = models.arrays(160), models.arrays(64, seed=1)
    two_hundred = {
        "train_on_batch": lambda: [model.train_on_batch(batch, meta_batch) for _ in range(200)],
        "fit": lambda: [model.fit(*batch, meta_data=meta_batch, batch_size=8, epochs=5, verbose=0) for _ in range(2)],
    }[kind]
    sizes = []
    for _ in range(5):
        two_hundred()
        sizes.append(resident_mebibytes())
    assert int(model.optimizer.iterations) == 1000
    # What leaks grows in each two hundred steps; an allocator takes another arena in some of them.
    assert min(np.diff(sizes)) < 2.4


def rwkd(compile_arguments):
    model = bikd.RWKDModel(models.perceptron(), models.perceptron())
    model.compile("sgd", **compile_arguments)
    return model


def graphs():
    gc.collect()
    return sum(type(found).__name__ == "FuncGraph" for found in gc.get_objects())


@models.tensorflow_only
@pytest.mark.parametrize("make", [models.compiled, models.distilled, rwkd])
def test_nothing_keeps_the_graphs_of_a_model_that_is_gone(make):
    def train():
        model = make(compile_arguments=models.GRAPH)
        other = {} if make is models.distilled else {"meta_data": models.arrays(8, seed=1)}
        model.fit(*models.arrays(8), **other, batch_size=4, verbose=0)
        model.evaluate(*models.arrays(8), verbose=0)
        return model

    before = graphs()
    model = train()
    assert graphs() > before  # it is a graph that is counted
    del model
    assert graphs() <= before
