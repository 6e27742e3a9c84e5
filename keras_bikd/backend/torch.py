"""PyTorch: gradients of recorded operations; everything else in a step runs without recording.

Keras 3.15 knows no distribution on PyTorch. Once `torch.distributed.init_process_group` has been called, every process
is a replica: it has its rows of the batches, and what `DistributedDataParallel` would sum is summed here.
"""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import torch
from keras import tree

from keras_bikd.keras_private import loss_tracker
from keras_bikd.types import Batch, Logs, Tensor


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
    """Take one step of a Keras optimizer on the sum over the replicas."""
    with torch.no_grad():
        gradients = all_reduce_sum(list(gradients))
        optimizer.apply(gradients, variables)


def jit(function: Callable[..., Any], variables: Sequence[keras.Variable]) -> Callable[..., Any]:
    """A function of tensors that reads `variables`, run as it is, and without recording."""
    return torch.no_grad()(function)


def num_replicas() -> int:
    """Number of processes that share this step, each with one device."""
    return processes()[1]


def all_reduce_sum(tensors: list[Tensor]) -> list[Tensor]:
    """Sum a list of tensors over the replicas of this step; differentiable."""
    if num_replicas() == 1:
        return tensors
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    summed = _Sum.apply(flat)  # type: ignore[no-untyped-call,unused-ignore]
    parts = summed.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor).to(tensor.dtype) for part, tensor in zip(parts, tensors)]


class _Sum(torch.autograd.Function):
    """Sum over the replicas. What is summed by all has the sum of all their gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)  # type: ignore[no-untyped-call,unused-ignore]


def agreed(tensors: list[Tensor]) -> list[Tensor]:
    """The means over all processes, where each has its own; for integers and booleans, the value of this process."""
    if num_replicas() == 1:
        return tensors
    with torch.no_grad():
        own = [keras.ops.convert_to_tensor(tensor) for tensor in tensors]
        floats = [i for i, tensor in enumerate(own) if tensor.is_floating_point()]
        for i, total in zip(floats, all_reduce_sum([own[i] for i in floats]) if floats else []):
            own[i] = total / num_replicas()
        return own


def processes() -> tuple[int, int, int]:
    """Index of this process, number of processes, and number of their devices, in this training."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1, 1
    count = torch.distributed.get_world_size()
    return torch.distributed.get_rank(), count, count


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


def plain_step(model: keras.Model, step: Callable[..., Logs], state: list[keras.Variable], *arguments: Any) -> Logs:
    """`step`, which is Keras' own `train_step`, with gradients that are summed over the replicas.

    Batch statistics are those of each replica. Their moving averages, in `state`, are the means, as on TensorFlow.
    """
    if num_replicas() == 1:
        return step(*arguments)
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(*arguments)
    outputs = model(x, training=True)
    loss = model.compute_loss(x, y, outputs, sample_weight, training=True)
    loss_tracker(model).update_state(loss.detach() * num_replicas(), sample_weight=len(tree.flatten(x)[0]))
    variables = model.trainable_variables
    gradients = _gradients([model.optimizer.scale_loss(loss)], [variable.value for variable in variables])
    apply_gradients(model.optimizer, gradients, variables)
    for variable, value in zip(state, agreed([variable.value for variable in state])):
        variable.assign(value)
    return model.compute_metrics(x, y, outputs, sample_weight=sample_weight)
