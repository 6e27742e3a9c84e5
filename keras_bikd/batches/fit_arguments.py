"""The arguments of `fit` as pairs of batches."""

from typing import Any, NamedTuple

import keras
from keras import tree

# Keras has no public name for what splits its arrays.
from keras.src.trainers.data_adapters import array_slicing

from keras_bikd import checks
from keras_bikd.batches.adapters import (
    adapter_of,
    arrays_in_batches,
    as_objects,
    check_arrays,
    check_length,
    first_batches,
    has_strings,
    is_dataset,
    is_tf_dataset,
    require_samples,
)
from keras_bikd.batches.labels import class_weights, weighted_by_class
from keras_bikd.batches.pairs import pair, require_pair, require_unpaired
from keras_bikd.batches.preprocessing import Preprocessing, preprocessed
from keras_bikd.types import Batch


class FitData(NamedTuple):
    """The data of `fit`, ready for training.

    Attributes:
        pairs: Data set of `((x, y), (meta_x, meta_y))`.
        samples: The training batches alone, for callbacks, without the student's preprocessing.
        example: A pair with the shapes and dtypes of those to come; of arrays, with all labels.
    """

    pairs: Any
    samples: Any
    example: tuple[Batch, Batch]


def data_of_fit(
    x: Any,
    y: Any,
    meta_data: Any,
    *,
    batch_sizes: tuple[int | None, int | None],
    shuffle: bool,
    prepare: Preprocessing,
    arguments: dict[str, Any],
) -> FitData:
    """Turn the arguments of `fit` into pairs of batches. At most the first batches are looked at.

    Args:
        x: As in `BiKDModel.fit`.
        y: As in `BiKDModel.fit`.
        meta_data: As in `BiKDModel.fit`.
        batch_sizes: Batch sizes for arrays, of the training and of the meta set, or `None`.
        shuffle: Whether to shuffle arrays.
        prepare: The preprocessing of the student.
        arguments: The remaining keyword arguments of `fit`. Those that Keras does not take for pairs
            (`sample_weight`, `class_weight`, `validation_split`) are applied here and removed.

    Returns:
        A `FitData`.

    Raises:
        ValueError: If the arguments do not fit together, or a data set is empty or never ends.
    """
    batch_size, meta_batch_size = batch_sizes
    class_weight = arguments.pop("class_weight", None)
    own = {name: arguments.pop(name, None) for name in ("sample_weight", "validation_split")}
    if is_dataset(x):
        _refuse_with_dataset({"y": y, "batch_size": batch_size, **own})
        train = samples = x if is_tf_dataset(x) else adapter_of(x)
        labels = None
    else:
        arrays = _train_arrays(x, y, **own, fit_arguments=arguments)
        samples, labels = arrays_in_batches(arrays, batch_size, shuffle=False), arrays[1]
        train = batched(arrays, batch_size, shuffle)
    check_length(train, arguments)
    train = preprocessed(train, prepare)
    example, meta_labels = _example(train), None
    if class_weight is not None:
        require_unpaired("class_weight", example)
        train = weighted_by_class(train, class_weights(class_weight))
    pairs = train
    if meta_data is not None:
        meta, meta_labels = _meta_batches(meta_data, batch_size, meta_batch_size, shuffle)
        meta = preprocessed(meta, prepare)
        pairs, meta_example = pair(train, meta), _example(meta)
        require_pair((example, meta_example))
        example = example, meta_example
    require_pair(example)
    (x, y, *_), (meta_x, meta_y, *_) = example[:2]
    y = y if labels is None else labels
    return FitData(pairs, samples, ((x, y), (meta_x, meta_y if meta_labels is None else meta_labels)))


def batched(arrays: Any, batch_size: int | None, shuffle: bool) -> Any:
    """Arrays `(x, y)` in batches, with `shuffle` in a new order on every pass, as the backend reads them fastest."""
    adapter = arrays_in_batches(arrays, batch_size, shuffle)
    if keras.backend.backend() != "tensorflow":
        return adapter
    from keras_bikd.batches.tf_data import as_tf_dataset

    return as_tf_dataset(adapter)


