"""JAX: pullbacks, and the shell of a training step that takes and returns its state.

Several devices are used through `keras.distribution.DataParallel`: one program over global arrays. Sums over the batch
are therefore global, and need no explicit reduction.
"""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import keras
from jax import numpy as jnp

from keras_bikd.types import Batch, Logs, Tensor


def vjp(function: Callable[..., Any], primals: list[Tensor]) -> tuple[tuple[Tensor, ...], Any, Callable[..., Any]]:
    """Run `function` once and return a function that pulls cotangents back through it; see the TensorFlow backend."""
    outputs, pull, aux = jax.vjp(function, primals, has_aux=True)

    def pullback(cotangents: Sequence[Tensor | None], wanted: Sequence[int] | None = None) -> list[Tensor]:
        (gradients,) = pull(tuple(_cotangent(output, c) for output, c in zip(outputs, cotangents)))
        return gradients if wanted is None else [gradients[i] for i in wanted]

    return outputs, aux, pullback


def _cotangent(output: Tensor | None, cotangent: Tensor | None) -> Tensor | None:
    if output is None:  # a student without regularisers has no penalty
        return None
    return jnp.zeros_like(output) if cotangent is None else jnp.asarray(cotangent, output.dtype)


def value_and_grad(function: Callable[..., Any], primals: list[Tensor]) -> tuple[tuple[Tensor, Any], list[Tensor]]:
    """Evaluate `function(primals) -> (value, aux)` and its gradient.

    Returns:
        `((value, aux), gradients)`, one gradient per primal.
    """
    return jax.value_and_grad(function, has_aux=True)(primals)


def cond(predicate: Tensor, compute: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    """`compute()` where the scalar `predicate` holds, else `otherwise()`.

    On a CPU both are computed: XLA runs the backward pass of a convolution about thirty times slower inside a condition
    than outside (jax-ml/jax#12868).
    """
    if jax.default_backend() == "cpu":
        return jax.tree.map(lambda a, b: jnp.where(predicate, a, b), compute(), otherwise())
    return jax.lax.cond(predicate, compute, otherwise)


def snapshot(variables: Sequence[keras.Variable]) -> list[Tensor]:
    """Current values of Keras variables; JAX arrays never change."""
    return [variable.value for variable in variables]


def no_gradients() -> AbstractContextManager[Any]:
    """The context for what is never differentiated; here nothing is recorded unless it is asked for."""
    return contextlib.nullcontext()


def apply_gradients(
    optimizer: keras.optimizers.Optimizer, gradients: Sequence[Tensor], variables: Sequence[keras.Variable]
) -> None:
    """Take one step of a Keras optimizer; its own `apply` may assign inside a condition, which JAX does not allow."""
    new, state = optimizer.stateless_apply(snapshot(optimizer.variables), gradients, snapshot(variables))
    for variable, value in zip([*variables, *optimizer.variables], [*new, *state]):
        variable.assign(value)


def jit(function: Callable[..., Any], variables: Sequence[keras.Variable]) -> Callable[..., Any]:
    """Compile a function of arrays that reads `variables`; it is traced once per shape."""

    @jax.jit
    def run(state: list[Tensor], arguments: tuple[Any, ...]) -> Any:
        with keras.StatelessScope(state_mapping=zip(variables, state)):
            return function(*arguments)

    return lambda *arguments: run(snapshot(variables), arguments)


def num_replicas() -> int:
    """Number of programs that share this step: one, whatever the number of devices."""
    return 1


def all_reduce_sum(tensors: list[Tensor]) -> list[Tensor]:
    """Return `tensors`: sums over the batch are global already."""
    return tensors


def agreed(tensors: list[Tensor]) -> list[Tensor]:
    """Return `tensors`: there is one program, whose numbers are those of all processes."""
    return tensors


def processes() -> tuple[int, int, int]:
    """Index of this process, number of processes, and number of their devices, in this training."""
    if (distribution := keras.distribution.distribution()) is None:
        return 0, 1, 1
    return jax.process_index(), jax.process_count(), distribution.device_mesh.devices.size


def variable_scope(model: keras.Model) -> AbstractContextManager[Any]:
    """The context in which variables of `model` may be created."""
    distribution = keras.distribution.distribution()
    if distribution is not None and jax.process_count() > 1 and distribution.auto_shard_dataset:
        raise ValueError(
            "Keras cannot shard pairs of training and meta batches over processes. Use "
            "`keras.distribution.DataParallel(auto_shard_dataset=False)`, and `keras_bikd.data.share_of_process` on "
            f"the data set. Received: auto_shard_dataset=True in {jax.process_count()} processes"
        )
    return contextlib.nullcontext()


def run_step(
    model: keras.Model, step: Callable[[Batch, Batch], Logs], state: tuple[Any, ...], data: tuple[Any, ...]
) -> tuple[Logs, tuple[Any, ...]]:
    """`train_step(state, data)` of a Keras model whose step is `step(batch, meta_batch)`; returns logs and state.

    The step assigns to the variables of its model. Here their values are passed in and returned as arrays.
    """
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    mapping = [pair for group, part in zip(groups, state) for pair in zip(group, part)]
    with keras.StatelessScope(state_mapping=mapping) as scope:
        logs = step(*data[:2])
    return logs, tuple([scope.get_current_value(variable) for variable in group] for group in groups)


def plain_step(model: keras.Model, step: Callable[..., Any], state: list[keras.Variable], *arguments: Any) -> Any:
    """`step`, which is Keras' own `train_step`; `state` is what the forward pass updates."""
    return step(*arguments)
