"""The hypergradient of one virtual step, for any bilevel problem: no teachers, students or labels.

`theta` are the parameters of the lower level. `phi` are those of the upper level, which weighs the losses of the lower
level. Both are lists of tensors.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_bikd.backend import all_reduce_sum, value_and_grad, vjp
from keras_bikd.types import Tensor

# Machine epsilon: half of the bits of a floating-point number are lost in the best one-sided difference.
_EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}


class Difference(NamedTuple):
    """A finite difference of the network's outputs, in place of second derivatives.

    The lower level is then made of two parts, `losses_of` after `network`. We difference the logits, not the losses:
    losses lose more bits to rounding and are curved in the logits, for 10 to 1,000 times the error.

    Attributes:
        network: Maps `theta` to a list of tensors, such as the logits.
        losses_of: Maps this list to the outputs of `lower_level`, `None` for those that have no weight.
        outputs_of: Maps the second result of `lower_level` to the list at `theta`.
        compute_dtype: Float type of the network.
    """

    network: Callable[[list[Tensor]], list[Tensor]]
    losses_of: Callable[[list[Tensor]], tuple[Tensor | None, ...]]
    outputs_of: Callable[[Any], list[Tensor]]
    compute_dtype: str

    @property
    def is_central(self) -> bool:
        """Whether the network is displaced both ways: in 16 bits a one-sided difference has too large an error."""
        return _EPSILON[self.compute_dtype] > _EPSILON["float32"]

    @property
    def displacement(self) -> float:
        """How far `theta` is displaced, relative to its norm: far enough for rounding errors, and not for curvature."""
        return 3e-3 if self.is_central else 0.04 * math.sqrt(_EPSILON[self.compute_dtype])


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
        pullback_later: The same, for when the activations need not be kept until then: with a `Difference` it repeats
            the forward pass.
    """

    meta_loss: Tensor
    hypergradient: list[Tensor]
    gradient: list[Tensor] | None
    outputs: tuple[Tensor, ...]
    forward: Any
    pullback: Callable[..., list[Tensor]]
    pullback_later: Callable[..., list[Tensor]]


def one_step_hypergradient(
    lower_level: Callable[[list[Tensor]], tuple[tuple[Tensor, ...], Any]],
    weigh: Callable[[list[Tensor], Any], tuple[Tensor | None, ...]],
    upper_loss: Callable[[list[Tensor]], Tensor],
    theta: list[Tensor],
    phi: list[Tensor],
    learning_rate: Tensor,
    *,
    moved: list[int] | None = None,
    difference: Difference | None = None,
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
        difference: A `Difference` in place of the second derivatives; it cannot be combined with `moved`.

    Returns:
        A `VirtualStep`.

    Examples:
        >>> import keras
        >>> theta, phi = (
        ...     [keras.ops.convert_to_tensor([1.0])],
        ...     [keras.ops.convert_to_tensor([3.0])],
        ... )
        >>> step = one_step_hypergradient(
        ...     # theta' = 1 - 0.1 * 3 * 2 = 0.4
        ...     lower_level=lambda theta: ((theta[0] ** 2,), None),
        ...     weigh=lambda phi, _: (phi[0],),
        ...     upper_loss=lambda theta: keras.ops.sum(theta[0] ** 2),
        ...     theta=theta,
        ...     phi=phi,
        ...     learning_rate=0.1,
        ... )
        >>> step.hypergradient[0].numpy().round(4)  # 2 * 0.4 * (-0.1 * 2)
        array([-0.16], dtype=float32)

    Reference: arXiv 2605.17839, Algorithm 1, lines 5 to 11, and Eq. (7).
    """
    # The inner tape, recorded by `vjp`: the losses as a function of theta. `pullback` reads it.
    outputs, forward, pullback = vjp(lower_level, theta)

    def loss_of_virtual_student(phi: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        gradient = pullback(weigh(phi, forward), moved)
        return upper_loss(_after_step(theta, gradient, learning_rate, moved)), gradient

    if difference is None:
        # The outer tape, over phi alone: it records how the inner one is read.
        (meta_loss, gradient), hypergradient = value_and_grad(loss_of_virtual_student, phi)
        later = pullback
    else:
        gradient = pullback(weigh(phi, forward))
        virtual = _after_step(theta, gradient, learning_rate)
        (meta_loss, _), direction = value_and_grad(lambda virtual: (upper_loss(virtual), None), virtual)
        change = _change(all_reduce_sum(direction), learning_rate, difference, theta, forward)
        _, hypergradient = value_and_grad(lambda phi: (change(weigh(phi, forward)), None), phi)
        later = functools.partial(_pullback_again, difference, theta)
    is_whole = moved is None
    return VirtualStep(meta_loss, hypergradient, gradient if is_whole else None, outputs, forward, pullback, later)


def _pullback_again(difference: Difference, theta: list[Tensor], cotangents: Sequence[Tensor | None]) -> list[Tensor]:
    """Repeat the forward pass for a pullback, without the sums over replicas, which no condition may hold."""
    _, _, pullback = vjp(lambda theta: (difference.losses_of(difference.network(theta)), None), theta)
    return pullback(cotangents)


def _after_step(
    theta: list[Tensor], gradient: list[Tensor], learning_rate: Tensor, moved: list[int] | None = None
) -> list[Tensor]:
    """`theta'`, the parameters after one gradient step."""
    virtual = list(theta)
    for i, g in zip(range(len(theta)) if moved is None else moved, all_reduce_sum(gradient)):
        virtual[i] = theta[i] - ops.convert_to_tensor(learning_rate, theta[i].dtype) * g
    return virtual


def _change(
    direction: list[Tensor], learning_rate: Tensor, difference: Difference, theta: list[Tensor], forward: Any
) -> Callable[[tuple[Tensor | None, ...]], Tensor]:
    """The upper loss to first order in the virtual step, as a function of the weights; `direction` is its gradient."""
    norm_of_theta, norm = (
        ops.sqrt(sum(ops.sum(ops.square(_at_least_float32(part))) for part in parts)) for parts in (theta, direction)
    )
    distance = difference.displacement * norm_of_theta / norm

    def displaced(sign: int) -> list[Tensor]:
        moved = [start + sign * ops.cast(distance, start.dtype) * part for start, part in zip(theta, direction)]
        return [_at_least_float32(output) for output in difference.network(moved)]

    outputs = [_at_least_float32(output) for output in difference.outputs_of(forward)]
    behind, width = (displaced(-1), 2 * distance) if difference.is_central else (outputs, distance)
    slopes = [(there - here) / ops.cast(width, here.dtype) for there, here in zip(displaced(1), behind)]
    _, _, to_outputs = vjp(lambda outputs: (difference.losses_of(outputs), None), outputs)
    rate = ops.convert_to_tensor(learning_rate, slopes[0].dtype)
    return lambda weights: -rate * sum(ops.sum(part * slope) for part, slope in zip(to_outputs(weights), slopes))


def _at_least_float32(tensor: Tensor) -> Tensor:
    return ops.cast(tensor, keras.backend.result_type(tensor.dtype, "float32"))
