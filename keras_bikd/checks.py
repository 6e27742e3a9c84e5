"""Checks of arguments and data. The errors say what was received, what is expected, and how to mend it.

`owner` and `name` are the function and its argument, for the message.
"""

import warnings
from collections.abc import Callable, Collection
from math import inf
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_bikd.types import Tensor, labels_and_logits


def is_number(value: Any) -> bool:
    """Whether `value` is a real number; booleans do not count."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def number(
    owner: str, name: str, value: Any, *, above: float = -inf, at_least: float = -inf, below: float = inf
) -> float:
    """Return `value` if it is a finite number within the bounds, else raise."""
    if not is_number(value) or not (above < value < below and value >= at_least):
        bounds = f"of at least {at_least}" if at_least > -inf else f"above {above}"
        bounds = bounds if below == inf else f"between {above} and {below}"
        raise ValueError(f"`{owner}({name}=...)` takes a number {bounds}. Received: {name}={value!r}")
    return value


def integer(owner: str, name: str, value: Any, *, at_least: int = 1) -> int:
    """Return `value` if it is an integer of at least `at_least`, else raise."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < at_least:
        raise ValueError(f"`{owner}({name}=...)` takes an integer of at least {at_least}. Received: {name}={value!r}")
    return int(value)


def number_per_class(owner: str, name: str, values: Any) -> list[float]:
    """Return `values` as a list if they are two or more finite numbers, none negative and not all 0, else raise."""
    array = np.asarray(values)
    numbers = array.ndim == 1 and len(array) > 1 and np.issubdtype(array.dtype, np.number)
    if not numbers or not np.isfinite(array).all() or array.min() < 0 or array.max() == 0:
        raise ValueError(
            f"`{owner}({name}=...)` takes one number per class, none negative. Received: {name}={values!r}"
        )
    return array.tolist()


def class_counts(owner: str, name: str, values: Any) -> list[int]:
    """Return training images per class as a list of integers, else raise."""
    numbers = number_per_class(owner, name, values)
    counts = [round(number) for number in numbers]
    if counts != numbers:
        raise ValueError(f"`{owner}({name}=...)` takes numbers of samples, not shares. Received: {name}={values!r}")
    return counts


def objective(owner: str, name: str, value: Any) -> Callable[..., Tensor]:
    """Return `value` if it can be called as an objective, else raise."""
    arguments, example = "(labels, teacher_logits, student_logits)", "objectives.KnowledgeDistillation()"
    return _function(owner, name, value, arguments, example)


def function_of_features(owner: str, name: str, value: Any) -> Callable[..., Tensor]:
    """Return `value` if it can be called with the features of teacher and student, else raise."""
    return _function(owner, name, value, "(teacher_features, student_features)", "losses.attention_transfer_loss")


def _function(owner: str, name: str, value: Any, arguments: str, example: str) -> Callable[..., Tensor]:
    if not callable(value):
        raise ValueError(
            f"`{owner}({name}=...)` takes a function {arguments} -> (batch,), such as `keras_bikd.{example}`. "
            f"Received: {name}={value!r}"
        )
    return value


def layer_name(owner: str, name: str, value: Any) -> str:
    """Return `value` if it can be the name of a layer, else raise."""
    if not isinstance(value, str):
        raise ValueError(f"`{owner}({name}=...)` takes the name of a layer. Received: {name}={value!r}")
    return value


