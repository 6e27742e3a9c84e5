"""Names for the types in the signatures of the library."""

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
