"""Labels that come out of a data set are checked when they come, and not trained on if they are wrong."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from keras.src.trainers.data_adapters import data_adapter_utils

from keras_bikd import checks
from keras_bikd.batches.adapters import ChangedBatches, adapter_of, is_dataset, is_tf_dataset
from keras_bikd.types import Batch, labels_and_logits, weights_of_labels

_PAIR = ("training", "meta")


def check_labels(pairs: Any, num_classes: int) -> Any:
    """Let a data set of pairs fail at the first labels that are wrong, instead of training on them."""
    return _checked(pairs, num_classes, _PAIR)


def check_plain_labels(name: str, data: Any, num_classes: int) -> Any:
    """As `check_labels`, for a data set of `(x, y)`; arrays `(x, y)` fail at once.

    Args:
        name: Data set of the labels, for the message.
        data: A data set, a tuple of arrays, or `None`.
        num_classes: Number of classes.

    Returns:
        The data, which fail when they yield wrong labels.
    """
    if is_dataset(data):
        return _checked(data, num_classes, (name,))
    if isinstance(data, (tuple, list)) and len(data) in (2, 3):
        checks.labels_match(name, data[1], num_classes)
    return data


def _checked(data: Any, num_classes: int, names: tuple[str, ...]) -> Any:
    if is_tf_dataset(data):
        from keras_bikd.batches import tf_data

        dataset = tf_data.checked(data, num_classes, names)
        return dataset.prefetch(-1) if names == _PAIR else dataset  # tf.data.AUTOTUNE

    def check(batch: Any) -> Any:
        for name, (_, labels, *_) in zip(names, batch if names == _PAIR else (batch,)):
            checks.labels_match(name, labels, num_classes)
        return batch

    return ChangedBatches(adapter_of(data), check)


def class_weights(value: Any) -> dict[int, float]:
    """`fit(class_weight=...)` as a dict: from one, or from an array with a number per class."""
    if isinstance(value, dict):
        labels, weights = all(map(_is_class, value)), np.asarray(list(value.values()))
        if (
            not labels
            or not np.issubdtype(weights.dtype, np.number)
            or not (np.isfinite(weights) & (weights >= 0)).all()
        ):
            raise ValueError(
                "`fit(class_weight=...)` takes a dict of class ids to numbers, none negative. "
                f"Received: class_weight={value!r}"
            )
        return value
    return dict(enumerate(checks.number_per_class("fit", "class_weight", np.asarray(value).tolist())))


def _is_class(label: Any) -> bool:
    return isinstance(label, (int, np.integer)) and bool(label >= 0)


def check_class_weights(value: Any, num_classes: int) -> None:
    """Raise if `fit(class_weight=...)` names a class that does not exist, or is an array of another length."""
    if value is None:
        return
    unknown = [label for label in class_weights(value) if label >= num_classes]
    if unknown or (not isinstance(value, dict) and len(value) != num_classes):
        raise ValueError(
            "`fit(class_weight=...)` takes one number per class, or a dict of class id to number, and the student has "
            f"{num_classes} classes. Received: class_weight={value!r}"
        )


def weighted_by_class(data: Any, class_weight: dict[int, float]) -> Any:
    """Multiply the sample weights of a data set of `(x, y)` by the weights of the classes."""
    if is_tf_dataset(data):
        from keras_bikd.batches import tf_data

        return tf_data.weighted_by_class(data, class_weight)

    def weigh(batch: Batch) -> Batch:
        x, target, *given = batch
        weight = sample_weights(target, class_weight)
        return x, target, np.asarray(weight * weights_of_labels(given[0]).reshape(-1) if given else weight, "float32")

    return ChangedBatches(adapter_of(data), weigh)


def sample_weights(target: Any, class_weight: dict[int, float]) -> np.ndarray:
    """The weight of the class of every sample, shape `(samples,)`; of a class without one it is 1."""
    return data_adapter_utils.class_weight_to_sample_weights(labels_and_logits(target)[0], class_weight)


_NAMES = "training|meta|validation"


@contextlib.contextmanager
def label_errors() -> Iterator[None]:
    """Turn what TensorFlow makes of a failed check of labels into a `ValueError` of one sentence."""
    try:
        yield
    except Exception as error:
        message = getattr(error, "message", "")  # only TensorFlow's errors have one
        raised = re.search(rf"ValueError: (The (?:{_NAMES}) labels .*)", message)  # while Python yielded a batch
        if raised is not None:
            raise ValueError(raised.group(1)) from None
        found = re.search(rf"The ({_NAMES}) labels [^.]*\..*?Received:.*?\[[^]]*\]", message, re.DOTALL)
        if found is None:
            raise
        raise ValueError(" ".join(re.sub(r"[\[\]']+", " ", found.group()).split())) from None