def one_of(owner: str, name: str, value: Any, choices: Collection[Any]) -> Any:
    """Return `value` if it is one of `choices`, else raise."""
    if value not in choices:
        allowed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{owner}({name}=...)` takes one of {allowed}. Received: {name}={value!r}")
    return value


def classes_of(role: str, model: keras.Model, outputs: Any) -> int:
    """Return the number of classes of a model; raise if its outputs for a few samples cannot be logits.

    Args:
        role: `"student"` or `"teacher"`, for the message.
        model: `keras.Model`.
        outputs: What it returns for a few samples.

    Returns:
        Width of the outputs; 2 for a binary classifier with one logit.
    """
    if isinstance(outputs, (dict, list, tuple)) or len(outputs.shape) != 2:
        shapes = tree.map_structure(lambda tensor: tuple(tensor.shape), outputs)
        choose = (
            "choose one with `teacher_output=...`, or make a model of it: " if role == "teacher" else "make a model: "
        )
        raise ValueError(
            f"The {role} must return one tensor of logits of shape (batch, classes). Received: shape {shapes}. "
            f"Of several outputs, {choose}`keras.Model({role}.inputs, {role}.outputs[0])`."
        )
    logits = ops.convert_to_numpy(ops.cast(outputs, "float32"))
    if logits.shape[-1] == 1:
        last = model.layers[-1] if model.layers else model
        if getattr(last, "activation", None) is keras.activations.sigmoid:
            raise ValueError(
                f"The {role} must return a logit, but its only output is a probability, from the sigmoid of "
                f"{last.name!r}. Received: {logits[0].tolist()} for the first sample. Remove the sigmoid, for instance "
                "with `activation=None`."
            )
        return 2
    if np.all(logits >= 0) and np.allclose(logits.sum(axis=-1), 1.0, atol=1e-3):
        raise ValueError(
            f"The {role} must return logits, but its outputs are probabilities: every row is non-negative and sums "
            f"to 1. Received: {np.round(logits[0], 4).tolist()} for the first sample. Remove the softmax at the end, "
            "for instance with `activation=None` in its last layer."
        )
    return int(logits.shape[-1])


def finite_logits(logits: Tensor) -> Tensor:
    """Return the teacher's logits of a batch if all are finite, else raise."""
    wrong = ~np.isfinite(ops.convert_to_numpy(logits))
    if wrong.any():
        raise ValueError(
            "The `teacher_logits` of a batch must be finite. "
            f"Received: {wrong.sum()} of {wrong.size} numbers that are NaN or infinite"
        )
    return logits


def batched(name: str, target: Any) -> None:
    """Raise if the labels of a batch are those of a single sample: the data set is not batched."""
    if np.ndim(labels_and_logits(target)[0]) == 0:
        raise ValueError(f"The {name} data set is not batched: a label has shape (). Call `.batch(...)` on it.")


def labels_match(name: str, target: Any, num_classes: int) -> None:
    """Raise unless the labels are class ids below `num_classes` or rows of `num_classes` entries that sum to 1.

    Class ids may be whole floats or booleans, as `image_dataset_from_directory(label_mode="binary")` yields them.

    Args:
        name: Data set of the labels, for the message.
        target: Labels of one batch, or a dict of labels and logits.
        num_classes: Number of classes.
    """
    labels = ops.convert_to_numpy(labels_and_logits(target)[0])
    shape = labels.shape
    if labels.ndim == 2 and shape[1] == num_classes and num_classes > 1:
        sums = labels.sum(axis=-1)
        if labels.any() and not np.allclose(sums, 1.0, atol=1e-2):
            raise ValueError(
                f"The {name} labels of a sample must sum to 1: one class per sample, one-hot or soft. Several classes "
                f"at once are not supported. Received: rows that sum to {sums.min():g} to {sums.max():g}"
            )
        return
    if labels.ndim > 2 or (labels.ndim == 2 and shape[1] != 1):
        raise ValueError(
            f"The {name} labels must be class ids of shape (batch,) or one-hot rows of shape (batch, {num_classes}), "
            f"because the student has {num_classes} outputs. Received: labels of shape {shape}"
        )
    is_number = np.issubdtype(labels.dtype, np.number) or labels.dtype == bool
    if not is_number or np.any(labels != np.floor(labels)):
        raise ValueError(
            f"The {name} labels are class ids, which must be integers or whole numbers. "
            f"Received: dtype {labels.dtype}, first labels {labels.reshape(-1)[:3].tolist()}"
        )
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        raise ValueError(
            f"The {name} labels must lie in 0..{num_classes - 1}, because the student has {num_classes} outputs. "
            f"Received: labels from {labels.min()} to {labels.max()}"
        )


_UNBALANCED = 10  # times as many samples of one class of the meta set as of another


def warn_of_unbalanced_classes(meta_target: Any, num_classes: int) -> None:
    """Warn if the meta set, given as arrays, has no sample of some class, or few in comparison with another.

    Args:
        meta_target: All labels of the meta set, or a dict of them and logits.
        num_classes: Number of classes.
    """
    labels = ops.convert_to_numpy(labels_and_logits(meta_target)[0])
    are_rows = labels.ndim == 2 and labels.shape[1] == num_classes > 1
    present = labels.argmax(axis=1) if are_rows else labels.reshape(-1).astype("int64")
    counts = np.bincount(present, minlength=num_classes)
    missing = np.flatnonzero(counts == 0).tolist()
    if missing:
        warnings.warn(
            f"The meta set has no sample of {len(missing)} of {num_classes} classes, so the weights will not help "
            f"them. It should hold as many samples of each class. Received: no label {str(missing[:5])[1:-1]}"
            f"{', ...' if len(missing) > 5 else ''}",
            stacklevel=3,
        )
    elif counts.max() >= _UNBALANCED * counts.min():
        warnings.warn(
            "The meta set is far from balanced, so the weights serve its largest classes. It should hold as many "
            f"samples of each class. Received: between {counts.min()} and {counts.max()} samples per class",
            stacklevel=3,
        )


def same_structure(train_inputs: Any, meta_inputs: Any, student: Callable[[Any], Any]) -> None:
    """Raise unless the student takes the inputs of the meta set as it takes those of the training set.

    The dtype may differ, since the student casts its inputs, and so may an axis of open length.

    Args:
        train_inputs: Inputs of a training batch, a tensor or a structure of tensors.
        meta_inputs: Inputs of a meta batch.
        student: Runs the student on such inputs.
    """

    def look(inputs: Any) -> Any:
        return tree.map_structure(lambda tensor: str(tuple(tensor.shape)[1:]), inputs)

    expected, received = look(train_inputs), look(meta_inputs)
    if received == expected:
        return
    try:
        tree.assert_same_structure(train_inputs, meta_inputs)
        student(meta_inputs)
    except Exception as error:  # each backend and each layer has its own; the inputs do differ
        raise ValueError(
            "The inputs of `meta_data` must have the structure and shape of the training inputs. "
            f"Received (shape of a sample): {received} in `meta_data`, expected {expected}"
        ) from error