def arrays_in_fit(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `keras.Model.fit` with its arrays in batches; a split and sample weights are applied."""
    arguments = {"y": None, "batch_size": None, "sample_weight": None, "validation_split": None, **arguments}
    x, y, batch_size, sample_weight, split = (
        arguments.pop(name) for name in ("x", "y", "batch_size", "sample_weight", "validation_split")
    )
    arrays = _train_arrays(x, y, sample_weight=sample_weight, validation_split=split, fit_arguments=arguments)
    return {"x": batched(arrays, batch_size, arguments.get("shuffle", True)), **arguments}


def raw_batches(data: Any, batch_size: int | None) -> Any:
    """A data set as it is; arrays `(x,)`, `(x, y)` or `(x, y, sample_weight)` in batches."""
    if is_dataset(data):
        return data
    x, *others = data
    return batched((as_objects(x), *others), batch_size, shuffle=False)


def _refuse_with_dataset(arguments: dict[str, Any]) -> None:
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        raise ValueError(
            f"With a data set as `x`, `fit` takes no {' and no '.join(f'`{name}`' for name in given)}: "
            "the data set yields batches of (x, y) or (x, y, sample_weight). Leave the argument out."
        )


def _train_arrays(
    x: Any, y: Any, *, sample_weight: Any, validation_split: float | None, fit_arguments: dict[str, Any]
) -> Batch:
    arrays = check_arrays("fit(x, y)", (x, y) if sample_weight is None else (x, y, sample_weight))
    if validation_split and fit_arguments.get("validation_data") is None:
        arrays, fit_arguments["validation_data"] = _split(arrays, validation_split)
    return arrays


def _meta_batches(
    meta_data: Any, batch_size: int | None, meta_batch_size: int | None, shuffle: bool
) -> tuple[Any, Any]:
    """The meta set in batches, and all its labels if they are arrays."""
    if is_dataset(meta_data):
        if meta_batch_size is not None:
            raise ValueError(
                "`fit(meta_batch_size=...)` is for a meta set of arrays: this one yields batches of its own. "
                f"Received: meta_batch_size={meta_batch_size!r} with meta_data of type {type(meta_data).__name__}"
            )
        return meta_data if is_tf_dataset(meta_data) else adapter_of(meta_data), None
    require_samples("fit(meta_data=...)", meta_data)
    if meta_batch_size is not None:
        checks.positive_integer("fit", "meta_batch_size", meta_batch_size)
    arrays = check_arrays("fit(meta_data=...)", tuple(meta_data))
    return batched(arrays, meta_batch_size or batch_size, shuffle), arrays[1]


def example_of(x: Any, y: Any) -> tuple[Any, Any] | None:
    """Inputs and labels like those of `fit(x, y)`: arrays, or those of a batch; `None` if there are no labels."""
    if not is_dataset(x):
        return None if y is None else check_arrays("fit(x, y)", (x, y))[:2]
    example = _example(x)
    return (example[0], example[1]) if isinstance(example, (tuple, list)) and len(example) > 1 else None


def _example(data: Any) -> Any:
    """A batch with the shapes of those to come."""
    if is_tf_dataset(data):
        from keras_bikd.batches import tf_data

        return tf_data.example(data)
    return next(iter(first_batches(adapter_of(data))), None)


def _split(arrays: Batch, validation_split: float) -> tuple[Batch, Batch]:
    if not 0 < validation_split < 1:
        raise ValueError(f"`fit(validation_split=...)` takes a number between 0 and 1. Received: {validation_split!r}")
    if not has_strings(arrays):
        return array_slicing.train_validation_split(arrays, validation_split)
    cut = int(len(arrays[1]) * (1 - validation_split))
    return (
        tree.map_structure(lambda array: array[:cut], arrays),
        tree.map_structure(lambda array: array[cut:], arrays),
    )
