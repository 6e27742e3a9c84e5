"""JAX: pullbacks, and the shell of a training step whose state goes in and comes out.

Several devices are `keras.distribution.DataParallel`: one program over global arrays, so that sums over the batch are
global already and nothing is reduced by hand.
"""

import contextlib

import jax
import keras
from jax import numpy as jnp

__all__ = [
    "all_reduce_sum",
    "apply_gradients",
    "cond",
    "jit",
    "num_replicas",
    "processes",
    "run_step",
    "snapshot",
    "value_and_grad",
    "variable_scope",
    "vjp",
]


def vjp(function, primals):
    """Run `function` once and return the means to pull any cotangent back through it; see the TensorFlow side."""
    outputs, pull, aux = jax.vjp(function, primals, has_aux=True)

    def pullback(cotangents, wanted=None):
        (gradients,) = pull(tuple(_cotangent(output, c) for output, c in zip(outputs, cotangents)))
        return gradients if wanted is None else [gradients[i] for i in wanted]

    return outputs, aux, pullback


def _cotangent(output, cotangent):
    if output is None:  # such as the penalty of a student without one
        return None
    return jnp.zeros_like(output) if cotangent is None else jnp.asarray(cotangent, output.dtype)


def value_and_grad(function, primals):
    """Evaluate `function(primals) -> (value, aux)` and its gradient.

    Returns:
        `((value, aux), gradients)`, one gradient per primal.
    """
    return jax.value_and_grad(function, has_aux=True)(primals)


def cond(predicate, compute, otherwise):
    """`compute()` where the scalar `predicate` holds, else `otherwise()`.

    On a CPU both are computed: XLA runs the backward pass of a convolution inside a condition some thirty times slower
    than outside (jax-ml/jax#12868).
    """
    if jax.default_backend() == "cpu":
        return jax.tree.map(lambda a, b: jnp.where(predicate, a, b), compute(), otherwise())
    return jax.lax.cond(predicate, compute, otherwise)


def snapshot(variables):
    """Current values of Keras variables; arrays never change."""
    return [variable.value for variable in variables]


def apply_gradients(optimizer, gradients, variables):
    """Take one step of a Keras optimizer. Its own `apply` may assign inside a condition, which JAX does not allow."""
    new, state = optimizer.stateless_apply(snapshot(optimizer.variables), gradients, snapshot(variables))
    for variable, value in zip([*variables, *optimizer.variables], [*new, *state]):
        variable.assign(value)


def jit(function, variables):
    """`function` of arrays, which reads `variables`, traced once per shape."""

    @jax.jit
    def run(state, arguments):
        with keras.StatelessScope(state_mapping=zip(variables, state)):
            return function(*arguments)

    return lambda *arguments: run(snapshot(variables), arguments)


def num_replicas():
    """Number of programs that share this step: one, on however many devices."""
    return 1


def all_reduce_sum(tensors):
    """Sums over the batch are global already."""
    return tensors


def processes():
    """Number of this process, of all processes, and of all their devices that share the training."""
    if (distribution := keras.distribution.distribution()) is None:
        return 0, 1, 1
    return jax.process_index(), jax.process_count(), distribution.device_mesh.devices.size


def variable_scope(model):
    """The context in which variables of `model` may be created."""
    distribution = keras.distribution.distribution()
    if distribution is not None and jax.process_count() > 1 and distribution.auto_shard_dataset:
        raise ValueError(
            "Keras cannot shard pairs of training and meta batches over processes. Use "
            "`keras.distribution.DataParallel(auto_shard_dataset=False)`, and `keras_bikd.data.share_of_process` on "
            f"the data set. Received: auto_shard_dataset=True in {jax.process_count()} processes"
        )
    return contextlib.nullcontext()


def run_step(model, step, state, data):
    """`train_step(state, data)` of a Keras model whose step is `step(batch, meta_batch)`; returns logs and state.

    The step assigns to the variables of its model; here they are arrays that go in and come out.
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
