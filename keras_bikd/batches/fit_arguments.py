"""The arguments of `fit` as batches: training set, meta set, weights of classes, checks of labels."""

from typing import Any, NamedTuple

import keras
import numpy as np

from keras_bikd import checks
from keras_bikd.batches.adapters import (
    ChangedBatches,
    adapter_of,
    arrays_in_batches,
    check_arrays,
    check_length,
    first_batches,
    is_dataset,
    require_samples,
)
from keras_bikd.keras_private import is_tf_dataset, train_validation_split
from keras_bikd.types import Batch, labels_and_logits, weights_of_labels

_PAIR = ("training", "meta")


class FitBatches(NamedTuple):
    """A training set or a meta set of `fit`.

    Attributes:
        batches: What Keras reads: a `tf.data.Dataset`, or a data adapter of Keras.
        in_order: The batches without shuffling, for callbacks.
        labels: All labels, if they come from arrays.
    """

    batches: Any
    in_order: Any
    labels: Any = None

    def example(self) -> Any:
        """A batch with the shapes and dtypes of those to come; of arrays, with all labels."""
        example = example_of(self.batches)
        if not isinstance(example, (tuple, list)) or len(example) < 2:
            raise ValueError(f"`fit` takes batches `(x, y)`. Received: batches of type {type(example).__name__}")
        return example if self.labels is None else (example[0], self.labels, *example[2:])


def training_set(
    x: Any, y: Any, arguments: dict[str, Any], *, shuffle: bool, shuffle_batches: bool = False, steps: int | None = None
) -> FitBatches:
    """The training data of `fit` in batches.

    Args:
        x: As in `BiKDModel.fit`.
        y: As in `BiKDModel.fit`.
        arguments: The remaining arguments of `fit`. Those that Keras does not take beside batches (`batch_size`,
            `sample_weight`, `validation_split`) are applied here and removed.
        shuffle: Whether to shuffle arrays.
        shuffle_batches: Whether to shuffle the batches of a `PyDataset`.
        steps: Number of batches to make of arrays, where no batch size is given.

    Returns:
        A `FitBatches`.

    Raises:
        ValueError: If the arguments do not fit together, or a data set is empty or never ends.
    """
    own = {name: arguments.pop(name, None) for name in ("batch_size", "sample_weight", "validation_split")}
    if not is_dataset(x):
        arrays = (x, y) if own["sample_weight"] is None else (x, y, own["sample_weight"])
        arrays = check_arrays("fit(x, y)", arrays)
        if own["batch_size"] is not None:
            checks.integer("fit", "batch_size", own["batch_size"])
        if own["validation_split"] and arguments.get("validation_data") is None:
            share = checks.number("fit", "validation_split", own["validation_split"], above=0, below=1)
            arrays, arguments["validation_data"] = train_validation_split(arrays, share)
        return in_batches(arrays, own["batch_size"] or (None if steps else 32), shuffle, steps)
    given = [name for name, value in {"y": y, **own}.items() if value is not None]
    if given:
        raise ValueError(
            f"With a data set as `x`, `fit` takes no {' and no '.join(f'`{name}`' for name in given)}: "
            "the data set yields batches of (x, y) or (x, y, sample_weight). Leave the argument out."
        )
    data = x if is_tf_dataset(x) else adapter_of(x, shuffle=shuffle_batches)
    check_length(data, arguments.get("steps_per_epoch"))
    return FitBatches(data, data)


def meta_set(meta_data: Any, batch_size: int | None, meta_batch_size: int | None, shuffle: bool) -> FitBatches:
    """The meta set of `fit` in batches; arguments as in `BiKDModel.fit`."""
    meta_data = require_samples("fit(meta_data=...)", meta_data)
    if is_dataset(meta_data):
        if meta_batch_size is not None:
            raise ValueError(
                "`fit(meta_batch_size=...)` is for a meta set of arrays: this one yields batches of its own. "
                f"Received: meta_batch_size={meta_batch_size!r} with meta_data of type {type(meta_data).__name__}"
            )
        data = meta_data if is_tf_dataset(meta_data) else adapter_of(meta_data)
        return FitBatches(data, data)
    if meta_batch_size is not None:
        checks.integer("fit", "meta_batch_size", meta_batch_size)
    return in_batches(meta_data, meta_batch_size or batch_size or 32, shuffle)


