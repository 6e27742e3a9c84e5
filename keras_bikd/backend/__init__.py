"""What differs between Keras backends: differentiation, replicas, applying an optimizer, the shell of a step.

Only functions; the rest of the library uses `keras.ops`. Another backend is another file with the same names.
"""

import keras

if keras.backend.backend() == "tensorflow":
    from keras_bikd.backend.tensorflow import *  # noqa: F403
    from keras_bikd.backend.tensorflow import __all__
elif keras.backend.backend() == "jax":
    from keras_bikd.backend.jax import *  # type: ignore[assignment]  # noqa: F403
    from keras_bikd.backend.jax import __all__
elif keras.backend.backend() == "torch":
    from keras_bikd.backend.torch import *  # type: ignore[assignment,unused-ignore]  # noqa: F403
    from keras_bikd.backend.torch import __all__  # noqa: F401
else:
    raise ImportError(
        "keras_bikd trains on the TensorFlow, JAX and PyTorch backends. "
        f"Received: keras.backend.backend() = {keras.backend.backend()!r}. "
        "Set the environment variable KERAS_BACKEND to tensorflow, jax or torch before importing keras."
    )
