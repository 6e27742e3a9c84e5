"""Callbacks of every `fit` that warn when the meta loss is no number, or the learned weights have no effect."""

import math
import warnings

import keras
from keras import ops

from keras_bikd.types import Logs


class MetaLossWarning(keras.callbacks.Callback):
    """Warns, once, when the meta loss is no number. Every training has its own."""

    _warned: frozenset[str] = frozenset()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        meta_loss = (logs or {}).get("meta_loss", 0.0)
        if not math.isfinite(meta_loss):
            self._warn_once(
                "meta",
                f"The meta loss is {meta_loss} in epoch {epoch + 1}. Its gradients are left out where they are not "
                "finite, so the weights learn nothing from these batches. Look for NaN in the meta set, or lower the "
                "learning rate.",
            )

    def _warn_once(self, problem: str, message: str) -> None:
        if problem not in self._warned:
            self._warned |= {problem}
            warnings.warn(message, stacklevel=2)


class WeightWarning(MetaLossWarning):
    """Warns, once, when the weights no longer have an effect, and says what to do."""

    COLLAPSED, FITTED = 0.1, 0.02

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        logs = logs or {}
        means = [logs.get(tracker.name, float("inf")) for tracker in self.model.weight_trackers]
        if sum(means) < self.COLLAPSED:
            self._warn_once(
                "collapsed",
                f"The weights have collapsed: their sum is {sum(means):.3f} on average after epoch {epoch + 1}. This "
                "lowers the learning rate of the student by the same factor. If the student should still learn, lower "
                "the meta learning rate or raise `inner_steps`.",
            )
        if logs.get("student_loss", 1.0) < self.FITTED:
            self._warn_once(
                "fitted",
                "The weight network can no longer tell samples apart: the student has fitted its training set "
                f"(cross-entropy {logs['student_loss']:.4f} after epoch {epoch + 1}), so the weights hardly matter. "
                "Use stronger augmentation, or give the class counts to the losses or to the weight network: "
                "`BiKDModel(class_counts=...)`, `MetaWeightNet(class_counts=...)`.",
            )

    def on_train_end(self, logs: Logs | None = None) -> None:
        steps, inner_steps = int(ops.cast(self.model.optimizer.iterations, "int32")), self.model.inner_steps
        if steps < inner_steps:
            self._warn_once(
                "never",
                f"The weights were never updated: that happens every inner_steps={inner_steps} steps, and the training "
                f"has taken {steps}. Train longer, or lower `inner_steps`.",
            )
