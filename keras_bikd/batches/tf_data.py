"""Batches in `tf.data`: their pairs, their weights by class, and the check of their labels."""

from typing import Any

import numpy as np
import tensorflow as tf
from keras import tree

from keras_bikd.batches.adapters import SHUFFLE_BUFFER, adapter_of
from keras_bikd.keras_private import is_tf_dataset
from keras_bikd.types import Batch, Tensor, labels_and_logits, weights_of_labels

_EXAMPLE_ROWS = 2  # of an example batch, where the data set leaves them open


def as_tf_dataset(data: Any) -> tf.data.Dataset:
    """The batches of any data set as a `tf.data.Dataset`."""
    if is_tf_dataset(data):
        return data
    adapter = adapter_of(data)
    dataset = adapter.get_tf_dataset()
    if adapter.num_batches is None:
        return dataset
    return dataset.apply(tf.data.experimental.assert_cardinality(adapter.num_batches))


def zipped(train: tf.data.Dataset, meta: Any) -> tf.data.Dataset:
    """As `pair`, for a training set in `tf.data`."""
    meta = as_tf_dataset(meta)
    is_as_long = 0 < int(meta.cardinality()) == int(train.cardinality())
    return tf.data.Dataset.zip((train, repeated(meta, is_as_long)))


def repeated(meta: tf.data.Dataset, keep_order: bool) -> tf.data.Dataset:
    """The batches of a meta set in `tf.data`, repeated; in another order on every pass unless `keep_order`."""
    length = int(meta.cardinality())
    if length == 0:
        raise ValueError("`pair(meta=...)` received an empty data set.")
    if length == tf.data.INFINITE_CARDINALITY:
        return meta
    return (meta if keep_order else meta.shuffle(length if length > 0 else SHUFFLE_BUFFER)).repeat()


def example(data: tf.data.Dataset) -> Any:
    """A batch with the shapes of those to come.

    None is drawn, because that would change the order of a shuffled pipeline; except where the data set leaves more
    than the number of samples open.
    """
    for spec in tree.flatten(data.element_spec):
        if not isinstance(spec, tf.TensorSpec) or spec.shape.rank is None or None in spec.shape[1:].as_list():
            return next(iter(data), None)

    def zeros(spec: tf.TensorSpec) -> Any:
        shape = [_EXAMPLE_ROWS if length is None else length for length in spec.shape]
        values = tf.zeros([_EXAMPLE_ROWS, *shape[1:]] if shape else shape, spec.dtype)
        return values if spec.dtype == tf.string else values.numpy()

    return tree.map_structure(zeros, data.element_spec)


def checked(
    data: tf.data.Dataset, num_classes: int, names: tuple[str, ...], class_weight: np.ndarray | None
) -> tf.data.Dataset:
    """Let a data set of batches, or of pairs of them, fail at wrong labels; weigh the training batches."""

    def check(*parts: Any) -> Any:
        batches = parts if len(names) > 1 else (parts,)
        for name, batch in zip(names, batches):
            _assert_labels(name, labels_and_logits(batch[1])[0], num_classes)
        if class_weight is not None:
            batches = (_weighted(*batches[0], class_weight=class_weight), *batches[1:])
        return batches if len(names) > 1 else batches[0]

    return data.map(check, num_parallel_calls=tf.data.AUTOTUNE)


def _weighted(x: Any, target: Any, sample_weight: Tensor | None = None, *, class_weight: np.ndarray) -> Batch:
    labels, _ = labels_and_logits(target)
    are_rows = tf.rank(labels) > 1 and tf.shape(labels)[-1] > 1  # the pipeline may leave the shape open
    ids = tf.argmax(labels, axis=-1) if are_rows else tf.cast(tf.reshape(labels, [-1]), "int64")
    weight, given = tf.gather(tf.constant(class_weight, "float32"), ids), weights_of_labels(sample_weight)
    return x, target, weight if given is None else weight * tf.cast(tf.reshape(given, [-1]), weight.dtype)


def _assert_labels(name: str, labels: Tensor, num_classes: int) -> None:
    """Fail at labels that `checks.labels_match` would refuse."""
    if labels.shape.rank == 2 and labels.shape[-1] == num_classes:
        received = tf.reduce_sum(tf.cast(labels, "float64"), axis=-1)
        valid, expected = tf.abs(received - 1) <= 0.01, "of a sample must sum to 1: one class per sample"
    else:
        received = tf.cast(labels, "float64")
        valid = (received >= 0) & (received < num_classes) & (received == tf.floor(received))
        expected = f"must lie in 0..{num_classes - 1}, as the student has {num_classes} outputs"
    message = f"The {name} labels {expected}. Received:"
    tf.debugging.Assert(tf.reduce_all(valid), [message, received], summarize=-1)
