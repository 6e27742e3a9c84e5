"""Types in the signatures of the library, and the parts of a batch's target."""

import os
from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
import numpy as np

Tensor: TypeAlias = Any
"""Whatever `keras.ops` takes: a tensor of the backend, a NumPy array, a nested list. The backends share no class."""

Batch: TypeAlias = tuple[Any, ...]
"""`(x, y)` or `(x, y, sample_weight)`; `x` and `y` may be nested structures of tensors."""

Counts: TypeAlias = Sequence[int] | np.ndarray
"""Training samples per class."""

Logs: TypeAlias = dict[str, Any]
"""What Keras logs after a batch or an epoch: metric names to numbers."""

Teacher: TypeAlias = keras.Model | str | os.PathLike[str]
"""A model that outputs logits, or the path of one in a `.keras` file."""


def labels_and_logits(target: Any) -> tuple[Any, Any]:
    """Split the target of a batch into labels and the teacher's logits.

    Args:
        target: Labels, or a dict `{"labels": labels, "teacher_logits": logits}`.

    Returns:
        `(labels, logits)`; without logits in the target, `(target, None)`.

    Raises:
        ValueError: If the target is a dict with other keys.

    Examples:
        >>> labels_and_logits([0, 1])
        ([0, 1], None)
        >>> labels_and_logits(
        ...     {"labels": [0, 1], "teacher_logits": [[1.5, -0.5], [0.0, 2.0]]}
        ... )
        ([0, 1], [[1.5, -0.5], [0.0, 2.0]])
    """
    if not isinstance(target, dict):
        return target, None
    if set(target) != {"labels", "teacher_logits"}:
        raise ValueError(
            'A target is labels, or a dict {"labels": labels, "teacher_logits": logits}. '
            f"Received: a dict with the keys {sorted(map(str, target))}"
        )
    return target["labels"], target["teacher_logits"]


def weights_of_labels(sample_weight: Any) -> Any:
    """The sample weights of a batch. Keras gives those of arrays the structure of the target."""
    return sample_weight["labels"] if isinstance(sample_weight, dict) else sample_weight
