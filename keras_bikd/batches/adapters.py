"""Batches of whatever Keras' `fit` takes: its own data adapters read them, and what they yield is checked or paired."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from keras_bikd import keras_private
from keras_bikd.keras_private import DataAdapter, GeneratorDataAdapter, PyDatasetAdapter, is_tf_dataset
from keras_bikd.types import Batch

SHUFFLE_BUFFER = 64  # batches of a meta set that are drawn from, where its length is unknown


def is_dataset(data: Any) -> bool:
    """Whether `data` yields batches by itself: a data set, a loader or an iterable of batches, and no arrays."""
    if isinstance(data, (DataAdapter, keras.utils.PyDataset)) or is_tf_dataset(data):
        return True
    if isinstance(data, (tuple, list)):  # of batches, or of arrays
        return bool(data) and all(isinstance(batch, (tuple, list)) and len(batch) in (2, 3) for batch in data)
    are_arrays = isinstance(data, (str, dict)) or keras_private.can_convert_arrays(data)
    return isinstance(data, Iterable) and not are_arrays


def adapter_of(data: Any, *, shuffle: bool = False) -> DataAdapter:
    """Keras' adapter of a data set, a `PyDataset`, a torch or Grain loader, a generator, or an iterable of batches.

    With `shuffle` a `PyDataset` yields its batches in a new order on every pass. The other kinds have their own order.
    """
    if isinstance(data, (tuple, list)):
        data = _ListOfBatches(data)
    is_known = isinstance(data, (DataAdapter, keras.utils.PyDataset)) or is_tf_dataset(data)
    if not is_known and not keras_private.is_torch_dataloader(data) and not keras_private.is_grain_dataset(data):
        data = (batch for batch in data)  # Keras takes generators, and no other iterators or iterables
    has_batches = isinstance(data, keras.utils.PyDataset) and data.num_batches is not None
    return keras_private.get_data_adapter(data, shuffle=shuffle and has_batches)


def arrays_in_batches(arrays: Any, batch_size: int | None, shuffle: bool, steps: int | None = None) -> DataAdapter:
    """Keras' adapter of arrays `(x, y)` or `(x, y, sample_weight)`; with `shuffle` in a new order each time."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(arrays)
    return keras_private.get_data_adapter(
        x, y, sample_weight=sample_weight, batch_size=batch_size, steps_per_epoch=steps, shuffle=shuffle
    )


def batches(data: Any) -> Iterator[Any]:
    """Iterate over the batches of a data set, once, as NumPy arrays."""
    return iter(adapter_of(data).get_numpy_iterator())


def as_batches(data: Any, batch_size: int | None = None) -> Iterator[Any]:
    """Iterate once over the batches of a data set, or of arrays `(x, y)`."""
    if not is_dataset(data):
        data = arrays_in_batches(check_arrays("fit(x, y)", tuple(data)), batch_size or 32, shuffle=False)
    return batches(data)


def first_batches(adapter: DataAdapter, count: int = 1) -> list[Any]:
    """The first batches, which a generator yields again when it is read."""
    if isinstance(adapter, NumpyBatches):
        return adapter.first(count)
    if isinstance(adapter, PyDatasetAdapter):  # reading it would start its workers
        length = adapter.num_batches
        return [adapter.py_dataset[i] for i in range(count if length is None else min(count, length))]
    return list(itertools.islice(adapter.get_numpy_iterator(), count))


def first_rows(inputs: Any, count: int) -> Any:
    """The first samples of arrays or of a batch; sparse ones as dense arrays."""
    return tree.map_structure(lambda array: _dense(array, count)[:count], inputs)


def _dense(array: Any, rows: int | None = None) -> Any:
    """A sparse matrix as a dense array of its first or all rows; any other array as it is."""
    known = (keras_private.is_scipy_sparse, keras_private.is_tensorflow_sparse, keras_private.is_jax_sparse)
    if not any(is_sparse(array) for is_sparse in known):
        return array
    return np.asarray(
        next(keras_private.get_data_adapter(array, batch_size=rows or array.shape[0]).get_numpy_iterator())
    )


def _standard(batch: Any) -> Any:
    """A batch in tuples and dense arrays, which every backend takes."""
    return tree.lists_to_tuples(tree.map_structure(_dense, batch))


class _ListOfBatches(keras.utils.PyDataset):
    def __init__(self, data: Sequence[Batch]) -> None:
        super().__init__()
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Batch:
        return self.data[index]


