"""What differs between Keras backends: differentiation, replicas, applying an optimizer, the shell of a step.

Only functions; the rest of the library uses `keras.ops`. Another backend is another file with the same names.
"""

import keras

if keras.backend.backend() == "tensorflow":
    from keras_bikd.backend import tensorflow as own
elif keras.backend.backend() == "jax":
    from keras_bikd.backend import jax as own  # type: ignore[no-redef]
elif keras.backend.backend() == "torch":
    from keras_bikd.backend import torch as own  # type: ignore[no-redef,unused-ignore]
else:
    raise ImportError(
        "keras_bikd trains on the TensorFlow, JAX and PyTorch backends. "
        f"Received: keras.backend.backend() = {keras.backend.backend()!r}. "
        "Set the environment variable KERAS_BACKEND to tensorflow, jax or torch before importing keras."
    )

agreed = own.agreed
all_reduce_sum = own.all_reduce_sum
apply_gradients = own.apply_gradients
cond = own.cond
jit = own.jit
no_gradients = own.no_gradients
num_replicas = own.num_replicas
plain_step = own.plain_step
processes = own.processes
run_step = own.run_step
snapshot = own.snapshot
value_and_grad = own.value_and_grad
variable_scope = own.variable_scope
vjp = own.vjp
