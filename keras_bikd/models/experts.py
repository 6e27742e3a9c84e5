"""`Experts`: the teacher of LFME, one network per group of classes."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_bikd.serialization import Serializable
from keras_bikd.types import Tensor


@keras.saving.register_keras_serializable(package="keras_bikd")
class Experts(Serializable, keras.Model):
    """Experts as one teacher, as in LFME: the logits of every class come from the expert of its group.

    Train each expert on the classes of its group alone (`keras_bikd.data.only_classes`).

    Args:
        experts: One `keras.Model` per group, with one logit per class of the group, in the order of the group.
        groups: One sequence of class ids per expert, as from `keras_bikd.long_tail.class_groups`; every class is in
            exactly one group.
        **kwargs: Keras model arguments.

    Raises:
        ValueError: If the groups do not match the experts.

    Examples:
        >>> import keras, numpy as np
        >>> experts = [
        ...     keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
        ...     for _ in range(2)
        ... ]
        >>> Experts(experts, [[1, 3], [2, 0]])(np.zeros((5, 8))).shape
        TensorShape([5, 4])
    """

    ARGUMENTS = ("experts", "groups")

    def __init__(self, experts: Sequence[keras.Model], groups: Iterable[Iterable[int]], **kwargs: Any) -> None:
        super().__init__(**{"autocast": False, **kwargs})  # experts cast their inputs themselves
        self.experts = list(experts)
        self.groups = [[int(label) for label in group] for group in groups]
        flat = [label for group in self.groups for label in group]
        if len(self.experts) != len(self.groups) or sorted(flat) != list(range(len(flat))):
            raise ValueError(
                "`Experts(experts, groups)` takes one group of class ids per expert, each class in one group. "
                f"Received: {len(self.experts)} experts and groups={self.groups}"
            )
        self.columns = np.argsort(flat)
        self.built = all(expert.built for expert in self.experts)

    def call(self, inputs: Any, training: bool | None = None) -> Tensor:
        logits = [expert(inputs, training=training) for expert in self.experts]
        widths = [part.shape[-1] for part in logits]
        if widths != [len(group) for group in self.groups]:
            raise ValueError(
                "`Experts(experts, groups)` takes experts with one logit per class of their group. "
                f"Received: experts of {widths} logits and groups={self.groups}"
            )
        return ops.take(ops.concatenate(logits, axis=-1), self.columns, axis=-1)
