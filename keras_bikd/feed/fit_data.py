"""The arguments of `fit` as pairs of batches."""

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree

from keras_bikd.feed.batches import batched, check_arrays, check_length, is_dataset
from keras_bikd.feed.pairs import pair, require_pair, require_unpaired
from keras_bikd.types import Batch, Tensor

__all__ = ["FitData", "data_of_fit", "example_of"]

_EXAMPLE_ROWS, _EXAMPLE_LENGTH = 2, 32  # of an example batch, where the data set leaves them open


class FitData(NamedTuple):
    """The data of `fit`, ready for training.

    Attributes:
        pairs: Data set of `((x, y), (meta_x, meta_y))`.
        samples: The training batches alone, for callbacks.
        example: A pair with the shapes and dtypes of those to come; of arrays, with all labels.
    """

    pairs: Any
    samples: Any
    example: tuple[Batch, Batch]


def data_of_fit(
    x: Any, y: Any, meta_data: Any, *, batch_size: int | None, shuffle: bool, fit_arguments: dict[str, Any]
) -> FitData:
    """Turn the arguments of `fit` into pairs of batches. No batch is drawn from a `tf.data` pipeline.

    Args:
        x: As in `BiKDModel.fit`.
        y: As in `BiKDModel.fit`.
        meta_data: As in `BiKDModel.fit`.
        batch_size: Batch size for arrays, or `None`.
        shuffle: Whether to shuffle arrays.
        fit_arguments: The remaining keyword arguments of `fit`. Those that Keras does not take for pairs
            (`sample_weight`, `class_weight`, `validation_split`) are applied here and removed.

    Returns:
        A `FitData`.

    Raises:
        ValueError: If the arguments do not fit together, or a data set is empty or never ends.
    """
    class_weight = fit_arguments.pop("class_weight", None)
    own = {name: fit_arguments.pop(name, None) for name in ("sample_weight", "validation_split")}
    if is_dataset(x):
        _refuse_with_dataset({"y": y, "batch_size": batch_size, **own})
        train, samples, labels = x, x, None
    else:
        arrays = _train_arrays(x, y, **own, fit_arguments=fit_arguments)
        samples, labels = batched(arrays, batch_size, shuffle=False), arrays[1]
        train = batched(arrays, batch_size, shuffle)
    if class_weight is not None:
        train = _weighted_by_class(train, class_weight)
    pairs, meta_labels = train, None
    if meta_data is not None:
        meta, meta_labels = _meta_batches(meta_data, batch_size, shuffle)
        pairs = pair(train, meta)
    check_length(pairs, fit_arguments)
    example = _example(pairs)
    require_pair(example)
    (x, y, *_), (meta_x, meta_y, *_) = example[:2]
    y = y if labels is None else labels
    return FitData(pairs, samples, ((x, y), (meta_x, meta_y if meta_labels is None else meta_labels)))


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
    arrays = check_arrays("x, y", (x, y) if sample_weight is None else (x, y, sample_weight))
    if validation_split and fit_arguments.get("validation_data") is None:
        arrays, fit_arguments["validation_data"] = _split(arrays, validation_split)
    return arrays


def _meta_batches(meta_data: Any, batch_size: int | None, shuffle: bool) -> tuple[Any, Any]:
    """The meta set in batches, and all its labels if they are arrays."""
    if is_dataset(meta_data):
        return meta_data, None
    if not isinstance(meta_data, (tuple, list)) or len(meta_data) not in (2, 3):
        raise ValueError(
            "`fit(meta_data=...)` takes a `tf.data.Dataset`, a `keras.utils.PyDataset`, or arrays as a tuple "
            f"(x, y). Received: {type(meta_data).__name__}"
        )
    return batched(check_arrays("meta_data", tuple(meta_data)), batch_size, shuffle), meta_data[1]


def example_of(x: Any, y: Any) -> tuple[Any, Any] | None:
    """Inputs and labels like those of `fit(x, y)`: arrays, or those of a batch; `None` for other kinds of `x`."""
    if is_dataset(x):
        example = _example(x)
        return (example[0], example[1]) if isinstance(example, (tuple, list)) and len(example) > 1 else None
    are_arrays = all(isinstance(part, np.ndarray) or ops.is_tensor(part) for part in tree.flatten((x, y)))
    return (x, y) if are_arrays else None


def _example(batches: Any) -> Any:
    """A batch with the shapes of those to come. None is drawn from a `tf.data` pipeline, whose order would change."""
    if isinstance(batches, keras.utils.PyDataset):
        return batches[0]

    def zeros(spec: tf.TensorSpec) -> np.ndarray:
        if spec.shape.rank is None:
            raise ValueError(
                "The data set yields tensors of unknown shape, as `tf.py_function` and generators without a signature "
                "do. Give them one with `tf.ensure_shape` in a `.map(...)`, such as (None, 28, 28, 1). "
                f"Received: {batches.element_spec}"
            )
        shape = [_EXAMPLE_LENGTH if length is None else length for length in spec.shape]
        return tf.zeros([_EXAMPLE_ROWS, *shape[1:]] if shape else shape, spec.dtype).numpy()

    return tree.map_structure(zeros, batches.element_spec)


def _split(arrays: Batch, validation_split: float) -> tuple[Batch, Batch]:
    if not 0 < validation_split < 1:
        raise ValueError(f"`fit(validation_split=...)` takes a number between 0 and 1. Received: {validation_split!r}")
    cut = int(len(tree.flatten(arrays)[0]) * (1 - validation_split))
    return (
        tree.map_structure(lambda array: array[:cut], arrays),
        tree.map_structure(lambda array: array[cut:], arrays),
    )


def _weighted_by_class(train: Any, class_weight: dict[int, float]) -> tf.data.Dataset:
    if not isinstance(train, tf.data.Dataset):
        raise ValueError(
            "`fit(class_weight=...)` works with arrays and `tf.data`; let the `PyDataset` yield (x, y, sample_weight)."
        )
    require_unpaired("class_weight", train.element_spec)
    classes = tf.constant(list(class_weight), "int64")
    surplus = tf.constant([weight - 1.0 for weight in class_weight.values()], "float32")

    def weigh(x: Any, labels: Tensor, sample_weight: Tensor | None = None) -> Batch:
        are_ids = labels.shape.rank == 1 or labels.shape[-1] == 1
        ids = tf.reshape(labels, [-1]) if are_ids else tf.argmax(labels, axis=-1)
        members = tf.cast(tf.cast(ids, "int64")[:, None] == classes, "float32")
        weight = 1.0 + tf.linalg.matvec(members, surplus)
        return x, labels, weight if sample_weight is None else weight * tf.cast(sample_weight, weight.dtype)

    return train.map(weigh)
