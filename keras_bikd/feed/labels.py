"""Checks of the class ids in a `tf.data` pipeline, while it runs."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from keras_bikd.types import Batch

__all__ = ["check_labels", "label_errors"]


def check_labels(pairs: Any, num_classes: int) -> Any:
    """Let a `tf.data` pipeline of pairs fail at the first class id out of range, instead of training on it."""
    if not isinstance(pairs, tf.data.Dataset):
        return pairs

    def check(batch: Batch, meta_batch: Batch, *rest: Any) -> Any:
        assertions = []
        for name, labels in (("training", batch[1]), ("meta", meta_batch[1])):
            if labels.dtype.is_integer and (labels.shape.rank == 1 or labels.shape[-1] == 1):
                message = (
                    f"The {name} labels must lie in 0..{num_classes - 1}, as the student has {num_classes} outputs."
                )
                valid = tf.reduce_all((labels >= 0) & (labels < num_classes))
                assertions.append(tf.debugging.Assert(valid, [message, "Received:", labels], summarize=-1))
        with tf.control_dependencies(assertions):
            return tf.nest.map_structure(tf.identity, (batch, meta_batch, *rest))

    return pairs.map(check, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


@contextlib.contextmanager
def label_errors() -> Iterator[None]:
    """Turn the TensorFlow error from `check_labels` into a `ValueError` of one sentence."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(r"The (training|meta) labels must lie in .*?Received:.*?\[[^]]*\]", error.message, re.DOTALL)
        if found is None:
            raise
        raise ValueError(" ".join(re.sub(r"[\[\]']+", " ", found.group()).split())) from None
