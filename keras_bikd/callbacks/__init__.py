"""Callbacks that observe a training, that schedule it, and that save what a killed run needs to resume.

What they add to the logs of an epoch reaches `History`. To see it in `CSVLogger` and `TensorBoard` too, list those
after the callbacks from here.
"""

from keras_bikd.callbacks.keep import ExactBackup, StudentCheckpoint
from keras_bikd.callbacks.observe import HypergradientMonitor, PerClassReport, TensorBoard, WeightHistory, WeightMap
from keras_bikd.callbacks.pacing import ExpertPacing, OutgrowTeacher
from keras_bikd.callbacks.schedule import DeferredObjective, MetaLearningRateScheduler

__all__ = [
    "DeferredObjective",
    "ExactBackup",
    "ExpertPacing",
    "HypergradientMonitor",
    "MetaLearningRateScheduler",
    "OutgrowTeacher",
    "PerClassReport",
    "StudentCheckpoint",
    "TensorBoard",
    "WeightHistory",
    "WeightMap",
]
