"""The hypergradient, four ways: by hand, finite differences, Eq. (6), and through a real model."""

import keras
import numpy as np
import pytest
from keras import ops

import models
from keras_bikd import backend, losses
from keras_bikd.bilevel.hypergradient import one_step_hypergradient

pytestmark = pytest.mark.backend

float64 = pytest.mark.parametrize("floatx", ["float64"], indirect=True)


@float64
@pytest.mark.parametrize("learning_rate", [0.05, 0.3])
def test_analytic_quadratic(floatx, learning_rate):
    """Inner loss phi_0 (theta - a)^2 + phi_1 (theta - b)^2, outer loss (theta - c)^2, all by hand."""
    theta, phi, a, b, c = 0.7, np.array([0.6, 1.3]), 2.0, -1.0, 0.4
    step = one_step_hypergradient(
        lower_level=lambda theta: ((ops.stack([(theta[0] - a) ** 2, (theta[0] - b) ** 2]),), ops.convert_to_tensor(7)),
        weigh=lambda phi, aux: (phi[0],),
        upper_loss=lambda theta: (theta[0] - c) ** 2,
        theta=[ops.convert_to_tensor(theta, "float64")],
        phi=[ops.convert_to_tensor(phi)],
        learning_rate=learning_rate,
    )
    slopes = np.array([2 * (theta - a), 2 * (theta - b)])
    virtual = theta - learning_rate * phi @ slopes
    np.testing.assert_allclose(step.gradient[0], phi @ slopes, rtol=1e-12)
    np.testing.assert_allclose(step.meta_loss, (virtual - c) ** 2, rtol=1e-12)
    np.testing.assert_allclose(step.hypergradient[0], -learning_rate * 2 * (virtual - c) * slopes, rtol=1e-12)
    np.testing.assert_allclose(step.pullback((ops.convert_to_tensor(np.array([1.0, 0.0])),))[0], slopes[0])
    assert int(step.forward) == 7


@pytest.mark.parametrize("due", [True, False])
def test_a_condition_takes_one_side(due):
    sides = (lambda: [ops.ones(2), ops.zeros(())]), (lambda: [2 * ops.ones(2), ops.ones(())])
    found = backend.cond(ops.convert_to_tensor(due), *sides)
    for part, expected in zip(found, sides[0 if due else 1]()):
        np.testing.assert_array_equal(part, expected)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="about XLA on a CPU")
def test_on_a_cpu_a_condition_is_a_selection():
    """Inside a condition of XLA a convolution's backward pass takes some thirty times as long."""
    jax = pytest.importorskip("jax")
    step = jax.make_jaxpr(lambda due, x: backend.cond(due, lambda: x * x, lambda: x))(True, 2.0)
    assert "select_n" in str(step)
    assert "cond" not in str(step)


def problem(**kwargs):
    """A model with batch norm, a training batch and a meta batch, all in float64."""
    student = models.perceptron(keras.layers.BatchNormalization())
    model = models.compiled(student, learning_rate=0.5, **kwargs)
    return model, models.arrays(12, seed=1), models.arrays(8, seed=2)


@float64
@pytest.mark.parametrize("meta_loss", ["hard", "soft", "mixed"])
def test_finite_differences(floatx, meta_loss):
    model, batch, meta_batch = problem(meta_loss=meta_loss, temperature=3.0)
    _, hypergradient = model.hypergradient(batch, meta_batch)
    phi, generator, h = model.weight_net.trainable_variables, np.random.default_rng(0), 1e-5
    start = [v.numpy() for v in phi]
    for _ in range(3):
        direction = [generator.normal(size=v.shape) for v in phi]
        values = []
        for sign in (1, -1):
            for v, value, d in zip(phi, start, direction):
                v.assign(value + sign * h * d)
            values.append(float(model.hypergradient(batch, meta_batch)[0]))
        slope = (values[0] - values[1]) / (2 * h)
        along = sum(float(ops.sum(g * ops.convert_to_tensor(d))) for g, d in zip(hypergradient, direction))
        np.testing.assert_allclose(along, slope, rtol=1e-6)


