"""Fixtures: a fixed seed for every test (KERAS_BIKD_TEST_SEED), and float64 where a test asks for it."""

import gc
import os
import pathlib
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# oneDNN's filter gradient of TensorFlow 2.21 corrupts memory where a convolution has 8 channels or fewer and the batch
# is odd or tiny: a plain Keras `fit` of a ResNet with widths 8, 8, 8, 8 at batch 5 crashes. Tests train wider ones.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("JAX_ENABLE_X64", "1")
# Most of the time of a test is tracing and compiling.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Without its newer emitters of fused operations XLA compiles a step in half the time.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false",
)
# What one worker has compiled, the others and the next run need not, nor another clone. A test that starts a process
# hands it on.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"), "keras_bikd", "jax")),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import pytest


def pytest_configure(config):
    """Import Keras before warnings are errors; not in the process that starts workers, which would start them later."""
    if not config.getoption("numprocesses", None):
        import models  # noqa: F401


def pytest_collection_modifyitems(config, items):
    """Leave out what only TensorFlow has, on another backend. Docstrings show numbers as TensorFlow prints them."""
    for item in items:
        if not isinstance(item, pytest.Function):
            item.add_marker("tensorflow")
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        elsewhere = [item for item in items if "tensorflow" in item.keywords]
        items[:] = [item for item in items if "tensorflow" not in item.keywords]
        config.hook.pytest_deselected(items=elsewhere)


def pytest_collection_finish():
    """The garbage collector need not look through all of TensorFlow again each time that it frees graphs."""
    gc.freeze()
    gc.set_threshold(100_000, 2, 2)


@pytest.fixture(autouse=True)
def seeded():
    import models

    models.reseed()


@pytest.fixture
def floatx(request):
    """The default float type, set for one test: `@pytest.mark.parametrize("floatx", [...], indirect=True)`."""
    import keras
    from keras.src.backend.common import dtypes

    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(request.param)
    keras.config.set_dtype_policy(request.param)
    # On JAX, operations of Keras return float32 for float64, by this table and even where JAX has 64 bits.
    with mock.patch.dict(dtypes.BIT64_TO_BIT32_DTYPE, float64="float64"):
        yield request.param
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])
