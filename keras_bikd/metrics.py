"""Metrics for imbalanced classes, and calibration: for any Keras classifier, in `compile(metrics=[...])`."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_bikd import checks
from keras_bikd.long_tail import shot_groups
from keras_bikd.losses import class_ids, class_logits
from keras_bikd.serialization import Serializable
from keras_bikd.types import Counts, Tensor


def per_class_accuracy(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Accuracy on every class.

    Args:
        labels: Class ids, integer array of shape `(samples,)`.
        predicted: Predicted class ids, integer array of shape `(samples,)`.
        num_classes: Number of classes.

    Returns:
        Float array of shape `(num_classes,)`; NaN for a class without samples.

    Examples:
        >>> per_class_accuracy(np.array([0, 0, 1]), np.array([0, 1, 1]), 3).tolist()
        [0.5, 1.0, nan]
    """
    from sklearn.metrics import recall_score

    recalls: np.ndarray = recall_score(labels, predicted, labels=range(num_classes), average=None, zero_division=np.nan)
    return recalls


class _PerClassMetric(Serializable, keras.metrics.Metric):
    """Counts the (weighted) samples of every class, and how many of them were classified correctly."""

    ARGUMENTS: tuple[str, ...] = ("num_classes",)
    _direction = "up"  # read by Keras' callbacks in mode "auto"

    def __init__(self, num_classes: int, name: str, dtype: str | None = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.num_classes = num_classes
        self.correct = self.add_variable((num_classes,), initializer="zeros", name="correct")
        self.total = self.add_variable((num_classes,), initializer="zeros", name="total")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            y_true: Integer ids of shape `(batch,)`, or one-hot rows of shape `(batch, classes)`.
            y_pred: Logits or probabilities of shape `(batch, classes)`, or one logit per sample for two classes, shape
                `(batch, 1)`; not the probability that a sigmoid returns.
            sample_weight: Optional weights of shape `(batch,)`.

        Raises:
            ValueError: If `y_pred` has another number of classes than the metric.
        """
        logits = class_logits(y_pred)
        if logits.shape[-1] not in (None, self.num_classes):
            raise ValueError(
                f"`{type(self).__name__}` was created for {self.num_classes} classes, but the model has "
                f"{logits.shape[-1]}. Create the metric for as many classes as the model has. "
                f"Received: y_pred of shape {tuple(ops.shape(y_pred))}"
            )
        ids = class_ids(y_true, self.num_classes)
        members = ops.one_hot(ids, self.num_classes, dtype=self.dtype)
        if sample_weight is not None:
            members = members * ops.reshape(ops.cast(sample_weight, self.dtype), (-1, 1))
        right = ops.cast(ops.equal(ops.argmax(logits, axis=-1), ids), self.dtype)
        self.total.assign_add(ops.sum(members, axis=0))
        self.correct.assign_add(ops.sum(members * right[:, None], axis=0))

    def _recalls(self) -> Tensor:
        """Accuracy of every class; NaN where a class has no samples."""
        return ops.convert_to_tensor(self.correct) / ops.convert_to_tensor(self.total)

    def _mean_recall(self, mask: np.ndarray) -> Tensor:
        """Mean accuracy of the classes in `mask` that have samples; NaN if none has."""
        seen = ops.logical_and(self.total > 0, ops.convert_to_tensor(mask))
        recalls = ops.where(seen, self._recalls(), 0.0)
        return ops.sum(recalls) / ops.sum(ops.cast(seen, self.dtype))


@keras.saving.register_keras_serializable(package="keras_bikd")
class BalancedAccuracy(_PerClassMetric):
    """Mean of the accuracies of the classes; classes without samples are left out.

    Args:
        num_classes: Number of classes.
        name: Name in the logs.
        dtype: Dtype of the counts.

    Examples:
        >>> metric = BalancedAccuracy(num_classes=2)
        >>> metric.update_state(
        ...     [0, 0, 0, 1], [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]
        ... )
        >>> float(metric.result())
        0.5

    To keep the best epoch: `keras.callbacks.ModelCheckpoint("best.keras", "val_balanced_accuracy",
    save_best_only=True)`.
    """

    def __init__(self, num_classes: int, name: str = "balanced_accuracy", dtype: str | None = None) -> None:
        super().__init__(num_classes, name, dtype)

    def result(self) -> Tensor:
        """Mean accuracy, a scalar in 0..1."""
        return self._mean_recall(np.ones(self.num_classes, dtype=bool))


@keras.saving.register_keras_serializable(package="keras_bikd")
class WorstClassAccuracy(_PerClassMetric):
    """Lowest accuracy of any class; classes without samples are left out.

    Args:
        num_classes: Number of classes.
        name: Name in the logs.
        dtype: Dtype of the counts.

    Examples:
        >>> metric = WorstClassAccuracy(num_classes=2)
        >>> metric.update_state(
        ...     [0, 0, 1, 1], [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
        ... )
        >>> float(metric.result())
        0.5
    """

    def __init__(self, num_classes: int, name: str = "worst_class_accuracy", dtype: str | None = None) -> None:
        super().__init__(num_classes, name, dtype)

    def result(self) -> Tensor:
        """Lowest accuracy, a scalar in 0..1."""
        return ops.min(ops.where(self.total > 0, self._recalls(), float("inf")))


@keras.saving.register_keras_serializable(package="keras_bikd")
class PerClassAccuracy(_PerClassMetric):
    """Accuracy of every class, with one log entry per class; NaN where a class has no samples.

    A callback that monitors one of the entries needs `mode="max"`: Keras infers a mode only for metrics with a single
    entry.

    Args:
        num_classes: Number of classes.
        class_names: Names for the log entries; by default the class ids.
        name: Prefix of the log entries.
        dtype: Dtype of the counts.

    Raises:
        ValueError: If there is not one name per class.

    Examples:
        >>> metric = PerClassAccuracy(num_classes=2, class_names=["cat", "dog"])
        >>> metric.update_state([0, 0, 1], [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> {name: float(accuracy) for name, accuracy in metric.result().items()}
        {'accuracy_cat': 0.5, 'accuracy_dog': 1.0}
    """

    ARGUMENTS = ("num_classes", "class_names")

    def __init__(
        self,
        num_classes: int,
        class_names: Sequence[str] | None = None,
        name: str = "accuracy",
        dtype: str | None = None,
    ) -> None:
        super().__init__(num_classes, name, dtype)
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(
                f"`PerClassAccuracy(class_names=...)` takes {num_classes} names. Received: {len(class_names)} names"
            )
        self.class_names = None if class_names is None else list(class_names)

    def result(self) -> dict[str, Tensor]:
        """Log entry to accuracy, each a scalar in 0..1."""
        recalls = self._recalls()
        names = self.class_names or range(self.num_classes)
        return {f"{self.name}_{name}": recalls[i] for i, name in enumerate(names)}


@keras.saving.register_keras_serializable(package="keras_bikd")
class ShotAccuracy(_PerClassMetric):
    """Balanced accuracy of the classes with many, medium and few training images: up to three log entries.

    A group without classes is left out of the logs; a group without samples is NaN. A callback that monitors one of
    the entries needs `mode="max"`, as in `EarlyStopping("val_few", mode="max")`: Keras infers a mode only for metrics
    with a single entry.

    Args:
        class_counts: Training samples per class.
        many_above: Classes with more images than this are many.
        few_below: Classes with fewer images than this are few.
        name: With the default name the log entries are `many`, `medium` and `few`. Any other name is their prefix,
            for a second metric in the same `compile`: `name="narrow"` logs `narrow_many` and so on.
        dtype: Dtype of the counts.

    Raises:
        ValueError: If `class_counts` are no counts, or `many_above < few_below`.

    Examples:
        >>> metric = ShotAccuracy(class_counts=[500, 50, 5])
        >>> metric.update_state(
        ...     [0, 1, 2], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
        ... )
        >>> {group: float(accuracy) for group, accuracy in metric.result().items()}
        {'many': 1.0, 'medium': 1.0, 'few': 0.0}

    Reference: Liu et al., arXiv 1904.05160, section 5.1.
    """

    ARGUMENTS = ("class_counts", "many_above", "few_below")

    def __init__(
        self,
        class_counts: Counts,
        many_above: int = 100,
        few_below: int = 20,
        name: str = "shot_accuracy",
        dtype: str | None = None,
    ) -> None:
        class_counts = checks.class_counts("ShotAccuracy", "class_counts", class_counts)
        super().__init__(len(class_counts), name, dtype)
        self.class_counts = class_counts
        self.many_above = many_above
        self.few_below = few_below
        self.groups = shot_groups(class_counts, many_above, few_below)

    def result(self) -> dict[str, Tensor]:
        """Log entry to balanced accuracy of the group, each a scalar in 0..1."""
        prefix = "" if self.name == "shot_accuracy" else f"{self.name}_"
        return {
            f"{prefix}{group}": self._mean_recall(np.isin(np.arange(self.num_classes), ids))
            for group, ids in self.groups.items()
            if len(ids)
        }


@keras.saving.register_keras_serializable(package="keras_bikd")
class ExpectedCalibrationError(Serializable, keras.metrics.Metric):
    """Mean distance between confidence and accuracy, over bins of equal width of the confidence.

    Args:
        num_bins: Number of bins.
        from_logits: Whether predictions are logits, as those of all students here, or probabilities.
        name: Name in the logs.
        dtype: Dtype of the sums.

    Examples:
        >>> metric = ExpectedCalibrationError(num_bins=10, from_logits=False)
        >>> # Confidence 0.75, accuracy 0.5.
        >>> metric.update_state([0, 1], [[0.75, 0.25], [0.75, 0.25]])
        >>> float(metric.result())
        0.25

    Reference: Guo et al., arXiv 1706.04599, Eq. (3).
    """

    ARGUMENTS = ("num_bins", "from_logits")
    _direction = "down"  # read by Keras' callbacks in mode "auto"

    def __init__(
        self,
        num_bins: int = 15,
        from_logits: bool = True,
        name: str = "expected_calibration_error",
        dtype: str | None = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.num_bins, self.from_logits = num_bins, from_logits
        self.total = self.add_variable((num_bins,), initializer="zeros", name="total")
        self.surplus = self.add_variable((num_bins,), initializer="zeros", name="surplus")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            y_true: Integer ids of shape `(batch,)`, or one-hot rows of shape `(batch, classes)`.
            y_pred: Logits or probabilities of shape `(batch, classes)`, or one per sample for two classes, shape
                `(batch, 1)`.
            sample_weight: Optional weights of shape `(batch,)`.
        """
        y_pred = ops.cast(y_pred, self.dtype)
        if self.from_logits:
            probabilities = ops.softmax(class_logits(y_pred))
        else:
            probabilities = ops.concatenate([1 - y_pred, y_pred], axis=-1) if y_pred.shape[-1] == 1 else y_pred
        confidence = ops.max(probabilities, axis=-1)
        ids = class_ids(y_true, probabilities.shape[-1])
        right = ops.cast(ops.equal(ops.argmax(probabilities, axis=-1), ids), self.dtype)
        # Bins are open below and closed above, as in the reference.
        index = ops.clip(ops.cast(ops.ceil(confidence * self.num_bins), "int32") - 1, 0, self.num_bins - 1)
        members = ops.one_hot(index, self.num_bins, dtype=self.dtype)
        if sample_weight is not None:
            members = members * ops.reshape(ops.cast(sample_weight, self.dtype), (-1, 1))
        self.total.assign_add(ops.sum(members, axis=0))
        self.surplus.assign_add(ops.sum(members * (confidence - right)[:, None], axis=0))

    def result(self) -> Tensor:
        """The error, a scalar in 0..1."""
        return ops.sum(ops.abs(self.surplus)) / ops.sum(self.total)
