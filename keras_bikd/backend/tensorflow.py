"""TensorFlow: gradient tapes, replicas, and the shell of a training step."""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import tensorflow as tf

from keras_bikd.types import Batch, Logs, Tensor


def vjp(function: Callable[..., Any], primals: list[Tensor]) -> tuple[tuple[Tensor, ...], Any, Callable[..., Any]]:
    """Run `function` once and return a function that pulls cotangents back through it.

    Args:
        function: Maps the list `primals` to `(outputs, aux)`, `outputs` being a tuple of tensors.
        primals: List of tensors.

    Returns:
        `(outputs, aux, pullback)`. `pullback(cotangents, wanted=None)` takes one cotangent per output, `None` for an
        output to leave out. It returns one gradient per primal, or only those with the indices `wanted`. It can be
        called several times, and differentiated.
    """
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(primals)
        outputs, aux = function(primals)

    def pullback(cotangents: Sequence[Tensor | None], wanted: Sequence[int] | None = None) -> list[Tensor]:
        pulled = [(output, cotangent) for output, cotangent in zip(outputs, cotangents) if cotangent is not None]
        gradients = tape.gradient(
            [output for output, _ in pulled],
            primals if wanted is None else [primals[i] for i in wanted],
            output_gradients=[cotangent for _, cotangent in pulled],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        # The gradient of an embedding is sparse: it cannot be scaled, and its sum over replicas has no gradient.
        return [tf.convert_to_tensor(gradient) for gradient in gradients]

    return outputs, aux, pullback


def value_and_grad(function: Callable[..., Any], primals: list[Tensor]) -> tuple[tuple[Tensor, Any], list[Tensor]]:
    """Evaluate `function(primals) -> (value, aux)` and its gradient; only `primals` are watched.

    Returns:
        `((value, aux), gradients)`, one gradient per primal.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(primals)
        value, aux = function(primals)
    return (value, aux), tape.gradient(value, primals, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def cond(predicate: Tensor, compute: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    """`compute()` where the scalar `predicate` holds, else `otherwise()`."""
    return tf.cond(predicate, compute, otherwise)


def snapshot(variables: Sequence[keras.Variable]) -> list[Tensor]:
    """Current values of Keras variables, as tensors that later assignments do not change."""
    return [tf.convert_to_tensor(variable.value) for variable in variables]


def no_gradients() -> AbstractContextManager[Any]:
    """The context for what is never differentiated; here nothing is recorded unless it is asked for."""
    return contextlib.nullcontext()


def apply_gradients(
    optimizer: keras.optimizers.Optimizer, gradients: Sequence[Tensor], variables: Sequence[keras.Variable]
) -> None:
    """Take one step of a Keras optimizer; it sums over the replicas."""
    if num_replicas() > 1 and isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        # It checks only the first replica for an overflow; let all of them overflow, or none.
        overflows = [tf.reduce_any(~tf.math.is_finite(gradient)) for gradient in gradients]
        (count,) = all_reduce_sum([tf.cast(tf.reduce_any(overflows), "float32")])
        gradients = [tf.where(count > 0, tf.cast(float("inf"), g.dtype), g) for g in gradients]
    _free_afterwards(optimizer, lambda: optimizer.apply(gradients, variables))


def _free_afterwards(optimizer: keras.optimizers.Optimizer, step: Callable[[], Any]) -> Any:
    """`step()`, in which `optimizer` is applied, such that its graph can be freed with its model.

    In a replica, Keras sums gradients by an operation with a custom gradient, also where there is one replica only.
    TensorFlow keeps custom gradients for ever, and with them the graph of the step (tensorflow/tensorflow issue 80895).
    """
    if tf.distribute.has_strategy() or isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return step()
    return tf.distribute.get_replica_context().merge_call(lambda _: step())


def jit(function: Callable[..., Any], variables: Sequence[keras.Variable]) -> Callable[..., Any]:
    """Compile a function of tensors that reads `variables`; it is traced once and run as a graph."""
    return tf.function(function, reduce_retracing=True)


def num_replicas() -> int:
    """Number of devices that share this step."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def agreed(tensors: list[Tensor]) -> list[Tensor]:
    """Return `tensors`: there is one process."""
    return tensors


def processes() -> tuple[int, int, int]:
    """Index of this process, number of processes, number of their devices; `tf.distribute` splits batches itself."""
    return 0, 1, 1


def all_reduce_sum(tensors: list[Tensor]) -> list[Tensor]:
    """Sum a list of tensors over the replicas of this step; differentiable."""
    if num_replicas() == 1:
        return tensors
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensors)


def variable_scope(model: keras.Model) -> AbstractContextManager[Any]:
    """The context in which variables of `model` may be created."""
    if isinstance(model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
        raise ValueError(
            "`fit` under `tf.distribute.MultiWorkerMirroredStrategy` fails in Keras 3, even for plain models. For "
            "several processes set KERAS_BACKEND=jax and use `keras.distribution.DataParallel`; for several devices "
            "of one machine use `tf.distribute.MirroredStrategy`. Received: a model under MultiWorkerMirroredStrategy"
        )
    return model.distribute_strategy.scope()


def run_step(model: keras.Model, step: Callable[[Batch, Batch], Logs], data: tuple[Any, ...]) -> Logs:
    """`train_step(data)` of a Keras model whose step is `step(batch, meta_batch)`; returns the logs."""
    # When the iterator is exhausted, TensorFlow still runs what does not depend on the data. Without this
    # dependency the batch counter would advance once more at the end of every epoch of unknown length.
    tensors = tf.nest.flatten(data, expand_composites=True)
    with tf.control_dependencies([tensor for tensor in tensors if tensor is not None]):
        return step(*data[:2])


def plain_step(model: keras.Model, step: Callable[..., Any], state: list[keras.Variable], *arguments: Any) -> Any:
    """`step`, which is Keras' own `train_step`; `state` is what the forward pass updates."""
    return _free_afterwards(model.optimizer, lambda: step(*arguments))
