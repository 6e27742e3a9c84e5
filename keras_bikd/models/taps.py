"""Outputs of layers inside a network, next to its own."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_bikd.types import Tensor


def tapped(role: str, network: keras.Model, names: Sequence[str]) -> Callable[..., tuple[Any, dict[str, Tensor]]]:
    """A function that runs a network and also returns the outputs of some of its layers.

    Args:
        role: `"student"` or `"teacher"`, for the message.
        network: `keras.Model`, which shares its layers with the function.
        names: Names of layers; without any, the network may be of any kind.

    Returns:
        Function `(inputs, training) -> (outputs of the network, {name: output})`.

    Raises:
        ValueError: If the network has no such layer, or is neither functional nor sequential.
    """
    if not names:
        return lambda inputs, training: (network(inputs, training=training), {})
    if not getattr(network, "inputs", None):
        raise ValueError(
            f"Outputs of layers can be compared in functional and sequential models. Received: a {role} of type "
            f"{type(network).__name__}, and a loss of its layers {', '.join(map(repr, names))}"
        )
    known = {layer.name: layer for layer in network.layers}
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(
            f"The {role} has no layer {missing[0]!r}, whose output a loss compares. Its layers are {', '.join(known)}."
        )
    nested = [name for name in names if isinstance(known[name], keras.Model)]
    if nested:
        raise ValueError(
            f"The layer {nested[0]!r} of the {role} is a model, whose output inside the {role} Keras does not name. "
            "Choose the layer after it, or build on its output: `keras.Model(trunk.input, head(trunk.output))`, which "
            "also makes all layers of the trunk known by name."
        )
    # A sequential model hides its graph, and a functional one may have a dict of inputs.
    alone = isinstance(network, keras.Sequential)
    inputs, outputs = (network.inputs[0], network.outputs[0]) if alone else (network.input, network.output)
    both = keras.Model(inputs, [outputs, {name: known[name].output for name in names}])
    return lambda inputs, training: both(inputs, training=training)
