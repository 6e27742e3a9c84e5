"""Which method for my data: all of them trained under one protocol, a recommendation, and a report."""

from keras_bikd.comparison.findings import TEACHER, Failure, Findings
from keras_bikd.comparison.from_images import read_images, read_tfds
from keras_bikd.comparison.label_errors import Suspect, Suspects
from keras_bikd.comparison.methods import METHODS, Method, Parts, Protocol
from keras_bikd.comparison.recommendation import Recommendation
from keras_bikd.comparison.run import Comparison, compare
from keras_bikd.comparison.samples import Batches, Round, Samples, Subset, read_data
from keras_bikd.comparison.store import described
from keras_bikd.comparison.training import Teaching

__all__ = [
    "METHODS",
    "TEACHER",
    "Batches",
    "Comparison",
    "Failure",
    "Findings",
    "Method",
    "Parts",
    "Protocol",
    "Recommendation",
    "Round",
    "Samples",
    "Subset",
    "Suspect",
    "Suspects",
    "Teaching",
    "compare",
    "described",
    "read_data",
    "read_images",
    "read_tfds",
]