@float64
def test_closed_form_of_equation_6(floatx):
    """hypergradient = d/dphi of -(eta/B) sum_i (a_i w_i^hard + b_i w_i^soft), a and b by explicit per-sample gradients.

    The meta gradient is taken at theta', the gradients of the samples at theta.
    """
    model, (x, y), (meta_x, meta_y) = problem()
    student, eta = model.student, 0.5
    theta, moving = student.trainable_variables, [v.numpy() for v in student.non_trainable_variables]
    start = [v.numpy() for v in theta]
    teacher_logits = model.teacher(x, training=False)

    def loss_of(i, kind):
        logits = student(x, training=True)
        soft = losses.soft_loss(teacher_logits, logits, model.temperature)
        return (losses.hard_loss(y, logits), soft)[kind][i]

    per_sample = [
        [models.value_and_gradients(lambda i=i, kind=kind: loss_of(i, kind), theta)[1] for kind in range(2)]
        for i in range(len(y))
    ]
    seen = ops.stack([losses.hard_loss(y, logits) for logits in (teacher_logits, student(x, training=True))], axis=-1)
    weights = ops.convert_to_numpy(model.weight_net(seen))

    for k, v in enumerate(student.trainable_variables):
        step = sum(weights[i, j] * per_sample[i][j][k] for i in range(len(y)) for j in range(2)) / len(y)
        v.assign(start[k] - eta * step)
    meta_loss, g_val = models.value_and_gradients(
        lambda: ops.mean(losses.hard_loss(meta_y, student(meta_x, training=True))), theta
    )
    products = np.array([[sum(np.sum(a * b) for a, b in zip(g_val, g)) for g in row] for row in per_sample])
    _, expected = models.value_and_gradients(
        lambda: -eta / len(y) * ops.sum(ops.convert_to_tensor(products) * model.weight_net(seen)),
        model.weight_net.trainable_variables,
    )

    for v, value in zip([*student.trainable_variables, *student.non_trainable_variables], [*start, *moving]):
        v.assign(value)
    value, hypergradient = model.hypergradient((x, y), (meta_x, meta_y))
    np.testing.assert_allclose(value, meta_loss, rtol=1e-12)
    for actual, wanted in zip(hypergradient, expected):
        np.testing.assert_allclose(actual, wanted, rtol=1e-9, atol=1e-15)


@float64
def test_no_gradient_flows_through_the_inputs_of_the_weight_net(floatx):
    """The real step with inner_steps never due moves theta along the weighted losses with the weights held fixed."""
    model, (x, y), meta_batch = problem(inner_steps=10)
    model.hypergradient((x, y), meta_batch)
    theta = model.student.trainable_variables
    start, teacher_logits = [v.numpy() for v in theta], model.teacher(x, training=False)

    def weighted_loss():
        logits = model.student(x, training=True)
        hard = losses.hard_loss(y, logits)
        seen = ops.stack([losses.hard_loss(y, teacher_logits), hard], axis=-1)
        weights = ops.stop_gradient(model.weight_net(seen))
        soft = losses.soft_loss(teacher_logits, logits, model.temperature)
        return ops.mean(weights[:, 0] * hard + weights[:, 1] * soft)

    _, gradient = models.value_and_gradients(weighted_loss, theta)
    model.train_on_batch((x, y), meta_batch)
    for before, after, g in zip(start, theta, gradient):
        np.testing.assert_allclose(after.numpy(), before - 0.5 * g, rtol=1e-9, atol=1e-14)


def test_changes_no_state():
    student = models.perceptron(keras.layers.BatchNormalization(), keras.layers.Dropout(0.5, seed=1))
    model = models.compiled(student)
    batch, meta_batch = models.arrays(12), models.arrays(8, seed=1)
    model.train_on_batch(batch, meta_batch)
    before = models.state_of(model)
    metrics = [v.numpy() for v in model.metrics_variables]
    first = model.hypergradient(batch, meta_batch)
    second = model.hypergradient(batch, meta_batch)
    for left, right in zip(before, models.state_of(model)):
        np.testing.assert_array_equal(left, right)
    for left, right in zip(metrics, model.metrics_variables):
        np.testing.assert_array_equal(left, right.numpy())
    for left, right in zip(first[1], second[1]):
        np.testing.assert_array_equal(left, right)
