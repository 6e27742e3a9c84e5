"""The hypergradient of one virtual step, for any bilevel problem: no teachers, students or labels.

`theta` are the parameters of the lower level. `phi` are those of the upper level, which weighs the losses of the lower
level. Both are lists of tensors.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from keras_bikd.backend import all_reduce_sum, cond, value_and_grad, vjp
from keras_bikd.types import Tensor

__all__ = ["VirtualStep", "one_step_hypergradient"]


class VirtualStep(NamedTuple):
    """Results of one virtual step, for the real step to reuse.

    Attributes:
        meta_loss: Scalar, the outer loss at `theta'`.
        hypergradient: Its gradient with respect to `phi`, one tensor per entry of `phi`; of this replica.
        gradient: Gradient of the weighted inner loss with respect to `theta`; of this replica. `None` if an
            approximation left out part of it.
        outputs: The outputs of `lower_level`.
        forward: The second result of `lower_level`.
        pullback: Maps cotangents of `outputs` to a gradient with respect to `theta`, without a new forward pass.
    """

    meta_loss: Tensor
    hypergradient: list[Tensor]
    gradient: list[Tensor] | None
    outputs: tuple[Tensor, ...]
    forward: Any
    pullback: Callable[..., list[Tensor]]


def one_step_hypergradient(
    lower_level: Callable[[list[Tensor]], tuple[tuple[Tensor, ...], Any]],
    weigh: Callable[[list[Tensor], Any], tuple[Tensor | None, ...]],
    upper_loss: Callable[[list[Tensor]], Tensor],
    theta: list[Tensor],
    phi: list[Tensor],
    learning_rate: Tensor,
    *,
    moved: list[int] | None = None,
    is_due: Tensor | None = None,
) -> VirtualStep:
    """Differentiate an outer loss with respect to `phi`, through one gradient step on `theta`.

    `theta'(phi) = theta - learning_rate * d/dtheta <weigh(phi), lower_level(theta)>` and
    `hypergradient = d/dphi upper_loss(theta'(phi))`. `phi` enters the inner gradient through the weights alone.
    Therefore the inner forward pass lies outside the outer tape and runs once.

    Args:
        lower_level: Maps `theta` to `(outputs, forward)`. `outputs` is a tuple of tensors; `forward` is anything else
            from the forward pass that is needed later.
        weigh: Maps `(phi, forward)` to one weight (cotangent) per output, `None` for an output without one.
            An average over the batch is part of the weights.
        upper_loss: Maps `theta'` to a scalar.
        theta: List of tensors.
        phi: List of tensors.
        learning_rate: Step size of the virtual step, a scalar.
        moved: An approximation: the virtual step moves only the entries of `theta` with these indices. By default all.
        is_due: An approximation: boolean scalar tensor. Where it is false, the virtual step is left out, and
            `meta_loss` and `hypergradient` are zeros.

    Returns:
        A `VirtualStep`.

    Examples:
        >>> import keras
        >>> theta, phi = [keras.ops.convert_to_tensor([1.0])], [keras.ops.convert_to_tensor([3.0])]
        >>> step = one_step_hypergradient(
        ...     lower_level=lambda theta: ((theta[0] ** 2,), None),  # theta' = 1 - 0.1 * 3 * 2 = 0.4
        ...     weigh=lambda phi, _: (phi[0],),
        ...     upper_loss=lambda theta: keras.ops.sum(theta[0] ** 2),
        ...     theta=theta, phi=phi, learning_rate=0.1)
        >>> step.hypergradient[0].numpy().round(4)  # 2 * 0.4 * (-0.1 * 2)
        array([-0.16], dtype=float32)

    Reference: arXiv 2605.17839, Algorithm 1, lines 5 to 11, and Eq. (7).
    """
    outputs, forward, pullback = vjp(lower_level, theta)
    indices = range(len(theta)) if moved is None else moved

    def loss_of_virtual_student(phi: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        gradient = pullback(weigh(phi, forward), moved)
        virtual = list(theta)
        for i, g in zip(indices, all_reduce_sum(gradient)):
            rate = ops.convert_to_tensor(learning_rate, theta[i].dtype)
            virtual[i] = theta[i] - rate * g
        return upper_loss(virtual), gradient

    if is_due is None:
        (meta_loss, gradient), hypergradient = value_and_grad(loss_of_virtual_student, phi)
    else:
        meta_loss, hypergradient = _where_due(is_due, lambda: value_and_grad(loss_of_virtual_student, phi), phi)
    if moved is not None or is_due is not None:
        gradient = None
    return VirtualStep(meta_loss, hypergradient, gradient, outputs, forward, pullback)


def _where_due(is_due: Tensor, compute: Callable[[], Any], phi: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    def computed() -> tuple[Tensor, list[Tensor]]:
        (meta_loss, _), hypergradient = compute()
        return ops.cast(meta_loss, phi[0].dtype), hypergradient

    zeros = [ops.zeros_like(parameter) for parameter in phi]
    return cond(is_due, computed, lambda: (ops.zeros((), phi[0].dtype), zeros))
