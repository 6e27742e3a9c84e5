"""Monitors, schedules and backups of a training.

What they add to the logs of an epoch reaches `History`. To see it in `CSVLogger` and `TensorBoard` too, list those
after the callbacks from here.
"""

from keras_bikd.callbacks.backup import ExactBackup, StudentCheckpoint
from keras_bikd.callbacks.monitors import HypergradientMonitor, PerClassReport, TensorBoard, WeightHistory, WeightMap
from keras_bikd.callbacks.schedules import DeferredObjective, ExpertPacing, MetaLearningRateScheduler, OutgrowTeacher

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
