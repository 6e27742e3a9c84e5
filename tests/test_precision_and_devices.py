"""Precision, compilation, several devices: the same training everywhere."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import forks
import keras_bikd as bikd
import models

# How far the hypergradient may be from float64, relative to its largest entry: a few units of the compute type's last
# place, which the second-order pass and a sum over 12 samples multiply.
TOLERANCE = {"float32": 1e-5, "mixed_float16": 2e-2, "mixed_bfloat16": 1e-1}
RUNS = {"eager": {"run_eagerly": True}, "graph": models.GRAPH, "jit": {"jit_compile": True}}


@pytest.fixture
def policy(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


def student_and_model(reference, **kwargs):
    """A student with batch norm and the weights of `reference`, and its model."""
    student = models.perceptron(layers.BatchNormalization())
    model = models.compiled(student, **kwargs)
    if reference is not None:
        for ours, theirs in ((student, reference.student), (model.teacher, reference.teacher)):
            ours.set_weights(theirs.get_weights())
        model.weight_net.set_weights(reference.weight_net.get_weights())
    return model


@pytest.mark.parametrize("policy", TOLERANCE, indirect=True)
def test_hypergradient_agrees_with_float64(policy):
    model = student_and_model(None)
    (x, y), (meta_x, meta_y) = models.arrays(12), models.arrays(8, seed=1)
    _, rough = model.hypergradient((x, y), (meta_x, meta_y))
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        exact_model = student_and_model(model)
        pair = (x.astype("float64"), y), (meta_x.astype("float64"), meta_y)
        _, exact = exact_model.hypergradient(*pair)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    largest = max(np.abs(g).max() for g in exact)
    error = max(np.abs(np.asarray(a, "float64") - b).max() for a, b in zip(rough, exact))
    assert error <= TOLERANCE[policy] * largest


@pytest.mark.backend
@pytest.mark.parametrize("policy", TOLERANCE, indirect=True)
def test_the_logged_meta_loss_is_that_of_the_meta_batch(policy):
    """With a student that stands still; under float16 both levels multiply their losses by a scale of thousands."""
    model = student_and_model(None, learning_rate=0.0, inner_steps=1)
    x, y = meta = models.arrays(8, seed=1)
    logs = model.train_on_batch(models.arrays(12), meta, return_dict=True)
    by_hand = bikd.losses.hard_loss(y, keras.ops.cast(model.student(x, training=True), "float32"))
    expected = keras.ops.convert_to_numpy(by_hand).mean()
    assert logs["meta_loss"] == pytest.approx(expected, rel={"float32": 1e-5}.get(policy, 1e-2))


# Every way to run and every policy with either k. Eager steps of JAX would compile each operation by itself.
COMBINATIONS = [
    *(("graph", 1, "float32", 1), ("graph", 7, "mixed_float16", 5), ("graph", 1, "mixed_bfloat16", 5)),
    *(("jit", 1, "mixed_float16", 1), ("jit", 7, "mixed_bfloat16", 1), ("jit", 7, "float32", 5)),
]
ON_TENSORFLOW = [("eager", 1, "mixed_float16", 5), ("graph", 7, "mixed_bfloat16", 1), ("jit", 7, "mixed_float16", 1)]


@pytest.mark.parametrize(
    ("run", "steps_per_execution", "policy", "inner_steps"),
    [*COMBINATIONS, *(pytest.param(*case, marks=models.tensorflow_only) for case in ON_TENSORFLOW)],
    indirect=["policy"],
)
def test_a_combination_trains(policy, run, steps_per_execution, inner_steps):
    arguments = {**RUNS[run], "steps_per_execution": steps_per_execution}
    kwargs = {"learning_rate": 0.02, "inner_steps": inner_steps, "compile_arguments": arguments}
    model = student_and_model(None, teacher=models.expert(), **kwargs)
    data = models.learnable(28)
    history = model.fit(*data, meta_data=data, batch_size=4, epochs=4, verbose=0).history
    assert int(model.optimizer.iterations) == 28
    # A dynamic loss scale starts high, and finds its place by skipping updates that overflow.
    updates = int(model.meta_optimizer.iterations)
    assert updates == 28 // inner_steps or (policy == "mixed_float16" and 2 <= updates < 28 // inner_steps)
    assert all(np.isfinite(state).all() for state in models.state_of(model))
    assert history["student_loss"][-1] < 0.9 * history["student_loss"][0]


def test_a_float64_student_beside_a_float32_weight_net():
    student = keras.Sequential([keras.Input((6,), dtype="float64"), layers.Dense(4, dtype="float64")])
    model = models.compiled(student)
    x, y = models.arrays(12)
    model.train_on_batch((x.astype("float64"), y), (x.astype("float64"), y))
    assert student.weights[0].dtype == "float64"
    assert np.isfinite(student.weights[0].numpy()).all()


@models.tensorflow_only
def test_several_workers_are_refused_with_a_way_out(monkeypatch):
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", tf.distribute.OneDeviceStrategy)
    with (
        tf.distribute.OneDeviceStrategy("CPU:0").scope(),
        pytest.raises(ValueError, match=r"KERAS_BACKEND=jax.*DataParallel.*MirroredStrategy"),
    ):
        models.compiled().fit(*models.arrays(), meta_data=models.arrays(8), verbose=0)


@models.tensorflow_only
@pytest.mark.slow
def test_two_replicas_end_where_one_does():
    """Twenty batches, updates of the weight network every third: every number of model, optimizers and logs.

    Every metric too. In a process of its own, because devices can be split only before TensorFlow has started.
    """
    results = json.loads(forks.start("two_replicas.py").communicate().splitlines()[-1])
    assert results["replicas"] == 2
    assert results["float64"] <= 1e-12
    assert results["mixed_float16"] <= 2e-3
    assert results["forward_difference"] <= 1e-5  # the rounding errors of a difference differ
    one, two = results["metrics"]
    assert len(one) == 11
    assert two == pytest.approx(one, rel=1e-5)