def in_batches(arrays: Batch, batch_size: int | None, shuffle: bool, steps: int | None = None) -> FitBatches:
    """Arrays `(x, y)` in batches, with `shuffle` in a new order on every pass, as the backend reads them fastest."""
    in_order = arrays_in_batches(arrays, batch_size, shuffle=False, steps=steps)
    adapter = arrays_in_batches(arrays, batch_size, shuffle, steps)
    if keras.backend.backend() != "tensorflow":
        return FitBatches(adapter, in_order, arrays[1])
    from keras_bikd.batches.tf_data import as_tf_dataset

    return FitBatches(as_tf_dataset(adapter), in_order, arrays[1])


def example_of(data: Any) -> Any:
    """A batch of a data set, with the shapes and dtypes of those to come."""
    if is_tf_dataset(data):
        from keras_bikd.batches import tf_data

        example = tf_data.example(data)
    else:
        example = next(iter(first_batches(adapter_of(data))), None)
    if example is None:
        raise ValueError("`fit` received an empty data set: there is no training batch, or no meta batch.")
    return example


def checked(data: Any, num_classes: int, names: tuple[str, ...] = _PAIR, class_weight: np.ndarray | None = None) -> Any:
    """Labels of arrays `(x, y)` are checked at once, those of a data set when they come.

    Args:
        data: A data set of `(x, y)` or of pairs of them, or a tuple of arrays.
        num_classes: Number of classes.
        names: What to call the labels, for the message; two names for pairs.
        class_weight: One number per class, by which the sample weights of the training batches are multiplied.

    Returns:
        The data. A data set fails at the first labels that are wrong, instead of training on them.
    """
    if is_tf_dataset(data):
        from keras_bikd.batches import tf_data

        dataset = tf_data.checked(data, num_classes, names, class_weight)
        return dataset.prefetch(-1) if names == _PAIR else dataset  # tf.data.AUTOTUNE

    def check(data: Any) -> Any:
        batches = data if names == _PAIR else (data,)
        for name, (_, target, *_) in zip(names, batches):
            checks.labels_match(name, target, num_classes)
        if class_weight is not None:
            batches = (_weighted(*batches[0], class_weight=class_weight), *batches[1:])
        return batches if names == _PAIR else batches[0]

    return ChangedBatches(adapter_of(data), check) if is_dataset(data) else check(data)


def _weighted(x: Any, target: Any, sample_weight: Any = None, *, class_weight: np.ndarray) -> Batch:
    labels = np.asarray(labels_and_logits(target)[0])
    ids = labels.argmax(axis=-1) if labels.ndim == 2 and labels.shape[1] > 1 else labels.reshape(-1)
    weight, given = class_weight[ids.astype("int64")], weights_of_labels(sample_weight)
    return x, target, np.asarray(weight if given is None else weight * given.reshape(-1), "float32")


def weight_per_class(class_weight: Any, num_classes: int) -> np.ndarray:
    """`fit(class_weight=...)` as one number per class.

    Args:
        class_weight: One number per class, or a dict of class ids to numbers, where a class that is left out counts
            once.
        num_classes: Number of classes.
    """
    weights = np.ones(num_classes)
    try:
        given = (
            class_weight if isinstance(class_weight, dict) else dict(enumerate(np.reshape(class_weight, num_classes)))
        )
        for label, weight in given.items():
            weights[range(num_classes).index(label)] = weight
    except (TypeError, ValueError):
        weights = np.full(num_classes, np.nan)
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(
            "`fit(class_weight=...)` takes one number per class, none negative, or a dict of class ids to numbers, and "
            f"the student has {num_classes} classes. Received: class_weight={class_weight!r}"
        )
    return weights
