"""Fixtures: a fixed seed for every test, and float64 where a test asks for it."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# oneDNN's filter gradient of TensorFlow 2.21 corrupts memory at some channel counts below 8 (a plain Keras `fit` of a
# ResNet with widths 4, 8, 8, 8 at batch 5 crashes too), and tests use tiny networks.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import keras
import pytest


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture
def floatx(request):
    """The default float type, set for one test: `@pytest.mark.parametrize("floatx", [...], indirect=True)`."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(request.param)
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])
