"""What differs between Keras backends: differentiation, reduction over replicas, applying an optimizer.

Everything else in the library is `keras.ops`. A further backend is one more file with the same names.
"""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "keras_bikd trains on the TensorFlow backend. "
        f"Received: keras.backend.backend() = {keras.backend.backend()!r}. "
        "Set the environment variable KERAS_BACKEND=tensorflow before importing keras."
    )

from keras_bikd.backend.tensorflow import (
    BackendModel,
    all_reduce_sum,
    compiled,
    num_replicas,
    scope_of,
    value_and_grad,
    values,
    vjp,
)

__all__ = ["BackendModel", "all_reduce_sum", "compiled", "num_replicas", "scope_of", "value_and_grad", "values", "vjp"]
