"""The hypergradient without second derivatives: it is the exact one, up to an error that the float type decides."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import models
from keras_bikd.bilevel.hypergradient import Difference, one_step_hypergradient

BY_DIFFERENCE = {"hypergradient": "forward_difference"}


def attention():
    """Whatever may go wrong in a second forward pass: dropout masks, attention, normalisation, an embedding of rows."""
    inputs = keras.Input((models.FEATURES,))
    x = layers.Reshape((models.FEATURES, 1))(inputs)
    x = layers.LayerNormalization()(layers.Dense(8)(x))
    x = x + layers.MultiHeadAttention(2, 4, dropout=0.3, seed=1)(x, x)
    x = layers.Dropout(0.4, seed=2)(layers.Dense(8, "gelu")(layers.LayerNormalization()(x)))
    return keras.Model(inputs, layers.Dense(models.CLASSES)(layers.Flatten()(x)))


def normalised():
    return models.perceptron(layers.BatchNormalization(), layers.Dropout(0.3, seed=1))


def flat(hypergradient):
    return np.concatenate([np.ravel(ops.convert_to_numpy(part)).astype("float64") for part in hypergradient])


def both(student, steps=0, data=models.arrays, **kwargs):
    """The hypergradient of one model, exact and by differences, after some steps."""
    model = models.compiled(student, learning_rate=0.05, **kwargs)
    batch, meta_batch = data(12, seed=1), data(8, seed=2)
    for _ in range(steps):
        model.train_on_batch(batch, meta_batch)
    found = []
    for form in ("exact", "forward_difference"):
        model.hypergradient_form, model._differentiate = form, None
        found.append(model.hypergradient(batch, meta_batch))
    (loss, exact), (same_loss, rough) = found
    np.testing.assert_allclose(loss, same_loss, rtol=1e-6)
    return flat(exact), flat(rough)


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.backend
@pytest.mark.parametrize("floatx", ["float64"], indirect=True)
@pytest.mark.parametrize("compute_dtype", ["float64", "float16"])
def test_analytic_quadratic(floatx, compute_dtype):
    """As in `test_hypergradient.py`: the losses (theta - a)^2 and (theta - b)^2, judged by (theta - c)^2."""
    theta, phi, a, b, c, rate = 0.7, np.array([0.6, 1.3]), 2.0, -1.0, 0.4, 0.3

    def losses_of(outputs):
        (logits,) = outputs
        return ops.stack([(logits - a) ** 2, (logits - b) ** 2]), None

    step = one_step_hypergradient(
        lower_level=lambda theta: (losses_of(theta), theta),
        weigh=lambda phi, aux: (phi[0], None),
        upper_loss=lambda theta: (theta[0] - c) ** 2,
        theta=[ops.convert_to_tensor(theta, "float64")],
        phi=[ops.convert_to_tensor(phi)],
        learning_rate=rate,
        difference=Difference(lambda theta: theta, losses_of, lambda forward: forward, compute_dtype),
    )
    slopes = np.array([2 * (theta - a), 2 * (theta - b)])
    virtual = theta - rate * phi @ slopes
    np.testing.assert_allclose(step.gradient[0], phi @ slopes, rtol=1e-12)
    np.testing.assert_allclose(step.hypergradient[0], -rate * 2 * (virtual - c) * slopes, rtol=1e-6)


@pytest.mark.backend
@pytest.mark.parametrize("floatx", ["float64"], indirect=True)
@pytest.mark.parametrize("student", [normalised, attention])
def test_it_is_the_exact_hypergradient(floatx, student):
    exact, rough = both(student(), meta_loss="mixed")
    assert np.linalg.norm(exact - rough) <= 1e-5 * np.linalg.norm(exact)


@pytest.mark.parametrize(("student", "steps"), [(normalised, 5), (attention, 0)])
def test_direction_in_float32(student, steps):
    assert cosine(*both(student(), steps)) >= 0.9999


@pytest.mark.parametrize(("policy", "least"), [("mixed_float16", 0.999), ("mixed_bfloat16", 0.95)])
def test_direction_in_16_bits(policy, least):
    keras.config.set_dtype_policy(policy)
    try:
        found = both(models.perceptron(), data=models.learnable, teacher=models.expert())
        assert cosine(*found) >= least
    finally:
        keras.config.set_dtype_policy("float32")


@keras.saving.register_keras_serializable(package="tests")
class OnceDifferentiable(layers.Layer):
    """A hyperbolic tangent whose gradient has no gradient, like those of cuDNN's recurrent layers."""

    def call(self, x):
        backend = keras.backend.backend()
        if backend == "tensorflow":
            import tensorflow as tf

            @tf.custom_gradient
            def times_slope(dy, y):
                def no_second_derivative(*_):
                    raise NotImplementedError("a second derivative")

                return dy * (1 - y**2), no_second_derivative

            @tf.custom_gradient
            def tanh(x):
                y = tf.tanh(x)
                return y, lambda dy: times_slope(dy, y)

            return tanh(x)
        if backend == "jax":
            import jax

            tanh = jax.custom_vjp(ops.tanh)
            tanh.defvjp(lambda x: (ops.tanh(x),) * 2, lambda y, dy: (_opaque_product(dy, y),))
            return tanh(x)
        return _torch_tanh()(x)


def _opaque_product(dy, y):
    import jax

    return jax.pure_callback(lambda dy, y: dy * (1 - y**2), jax.ShapeDtypeStruct(dy.shape, dy.dtype), dy, y)


def _torch_tanh():
    import torch

    class Tanh(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            y = torch.tanh(x)
            context.save_for_backward(y)
            return y

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(context, dy):
            (y,) = context.saved_tensors
            return dy * (1 - y**2)

    return Tanh.apply


def test_a_student_without_second_derivatives():
    """The exact hypergradient needs them; the difference gives that of a student which has them."""
    batch, meta_batch = models.arrays(12, seed=1), models.arrays(8, seed=2)
    student = keras.Sequential(
        [keras.Input((models.FEATURES,)), layers.Dense(8), OnceDifferentiable(), layers.Dense(4)]
    )
    model = models.compiled(student, compile_arguments=BY_DIFFERENCE)
    twin = models.compiled(models.perceptron(), model.teacher)
    twin.student.set_weights(student.get_weights())
    twin.weight_net.set_weights(model.weight_net.get_weights())
    _, exact = twin.hypergradient(batch, meta_batch)
    _, rough = model.hypergradient(batch, meta_batch)
    assert cosine(flat(exact), flat(rough)) >= 0.9999
    model.train_on_batch(batch, meta_batch)
    if keras.backend.backend() != "torch":  # which leaves out what it cannot differentiate twice
        with pytest.raises((NotImplementedError, ValueError), match=r"second derivative|pure_callback|Pure callbacks"):
            models.compiled(student).hypergradient(batch, meta_batch)


def test_it_is_stored_with_the_model(tmp_path):
    model = models.compiled(inner_steps=4, compile_arguments=BY_DIFFERENCE)
    model.fit(*models.arrays(), 4, meta_data=models.arrays(8), verbose=0)
    assert sum(float(ops.sum(ops.abs(ops.convert_to_tensor(own)))) for own in model.optimizer.hypergradients) > 0
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").hypergradient_form == "forward_difference"
