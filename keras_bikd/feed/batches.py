"""Batches of whatever `fit` takes: arrays, `tf.data.Dataset`, `keras.utils.PyDataset`."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

__all__ = [
    "as_batches",
    "as_tf_dataset",
    "batched",
    "batches",
    "check_arrays",
    "check_length",
    "is_dataset",
    "require_end",
]


def is_dataset(data: Any) -> bool:
    """Whether `data` yields batches by itself."""
    return isinstance(data, (tf.data.Dataset, keras.utils.PyDataset))


def batches(data: Any) -> Iterator[Any]:
    """Iterate over the batches of a `tf.data.Dataset` or a `PyDataset`, once."""
    if isinstance(data, keras.utils.PyDataset):
        return (data[i] for i in range(data.num_batches))
    return data.as_numpy_iterator()


def as_batches(data: Any, batch_size: int | None = None) -> Iterator[Any]:
    """Iterate once over the batches of a data set, or of arrays `(x, y)`."""
    if not is_dataset(data):
        data = batched(check_arrays("x, y", tuple(data)), batch_size, shuffle=False)
    return batches(data)


def batched(arrays: Any, batch_size: int | None, shuffle: bool) -> tf.data.Dataset:
    """Arrays as a `tf.data.Dataset` of batches, with `shuffle` in a new order on every pass."""
    data = tf.data.Dataset.from_tensor_slices(arrays)
    if shuffle:
        data = data.shuffle(len(data))
    return data.batch(batch_size or 32)


def check_arrays(name: str, arrays: Any) -> Any:
    """Return `arrays` if they have the same number of samples, at least one, else raise."""
    missing = any(array is None for array in tree.flatten(arrays))
    lengths = {np.shape(array)[:1] for array in tree.flatten(arrays)}
    if missing or len(lengths) != 1 or lengths <= {(), (0,)}:
        received = tree.map_structure(lambda array: None if array is None else tuple(np.shape(array)), arrays)
        raise ValueError(
            f"`fit({name})` takes arrays with the same number of samples, at least one, and labels for each. "
            f"Received: shapes {received}"
        )
    return arrays


def as_tf_dataset(data: Any) -> tf.data.Dataset:
    """A `PyDataset` as a `tf.data.Dataset` of the same batches."""
    if isinstance(data, tf.data.Dataset):
        return data
    signature = tree.map_structure(
        lambda array: tf.TensorSpec((None, *np.shape(array)[1:]), np.asarray(array).dtype), data[0]
    )
    return tf.data.Dataset.from_generator(lambda: batches(data), output_signature=signature).apply(
        tf.data.experimental.assert_cardinality(data.num_batches)
    )


def check_length(pairs: Any, fit_arguments: dict[str, Any]) -> None:
    """Raise if a data set is empty, or never ends without `steps_per_epoch` in `fit_arguments`."""
    length = int(pairs.cardinality()) if isinstance(pairs, tf.data.Dataset) else pairs.num_batches
    if length == 0:
        raise ValueError("`fit` received an empty data set: there is no training batch, or no meta batch.")
    if _is_endless(pairs) and not fit_arguments.get("steps_per_epoch"):
        raise ValueError(
            "The training data set never ends. Pass `fit(steps_per_epoch=...)`, or a data set that ends: leave out "
            "`.repeat()`, or give the `PyDataset` a number of batches. `fit` goes through the data once per epoch."
        )


def _is_endless(data: Any) -> bool:
    if isinstance(data, tf.data.Dataset):
        return data.cardinality() == tf.data.INFINITE_CARDINALITY
    return data.num_batches is None


def require_end(argument: str, data: Any) -> None:
    """Raise if `data` never ends, where all of its batches are needed."""
    if is_dataset(data) and _is_endless(data):
        raise ValueError(f"`{argument}` received a data set that never ends. Leave out its `.repeat()`.")
