"""Numbers from the authors' code, and how to compare with them. Layout and tolerances: `golden/README.md`."""

import functools
import pathlib

import keras
import numpy as np

FOLDER = pathlib.Path(__file__).parent / "golden"
FLOAT32_TOLERANCE = {"mlp": 1e-5, "resnet": 1e-4, "trajectory": 1e-5, "weight_net": 1e-6, "losses": 1e-5}


@functools.cache
def load(name):
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return dict(arrays)


def names(data, quantity):
    """Tensor names of a quantity in Keras layout, in the order of the variables of the layers."""
    prefix = f"keras.{quantity}."
    found = [key.removeprefix(prefix) for key in data if key.startswith(prefix)]
    return [name for name in found if not name.endswith("student_first")]


def tensors(data, quantity, order=None):
    order = order or names(data, quantity)
    return [data[f"keras.{quantity}.{name}"] for name in order]


def assert_close(actual, expected, tolerance, elementwise=False, what=""):
    """Largest error relative to the largest entry; element by element against entries of at least 1e-3 of it."""
    actual, expected = np.asarray(keras.ops.convert_to_numpy(actual)), np.asarray(expected)
    assert actual.shape == expected.shape, what
    largest = np.abs(expected).max()
    if largest < 1e-12:
        assert np.abs(actual).max() <= (1e-12 if tolerance <= 1e-9 else 1e-4), what
        return
    error = np.abs(actual - expected)
    assert error.max() <= tolerance * largest, (what, error.max() / largest)
    if elementwise:
        floor = np.maximum(np.abs(expected), 1e-3 * largest)
        assert (error / floor).max() <= tolerance, (what, (error / floor).max())


def assert_all_close(actual, expected, tolerance, elementwise=False, what=""):
    assert len(actual) == len(expected), what
    for i, (a, e) in enumerate(zip(actual, expected)):
        assert_close(a, e, tolerance, elementwise, f"{what}[{i}]")


def mlp(sizes, activation, kernels):
    """The golden student: dense layers, linear logits, with the given weights."""
    model = keras.Sequential(
        [
            keras.Input((int(sizes[0]),)),
            *[keras.layers.Dense(int(units), activation=str(activation)) for units in sizes[1:-1]],
            keras.layers.Dense(int(sizes[-1])),
        ]
    )
    model.set_weights(kernels)
    return model


class WithTeacherColumn(keras.Model):
    """A student whose inputs are `{"x": ..., "teacher_logits": ...}`; it looks at `x`."""

    def __init__(self, net, **kwargs):
        super().__init__(**kwargs)
        self.net = net

    def call(self, inputs, training=None):
        return self.net(inputs["x"], training=training)


class TableTeacher(keras.Model):
    """The teacher of the golden data: its logits are part of the inputs."""

    def call(self, inputs):
        return inputs["teacher_logits"]


def batch(data, split, inputs="inputs", step=None):
    """`(x, y)` of a golden case, with the teacher's logits in `x`."""
    pick = (lambda array: array) if step is None else (lambda array: array[step])
    dtype = keras.config.floatx()
    x = {
        "x": pick(data[f"input.{split}_{inputs}"]).astype(dtype),
        "teacher_logits": pick(data[f"input.{split}_teacher_logits"]).astype(dtype),
    }
    return x, pick(data[f"input.{split}_labels"])
