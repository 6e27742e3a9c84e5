"""Which method for my data: all of them trained under one protocol, a recommendation, and a report."""

from keras_bikd.advisor.candidates import METHODS
from keras_bikd.advisor.comparing import Comparison, compare
from keras_bikd.advisor.protocol import Protocol
from keras_bikd.advisor.samples import Samples
from keras_bikd.comparison.findings import ClassAccuracy, Failure, Findings
from keras_bikd.comparison.intervals import Evidence
from keras_bikd.comparison.label_errors import Suspect, Suspects
from keras_bikd.comparison.recommendation import Recommendation

__all__ = [
    "METHODS",
    "ClassAccuracy",
    "Comparison",
    "Evidence",
    "Failure",
    "Findings",
    "Protocol",
    "Recommendation",
    "Samples",
    "Suspect",
    "Suspects",
    "compare",
]
