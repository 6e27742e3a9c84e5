"""The data of a training step: batches, pairs of training and meta batches, the arguments of `fit`."""

from keras_bikd.feed.batches import (
    adapter_of,
    as_batches,
    batches,
    check_length,
    first_rows,
    is_dataset,
    is_tf_dataset,
    reads_once,
    require_end,
    require_samples,
)
from keras_bikd.feed.fit_data import FitData, arrays_in_fit, batched, data_of_fit, example_of, raw_batches
from keras_bikd.feed.labels import (
    check_class_weights,
    check_labels,
    check_plain_labels,
    class_weights,
    label_errors,
    sample_weights,
    weighted_by_class,
)
from keras_bikd.feed.pairs import is_pair, pair, require_pair
from keras_bikd.feed.preprocessing import (
    Preprocessing,
    preprocessed,
    preprocessed_batch,
    preprocessing_of,
    require_same_preprocessing,
)

__all__ = [
    "FitData",
    "Preprocessing",
    "adapter_of",
    "arrays_in_fit",
    "as_batches",
    "batched",
    "batches",
    "check_class_weights",
    "check_labels",
    "check_length",
    "check_plain_labels",
    "class_weights",
    "data_of_fit",
    "example_of",
    "first_rows",
    "is_dataset",
    "is_pair",
    "is_tf_dataset",
    "label_errors",
    "pair",
    "preprocessed",
    "preprocessed_batch",
    "preprocessing_of",
    "raw_batches",
    "reads_once",
    "require_end",
    "require_pair",
    "require_same_preprocessing",
    "require_samples",
    "sample_weights",
    "weighted_by_class",
]
