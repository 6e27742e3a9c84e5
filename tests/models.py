"""Tiny models and data that the tests share."""

import inspect
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_bikd as bikd
from keras_bikd import backend

FEATURES, CLASSES = 6, 4
# It takes longer to optimise a graph of these sizes than to run it. Every process that compares numbers does the same.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

if keras.backend.backend() == "torch":
    import torch

    # As oneDNN in conftest.py: for 1x1 convolutions with strides of fewer channels than a vector (oneDNN issue 6035).
    torch.backends.mkldnn.enabled = False

GRAPH = {"run_eagerly": False}
EAGERLY = keras.backend.backend() == "tensorflow"  # on JAX every operation would be compiled by itself
SEED = int(os.environ.get("KERAS_BIKD_TEST_SEED", "0"))

tensorflow_only = pytest.mark.tensorflow  # nested tapes, strategies or SavedModels of TensorFlow

exports_saved_models = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="Keras' own export of a SavedModel fails with PyTorch 2.13"
)


def reseed():
    """The state in which every test begins."""
    keras.utils.set_random_seed(SEED)


def perceptron(*middle, features=FEATURES, classes=CLASSES, units=8):
    """Dense, whatever stands in the middle, logits."""
    return keras.Sequential([keras.Input((features,)), layers.Dense(units, "tanh"), *middle, layers.Dense(classes)])


RESNET = inspect.signature(bikd.networks.cifar_resnet)


def shallow_resnet(*args, **kwargs):
    """One convolution, to stand in the place of every `cifar_resnet`."""
    given = RESNET.bind(*args, **kwargs)
    given.apply_defaults()
    middle = [
        layers.Conv2D(16, 3, strides=2, use_bias=False),
        layers.BatchNormalization(momentum=0.8),
        layers.Activation("silu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(given.arguments["num_classes"]),
    ]
    return keras.Sequential([keras.Input(given.arguments["input_shape"]), *middle])


def arrays(samples=24, seed=0, features=FEATURES, classes=CLASSES):
    """Random inputs, and labels in which every class occurs."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(samples, features)).astype(keras.config.floatx())
    return x, generator.permutation(np.arange(samples) % classes)


def learnable(samples=24, seed=0):
    """Random inputs, and the largest of their first numbers as the label: any training makes it more likely."""
    x, _ = arrays(samples, seed)
    return x, x[:, :CLASSES].argmax(axis=1)


def expert():
    """A teacher that is right on learnable data."""
    teacher = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(CLASSES, use_bias=False)])
    teacher.set_weights([2 * np.eye(FEATURES, CLASSES)])
    return teacher


def cross_entropy(model, x, y):
    """Of the student, on average."""
    return float(keras.ops.convert_to_numpy(bikd.losses.hard_loss(y, model.student(x))).mean())


def compiled(student=None, teacher=None, *, learning_rate=0.1, meta_learning_rate=0.05, compile_arguments=(), **kwargs):
    """A compiled `BiKDModel` of tiny parts.

    On TensorFlow it runs eagerly unless told otherwise: a few of its steps take less time than one trace.
    """
    given = dict(compile_arguments)
    model = bikd.BiKDModel(student or perceptron(), teacher or perceptron(), bikd.MetaWeightNet((8,)), **kwargs)
    model.compile(
        optimizer=keras.optimizers.SGD(learning_rate, momentum=0.9),
        meta_optimizer=keras.optimizers.Adam(meta_learning_rate),
        **{"run_eagerly": EAGERLY and "jit_compile" not in given, **given},
    )
    return model


def distilled(student=None, teacher=None, *, compile_arguments=(), **kwargs):
    """A compiled `DistillationModel` of tiny parts."""
    objective = bikd.objectives.KnowledgeDistillation(temperature=4.0)
    model = bikd.DistillationModel(student or perceptron(), teacher or perceptron(), objective, **kwargs)
    model.compile(keras.optimizers.SGD(0.1), **{"run_eagerly": EAGERLY, **dict(compile_arguments)})
    return model


_KEPT = {}


def anew(make, *arguments):
    """The model that `make(*arguments)` returned the first time, as it was then, with the seed of the start of a test.

    Most of the time of a short training is its first step.
    """
    if (make, arguments) not in _KEPT:
        reseed()
        model = make(*arguments)
        _KEPT[make, arguments] = model, state_of(model)
    model, start = _KEPT[make, arguments]
    for variable, value in zip(_variables(model), start, strict=True):
        variable.assign(value)
    model.reset_metrics()
    reseed()
    return model


def dataset(data, batch_size=4):
    return tf.data.Dataset.from_tensor_slices(data).batch(batch_size)


class Batches(keras.utils.PyDataset):
    """Arrays in fixed batches, as a user would write it."""

    def __init__(self, data, batch_size=4, **kwargs):
        super().__init__(**kwargs)
        self.data, self.batch_size = data, batch_size

    @property
    def num_batches(self):
        return -(-len(self.data[1]) // self.batch_size)

    def __getitem__(self, index):
        rows = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return tuple(part[rows] for part in self.data)


def value_and_gradient(function, tensor):
    """Of a function of one tensor."""
    (value, _), (gradient,) = backend.value_and_grad(
        lambda primals: (function(*primals), None), [keras.ops.convert_to_tensor(tensor)]
    )
    return value, keras.ops.convert_to_numpy(gradient)


def value_and_gradients(function, variables):
    """Of a function without arguments, with respect to Keras variables; what it assigns is lost."""

    def at(values):
        with keras.StatelessScope(state_mapping=zip(variables, values)):
            return function(), None

    (value, _), gradients = backend.value_and_grad(at, backend.snapshot(variables))
    return value, [keras.ops.convert_to_numpy(gradient) for gradient in gradients]


def _variables(model):
    return [*model.variables, *model.optimizer.variables]


def state_of(model):
    """Every number a training step may change."""
    return [v.numpy() for v in _variables(model)]


def assert_same_state(a, b):
    for left, right in zip(state_of(a), state_of(b), strict=True):
        np.testing.assert_array_equal(left, right)
