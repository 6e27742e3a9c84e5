"""Labels that come out of a data set are checked when they come, and not trained on if they are wrong."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_bikd import checks
from keras_bikd.feed.batches import is_dataset
from keras_bikd.types import Tensor

__all__ = ["check_labels", "check_plain_labels", "label_errors"]

_PAIR = ("training", "meta")


def check_labels(pairs: Any, num_classes: int) -> Any:
    """Let a data set of pairs fail at the first labels that are wrong, instead of training on them."""
    checked = _checked(pairs, num_classes, _PAIR)
    return checked.prefetch(tf.data.AUTOTUNE) if isinstance(checked, tf.data.Dataset) else checked


def check_plain_labels(name: str, data: Any, num_classes: int) -> Any:
    """As `check_labels`, for a data set of `(x, y)`; arrays `(x, y)` fail at once, other kinds are not looked into.

    Args:
        name: Data set of the labels, for the message.
        data: A data set, a tuple of arrays, or whatever else `fit` takes.
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
    if isinstance(data, keras.utils.PyDataset):
        return _CheckedPyDataset(data, num_classes, names)

    def check(*parts: Any) -> Any:
        batches = parts if names == _PAIR else (parts,)
        assertions = [_assertion(name, batch[1], num_classes) for name, batch in zip(names, batches)]
        with tf.control_dependencies(assertions):
            checked = tf.nest.map_structure(tf.identity, parts)
        return checked if len(checked) > 1 else checked[0]

    return data.map(check, num_parallel_calls=tf.data.AUTOTUNE)


def _assertion(name: str, labels: Tensor, num_classes: int) -> Tensor:
    """Fail at labels that `checks.labels_match` would refuse."""
    labels = tf.cast(labels, "float64")
    if labels.shape.rank == 2 and labels.shape[-1] == num_classes:
        received = tf.reduce_sum(labels, axis=-1)
        valid = tf.reduce_all(tf.abs(received - 1) <= 0.01)
        expected = f"The {name} labels of a sample must sum to 1: one class per sample, one-hot or soft."
        return tf.debugging.Assert(valid, [expected, "Received:", received], summarize=-1)
    valid = tf.reduce_all((labels >= 0) & (labels < num_classes) & (labels == tf.floor(labels)))
    expected = f"The {name} labels must lie in 0..{num_classes - 1}, as the student has {num_classes} outputs."
    return tf.debugging.Assert(valid, [expected, "Received:", labels], summarize=-1)


class _CheckedPyDataset(keras.utils.PyDataset):
    """Another `PyDataset`, whose labels are looked at in every batch."""

    def __init__(self, data: keras.utils.PyDataset, num_classes: int, names: tuple[str, ...]) -> None:
        super().__init__(
            workers=data.workers, use_multiprocessing=data.use_multiprocessing, max_queue_size=data.max_queue_size
        )
        self.data, self.num_classes, self.names = data, num_classes, names

    @property
    def num_batches(self) -> int | None:
        return self.data.num_batches

    def __getitem__(self, index: int) -> Any:
        batch = self.data[index]
        for name, (_, labels, *_) in zip(self.names, batch if self.names == _PAIR else (batch,)):
            checks.labels_match(name, labels, self.num_classes)
        return batch

    def on_epoch_begin(self) -> None:
        self.data.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self.data.on_epoch_end()


_NAMES = "training|meta|validation"


@contextlib.contextmanager
def label_errors() -> Iterator[None]:
    """Turn what TensorFlow makes of a failed check of labels into a `ValueError` of one sentence."""
    try:
        yield
    except tf.errors.OpError as error:
        raised = re.search(rf"ValueError: (The (?:{_NAMES}) labels .*)", error.message)  # by a `PyDataset`
        if raised is not None:
            raise ValueError(raised.group(1)) from None
        found = re.search(rf"The ({_NAMES}) labels [^.]*\..*?Received:.*?\[[^]]*\]", error.message, re.DOTALL)
        if found is None:
            raise
        raise ValueError(" ".join(re.sub(r"[\[\]']+", " ", found.group()).split())) from None
