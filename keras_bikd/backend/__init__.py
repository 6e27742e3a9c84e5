"""What differs between Keras backends: differentiation, reduction over replicas, applying an optimizer.

Everything else in the library is `keras.ops`. A further backend is one more file with the same names.
"""

import keras

if keras.backend.backend() == "tensorflow":
    from keras_bikd.backend.tensorflow import (
        BackendModel,
        all_reduce_sum,
        apply,
        compiled,
        cond,
        num_replicas,
        processes,
        scope_of,
        value_and_grad,
        values,
        vjp,
    )
elif keras.backend.backend() == "jax":
    from keras_bikd.backend.jax import (
        BackendModel,
        all_reduce_sum,
        apply,
        compiled,
        cond,
        num_replicas,
        processes,
        scope_of,
        value_and_grad,
        values,
        vjp,
    )
else:
    raise ImportError(
        "keras_bikd trains on the TensorFlow and the JAX backend. "
        f"Received: keras.backend.backend() = {keras.backend.backend()!r}. "
        "Set the environment variable KERAS_BACKEND to tensorflow or jax before importing keras."
    )

__all__ = [
    "BackendModel",
    "all_reduce_sum",
    "apply",
    "compiled",
    "cond",
    "num_replicas",
    "processes",
    "scope_of",
    "value_and_grad",
    "values",
    "vjp",
]
