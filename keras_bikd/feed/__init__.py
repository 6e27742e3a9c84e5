"""The data of a training step: batches, pairs of training and meta batches, the arguments of `fit`."""

from keras_bikd.feed.batches import as_batches, batched, batches, check_length, is_dataset, require_end
from keras_bikd.feed.fit_data import FitData, data_of_fit, example_of
from keras_bikd.feed.labels import check_labels, check_plain_labels, label_errors
from keras_bikd.feed.pairs import PairedPyDataset, is_pair, pair, require_pair

__all__ = [
    "FitData",
    "PairedPyDataset",
    "as_batches",
    "batched",
    "batches",
    "check_labels",
    "check_length",
    "check_plain_labels",
    "data_of_fit",
    "example_of",
    "is_dataset",
    "is_pair",
    "label_errors",
    "pair",
    "require_end",
    "require_pair",
]
