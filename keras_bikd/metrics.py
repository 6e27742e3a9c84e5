"""Accuracy where classes differ in size. For any Keras classifier, in `compile(metrics=[...])`."""

import keras
import numpy as np
from keras import ops

from keras_bikd.long_tail import shot_groups


class _PerClassMetric(keras.metrics.Metric):
    """Counts the (weighted) samples of every class, and how many of them were right."""

    def __init__(self, num_classes, name, dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.num_classes = num_classes
        self.correct = self.add_variable((num_classes,), initializer="zeros", name="correct")
        self.total = self.add_variable((num_classes,), initializer="zeros", name="total")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add a batch.

        Args:
            y_true: Integer ids of shape `(batch,)`, or one-hot rows of shape `(batch, classes)`.
            y_pred: Logits or probabilities of shape `(batch, classes)`.
            sample_weight: Optional weights of shape `(batch,)`.
        """
        y_true = ops.convert_to_tensor(y_true)
        one_hot_rows = len(y_true.shape) == 2 and y_true.shape[-1] == self.num_classes
        ids = ops.argmax(y_true, axis=-1) if one_hot_rows else ops.reshape(y_true, (-1,))
        members = ops.one_hot(ids, self.num_classes, dtype=self.dtype)
        if sample_weight is not None:
            members = members * ops.reshape(ops.cast(sample_weight, self.dtype), (-1, 1))
        right = ops.cast(ops.equal(ops.argmax(y_pred, axis=-1), ops.cast(ids, "int32")), self.dtype)
        self.total.assign_add(ops.sum(members, axis=0))
        self.correct.assign_add(ops.sum(members * right[:, None], axis=0))

    def _mean_recall(self, mask):
        """Mean accuracy of the classes in `mask` that have samples; not a number if none has."""
        seen = ops.cast(self.total > 0, self.dtype) * ops.cast(mask, self.dtype)
        recall = ops.divide_no_nan(ops.convert_to_tensor(self.correct), ops.convert_to_tensor(self.total))
        return ops.sum(recall * seen) / ops.sum(seen)


@keras.saving.register_keras_serializable(package="keras_bikd")
class BalancedAccuracy(_PerClassMetric):
    """Mean over the classes of the accuracy in each class; classes without samples are left out.

    Args:
        num_classes: Number of classes.
        name: Name in the logs.
        dtype: Dtype of the counts.

    Example:
    >>> metric = BalancedAccuracy(num_classes=2)
    >>> metric.update_state([0, 0, 0, 1], [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    >>> float(metric.result())
    0.5
    """

    def __init__(self, num_classes, name="balanced_accuracy", dtype=None):
        super().__init__(num_classes, name, dtype)

    def result(self):
        return self._mean_recall(np.ones(self.num_classes))

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes}


@keras.saving.register_keras_serializable(package="keras_bikd")
class ShotAccuracy(_PerClassMetric):
    """Balanced accuracy of the classes with many, medium and few training images: up to three log entries.

    A group without classes is left out of the logs; a group without samples is not a number.

    Args:
        class_counts: Training images per class.
        many_above: Classes with more images than this are many.
        few_below: Classes with fewer images than this are few.
        name: Name of the metric; the log entries are `many`, `medium` and `few`.
        dtype: Dtype of the counts.

    Example:
    >>> metric = ShotAccuracy(class_counts=[500, 50, 5])
    >>> metric.update_state([0, 1, 2], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    >>> {group: float(accuracy) for group, accuracy in metric.result().items()}
    {'many': 1.0, 'medium': 1.0, 'few': 0.0}

    Reference: Liu et al., arXiv 1904.05160, section 5.1.
    """

    def __init__(self, class_counts, many_above=100, few_below=20, name="shot_accuracy", dtype=None):
        super().__init__(len(class_counts), name, dtype)
        self.class_counts = [int(count) for count in class_counts]
        self.many_above = many_above
        self.few_below = few_below
        self.groups = shot_groups(class_counts, many_above, few_below)

    def result(self):
        return {
            name: self._mean_recall(np.isin(np.arange(self.num_classes), ids))
            for name, ids in self.groups.items()
            if len(ids)
        }

    def get_config(self):
        return {
            **super().get_config(),
            "class_counts": self.class_counts,
            "many_above": self.many_above,
            "few_below": self.few_below,
        }
