"""Pairs, weights and checks inside a `tf.data` pipeline: the only data here that need TensorFlow."""

from typing import Any

import tensorflow as tf
from keras import tree

from keras_bikd.batches.adapters import adapter_of, is_tf_dataset
from keras_bikd.batches.pairs import SHUFFLE_BUFFER
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
    specs = tree.flatten(data.element_spec)
    if not all(isinstance(spec, tf.TensorSpec) and _is_known(spec.shape) for spec in specs):
        return next(iter(data), None)

    def zeros(spec: tf.TensorSpec) -> Any:
        shape = [_EXAMPLE_ROWS if length is None else length for length in spec.shape]
        values = tf.zeros([_EXAMPLE_ROWS, *shape[1:]] if shape else shape, spec.dtype)
        return values if spec.dtype == tf.string else values.numpy()

    return tree.map_structure(zeros, data.element_spec)


def _is_known(shape: tf.TensorShape) -> bool:
    return shape.rank is not None and None not in shape[1:].as_list()


def weighted_by_class(train: tf.data.Dataset, class_weight: dict[int, float]) -> tf.data.Dataset:
    """Multiply the sample weights by the weights of the classes; a class without one counts once."""
    classes = tf.constant(list(class_weight), "int64")
    surplus = tf.constant([weight - 1.0 for weight in class_weight.values()], "float32")

    def weigh(x: Any, target: Any, sample_weight: Tensor | None = None) -> Batch:
        labels, _ = labels_and_logits(target)
        are_rows = tf.rank(labels) > 1 and tf.shape(labels)[-1] > 1  # the pipeline may leave the shape open
        ids = tf.argmax(labels, axis=-1) if are_rows else tf.cast(labels, "int64")
        members = tf.cast(tf.reshape(ids, [-1, 1]) == classes, "float32")
        weight = 1.0 + tf.linalg.matvec(members, surplus)
        given = weights_of_labels(sample_weight)
        return x, target, weight if given is None else weight * tf.cast(given, weight.dtype)

    return train.map(weigh)


def checked(data: tf.data.Dataset, num_classes: int, names: tuple[str, ...]) -> tf.data.Dataset:
    """Let a data set of batches, or of pairs of them, fail at the first labels that are wrong."""

    def check(*parts: Any) -> Any:
        batches = parts if len(names) > 1 else (parts,)
        assertions = [
            _assertion(name, labels_and_logits(batch[1])[0], num_classes) for name, batch in zip(names, batches)
        ]
        with tf.control_dependencies(assertions):
            identical = tf.nest.map_structure(tf.identity, parts)
        return identical if len(identical) > 1 else identical[0]

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
