"""Which method for my data: all of them trained under one protocol, a recommendation, and a report."""

from keras_bikd.advisor.candidates import METHODS
from keras_bikd.advisor.comparing import Comparison, compare
from keras_bikd.advisor.evidence import Evidence
from keras_bikd.advisor.findings import ClassAccuracy, Failure, Findings
from keras_bikd.advisor.protocol import Protocol
from keras_bikd.advisor.recommendation import Recommendation
from keras_bikd.advisor.samples import Samples
from keras_bikd.advisor.suspects import Suspect, Suspects

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
