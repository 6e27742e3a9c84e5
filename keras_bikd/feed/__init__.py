"""The data of a training step: batches, pairs of training and meta batches, the arguments of `fit`."""

from keras_bikd.feed.batches import (
    adapter_of,
    as_batches,
    batches,
    check_length,
    is_dataset,
    is_tf_dataset,
    reads_once,
    require_end,
)
from keras_bikd.feed.fit_data import FitData, batched, data_of_fit, example_of
from keras_bikd.feed.labels import (
    check_labels,
    check_plain_labels,
    class_weights,
    label_errors,
    sample_weights,
    weighted_by_class,
)
from keras_bikd.feed.pairs import is_pair, pair, require_pair

__all__ = [
    "FitData",
    "adapter_of",
    "as_batches",
    "batched",
    "batches",
    "check_labels",
    "check_length",
    "check_plain_labels",
    "class_weights",
    "data_of_fit",
    "example_of",
    "is_dataset",
    "is_pair",
    "is_tf_dataset",
    "label_errors",
    "pair",
    "reads_once",
    "require_end",
    "require_pair",
    "sample_weights",
    "weighted_by_class",
]
