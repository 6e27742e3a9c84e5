"""Labels that come out of a data set are checked when they come, and not trained on if they are wrong."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_bikd import checks
from keras_bikd.feed.batches import is_dataset

__all__ = ["check_labels", "check_validation_labels", "label_errors"]

_PAIR = ("training", "meta")


def check_labels(pairs: Any, num_classes: int) -> Any:
    """Let a data set of pairs fail at the first class id out of range."""
    return _checked(pairs, num_classes, _PAIR)


def check_validation_labels(validation_data: Any, num_classes: int) -> Any:
    """`fit(validation_data=...)`, which fails at the first class id out of range: before training, if it is arrays."""
    if is_dataset(validation_data):
        return _checked(validation_data, num_classes, ("validation",))
    if isinstance(validation_data, (tuple, list)) and len(validation_data) in (2, 3):
        checks.labels_match("validation", validation_data[1], num_classes)
    return validation_data


def _checked(data: Any, num_classes: int, names: tuple[str, ...]) -> Any:
    if isinstance(data, keras.utils.PyDataset):
        return _CheckedPyDataset(data, num_classes, names)

    def check(*parts: Any) -> Any:
        assertions = []
        for name, (_, labels, *_) in zip(names, parts if names == _PAIR else (parts,)):
            if labels.dtype.is_integer and (labels.shape.rank == 1 or labels.shape[-1] == 1):
                message = (
                    f"The {name} labels must lie in 0..{num_classes - 1}, as the student has {num_classes} outputs."
                )
                valid = tf.reduce_all((labels >= 0) & (labels < num_classes))
                assertions.append(tf.debugging.Assert(valid, [message, "Received:", labels], summarize=-1))
        with tf.control_dependencies(assertions):
            return tf.nest.map_structure(tf.identity, parts)

    return data.map(check, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


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
        found = re.search(rf"The ({_NAMES}) labels must lie in .*?Received:.*?\[[^]]*\]", error.message, re.DOTALL)
        if found is None:
            raise
        raise ValueError(" ".join(re.sub(r"[\[\]']+", " ", found.group()).split())) from None
