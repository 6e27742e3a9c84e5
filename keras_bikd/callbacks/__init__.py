"""Callbacks: some look on and write down what they see, some schedule, some keep what a killed run needs.

What they put into the logs of an epoch reaches `History`, `CSVLogger` and `TensorBoard`: list them before those.
"""

from keras_bikd.callbacks.keep import ExactBackup, StudentCheckpoint
from keras_bikd.callbacks.observe import HypergradientMonitor, PerClassReport, TensorBoard, WeightHistory, WeightMap
from keras_bikd.callbacks.pacing import ExpertPacing
from keras_bikd.callbacks.schedule import DeferredObjective, MetaLearningRateScheduler

__all__ = [
    "DeferredObjective",
    "ExactBackup",
    "ExpertPacing",
    "HypergradientMonitor",
    "MetaLearningRateScheduler",
    "PerClassReport",
    "StudentCheckpoint",
    "TensorBoard",
    "WeightHistory",
    "WeightMap",
]