class NumpyBatches(DataAdapter):
    """A data adapter of NumPy arrays, in the form that any backend takes.

    A child defines `get_numpy_iterator`, `num_batches`, `batch_size` and `first`.
    """

    def first(self, count: int) -> list[Any]:
        """The first batches, without drawing from what is read later."""
        raise NotImplementedError(f"{type(self).__name__} must define `first`.")

    def get_jax_iterator(self) -> Iterator[Any]:
        return self.get_numpy_iterator()

    def get_torch_dataloader(self) -> Any:
        return keras_private.get_torch_dataloader(self.get_numpy_iterator())

    def get_tf_dataset(self) -> Any:
        import tensorflow as tf

        signature = keras_private.get_tensor_spec(self.first(2))  # two, because their lengths may differ
        data = tf.data.Dataset.from_generator(self.get_numpy_iterator, output_signature=signature)
        # There is nothing to tune, and the end of a `fit` would wait for the tuner: for as long as the training took.
        options = tf.data.Options()
        options.autotune.enabled = False
        return data.prefetch(tf.data.AUTOTUNE).with_options(options)


class ChangedBatches(NumpyBatches):
    """The batches of a Keras data adapter, each passed through a function.

    Lists become tuples, and sparse matrices dense arrays.

    Args:
        source: Keras data adapter.
        change: Function of a batch of NumPy arrays, without state.
    """

    def __init__(self, source: DataAdapter, change: Callable[[Any], Any]) -> None:
        self.source, self.change = source, change

    def get_numpy_iterator(self) -> Iterator[Any]:
        return map(self._changed, self.source.get_numpy_iterator())

    def first(self, count: int) -> list[Any]:
        return [self._changed(batch) for batch in first_batches(self.source, count)]

    def _changed(self, batch: Any) -> Any:
        return self.change(_standard(batch))

    @property
    def num_batches(self) -> int | None:
        return self.source.num_batches

    @property
    def batch_size(self) -> int | None:
        return self.source.batch_size

    def on_epoch_begin(self) -> None:
        self.source.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.source.on_epoch_end()


def require_samples(argument: str, data: Any) -> Any:
    """Return `data` if it yields batches, or is a tuple of arrays `(x, y)` with a label for each sample, else raise."""
    if is_dataset(data):
        return data
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise ValueError(
            f"`{argument}` takes arrays as a tuple (x, y), or a data set that yields batches of them, such as a "
            "`tf.data.Dataset`, a `keras.utils.PyDataset`, a torch `DataLoader` or a list of batches. "
            f"Received: {type(data).__name__}"
        )
    return check_arrays(argument, tuple(data))


def check_arrays(argument: str, arrays: Any) -> Any:
    """Return `arrays` if they have the same number of samples, at least one, else raise.

    Labels may be a list, and so may strings, which Keras reads from arrays of objects.
    """

    def strings_as_objects(part: Any) -> np.ndarray | None:
        is_list = isinstance(part, list) and bool(part) and isinstance(part[0], str)
        is_array = isinstance(part, np.ndarray) and part.dtype.kind == "U"
        return np.asarray(part, dtype=object) if is_list or is_array else None

    x, *others = arrays
    others = [np.asarray(part) if isinstance(part, (list, tuple)) else part for part in others]
    arrays = (tree.traverse(strings_as_objects, x), *others)
    flat = tree.flatten(arrays)
    lengths = {np.shape(array)[:1] for array in flat}
    is_wrong = not keras_private.can_convert_arrays(arrays) or any(array is None for array in flat)
    if is_wrong or len(lengths) != 1 or lengths <= {(), (0,)}:
        received = tree.map_structure(lambda array: None if array is None else tuple(np.shape(array)), arrays)
        raise ValueError(
            f"`{argument}` takes arrays with the same number of samples, at least one, and labels for each. "
            f"Received: shapes {received}"
        )
    return arrays


def check_length(data: Any, steps_per_epoch: int | None) -> None:
    """Raise if a data set is empty, or never ends without `steps_per_epoch`."""
    length = (
        int(data.cardinality()) if is_tf_dataset(data) else None if reads_once(data) else adapter_of(data).num_batches
    )
    if length == 0:
        raise ValueError("`fit` received an empty data set: there is no training batch, or no meta batch.")
    if _is_endless(data) and not steps_per_epoch:
        raise ValueError(
            "The training data set never ends. Pass `fit(steps_per_epoch=...)`, or a data set that ends: leave out "
            "`.repeat()`, or give the `PyDataset` a number of batches. `fit` goes through the data once per epoch."
        )


def reads_once(data: Any) -> bool:
    """Whether a second pass over `data` does not yield the same batches: a generator, or its adapter."""
    while isinstance(data, ChangedBatches):
        data = data.source
    return isinstance(data, (Iterator, GeneratorDataAdapter))


def _is_endless(data: Any) -> bool:
    if is_tf_dataset(data):
        return int(data.cardinality()) == -1  # tf.data.INFINITE_CARDINALITY
    while isinstance(data, ChangedBatches):
        data = data.source
    is_indexed = isinstance(data, (PyDatasetAdapter, keras.utils.PyDataset, NumpyBatches))
    return is_indexed and data.num_batches is None


def require_end(argument: str, data: Any) -> None:
    """Raise if `data` never ends, where all of its batches are needed."""
    if is_dataset(data) and _is_endless(data):
        raise ValueError(f"`{argument}` received a data set that never ends. Leave out its `.repeat()`.")
