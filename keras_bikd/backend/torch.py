"""PyTorch: gradients of recorded operations; everything else in a step runs without recording."""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import torch
from keras import tree

from keras_bikd.types import Batch, Logs, Tensor

__all__ = [
    "all_reduce_sum",
    "apply_gradients",
    "cond",
    "jit",
    "no_gradients",
    "num_replicas",
    "processes",
    "run_step",
    "snapshot",
    "traced_once",
    "value_and_grad",
    "variable_scope",
    "vjp",
]


def vjp(function: Callable[..., Any], primals: list[Tensor]) -> tuple[tuple[Tensor, ...], Any, Callable[..., Any]]:
    """Run `function` once and return a function that pulls cotangents back through it; see the TensorFlow backend."""
    watched, outputs, aux = _recorded(function, primals)

    def pullback(cotangents: Sequence[Tensor | None], wanted: Sequence[int] | None = None) -> list[Tensor]:
        pulled = [
            (output, cotangent.to(output.dtype))
            for output, cotangent in zip(outputs, cotangents)
            if cotangent is not None and output.requires_grad  # a loss may depend on the inputs alone
        ]
        return _gradients(
            [output for output, _ in pulled],
            watched if wanted is None else [watched[i] for i in wanted],
            [cotangent for _, cotangent in pulled],
            retain_graph=True,
            create_graph=any(cotangent.requires_grad for _, cotangent in pulled),
        )

    return _detached(outputs), _detached(aux), pullback


def value_and_grad(function: Callable[..., Any], primals: list[Tensor]) -> tuple[tuple[Tensor, Any], list[Tensor]]:
    """Evaluate `function(primals) -> (value, aux)` and its gradient.

    Returns:
        `((value, aux), gradients)`, one gradient per primal.
    """
    watched, value, aux = _recorded(function, primals)
    return (_detached(value), _detached(aux)), _gradients([value], watched)


def _recorded(function: Callable[..., Any], primals: list[Tensor]) -> tuple[list[Tensor], Any, Any]:
    watched = [primal.detach().requires_grad_() for primal in primals]
    with torch.enable_grad():
        return watched, *function(watched)


def _gradients(
    outputs: list[Tensor], inputs: list[Tensor], cotangents: list[Tensor] | None = None, **options: bool
) -> list[Tensor]:
    if not inputs or not outputs:
        return [torch.zeros_like(primal) for primal in inputs]
    return list(torch.autograd.grad(outputs, inputs, cotangents, materialize_grads=True, **options))


def _detached(structure: Any) -> Any:
    """The values alone: what they were computed from can be freed."""
    return tree.map_structure(lambda leaf: leaf.detach() if torch.is_tensor(leaf) else leaf, structure)


def traced_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function`: only TensorFlow shares the traces of what is called several times."""
    return function


def cond(predicate: Tensor, compute: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    """`compute()` where the scalar `predicate` holds, else `otherwise()`."""
    return compute() if predicate else otherwise()


def snapshot(variables: Sequence[keras.Variable]) -> list[Tensor]:
    """Current values of Keras variables, as copies: assignments and optimizers change the originals in place."""
    return [variable.value.detach().clone() for variable in variables]


def no_gradients() -> AbstractContextManager[Any]:
    """The context for what is never differentiated, so that nothing is recorded."""
    return torch.no_grad()


def apply_gradients(
    optimizer: keras.optimizers.Optimizer, gradients: Sequence[Tensor], variables: Sequence[keras.Variable]
) -> None:
    """Take one step of a Keras optimizer."""
    with torch.no_grad():
        optimizer.apply(gradients, variables)


def jit(function: Callable[..., Any], variables: Sequence[keras.Variable]) -> Callable[..., Any]:
    """A function of tensors that reads `variables`, run as it is, and without recording."""
    return torch.no_grad()(function)


def num_replicas() -> int:
    """Number of devices that share this step: one."""
    return 1


def all_reduce_sum(tensors: list[Tensor]) -> list[Tensor]:
    """Return `tensors`: there is one replica."""
    return tensors


def processes() -> tuple[int, int, int]:
    """Index of this process, number of processes, number of their devices: training runs in one process."""
    return 0, 1, 1


def variable_scope(model: keras.Model) -> AbstractContextManager[Any]:
    """The context in which variables of `model` may be created."""
    return contextlib.nullcontext()


@torch.compiler.disable
def run_step(model: keras.Model, step: Callable[[Batch, Batch], Logs], data: tuple[Any, ...]) -> Logs:
    """`train_step(data)` of a Keras model whose step is `step(batch, meta_batch)`; returns the logs.

    It always runs eagerly, also with `jit_compile=True`: what `torch.compile` makes cannot be differentiated twice.
    """
    with torch.no_grad():
        return step(*data[:2])
