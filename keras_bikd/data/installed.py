"""Which of the optional packages are installed; none is imported to find out."""

import importlib.util


def has_tensorflow() -> bool:
    """Whether TensorFlow is installed: `load` then makes `tf.data` pipelines, and else Grain data sets."""
    return importlib.util.find_spec("tensorflow") is not None


def has_grain() -> bool:
    """Whether Grain is installed."""
    return importlib.util.find_spec("grain") is not None
