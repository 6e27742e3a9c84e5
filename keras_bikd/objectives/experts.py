"""LFME as an objective: experts of many, medium and few classes, and a curriculum from easy samples to hard ones."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_bikd import checks
from keras_bikd.long_tail import class_groups
from keras_bikd.losses import class_ids, class_logits, hard_loss, soft_loss
from keras_bikd.serialization import Serializable
from keras_bikd.types import Counts, Tensor


@keras.saving.register_keras_serializable(package="keras_bikd")
class ExpertsObjective(Serializable, keras.layers.Layer):
    """LFME: every expert counts until the student has caught up with it, and easy samples come first.

    `CE(v z, y) + sum_g omega_g KL(softmax(e_g / T) || softmax(v z_g / T))`, without a factor `T^2`. `z_g` are the
    logits of group g and `e_g` those of its expert. The instance weight `v` multiplies the logits, as in the authors'
    code. The weights `omega_g` of the experts and the progress of the curriculum are state;
    `keras_bikd.callbacks.ExpertPacing` sets it.

    Args:
        class_counts: Training samples per class.
        num_groups: Number of groups of classes, as in `keras_bikd.long_tail.class_groups`.
        temperature: Positive number.
        **kwargs: Keras layer arguments.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> objective = ExpertsObjective([100, 50, 20, 5], num_groups=2)
        >>> objective.groups
        [[0, 1], [2, 3]]

    Reference: Xiang et al., arXiv 2001.01536, and the authors' code (ImageNet-LT).
    """

    ARGUMENTS = ("class_counts", "num_groups", "temperature")

    def __init__(self, class_counts: Counts, num_groups: int = 3, temperature: float = 2.0, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", keras.config.floatx())
        super().__init__(**{"autocast": False, **kwargs})  # labels and logits come as they are
        self.class_counts = checks.class_counts("ExpertsObjective", "class_counts", class_counts)
        self.num_groups = checks.integer("ExpertsObjective", "num_groups", num_groups)
        if num_groups > len(self.class_counts):
            raise ValueError(
                f"`ExpertsObjective(num_groups=...)` takes at most one group per class, here {len(self.class_counts)}. "
                f"Received: num_groups={num_groups!r}"
            )
        self.temperature = checks.number("ExpertsObjective", "temperature", temperature, above=0)
        self.groups = [group.tolist() for group in class_groups(class_counts, num_groups)]
        means = np.array([np.mean(np.asarray(class_counts)[group]) for group in self.groups])
        start, classes = means[-1] / np.maximum(means, 1e-12), len(self.class_counts)
        self.group_of = np.zeros(classes, "int32")
        for i, group in enumerate(self.groups):
            self.group_of[group] = i
        self.start_of_class = start[self.group_of]
        frozen = {"trainable": False, "dtype": "float32"}
        self.expert_weights = self.add_weight((num_groups,), "ones", name="expert_weights", **frozen)
        self.progress = self.add_weight((), "zeros", name="progress", **frozen)
        self.confidence_range = self.add_weight((2, classes), "zeros", name="confidence_range", **frozen)
        self.built = True

    def call(self, labels: Tensor, expert_logits: Tensor, student_logits: Tensor) -> Tensor:
        z, experts = class_logits(student_logits), class_logits(expert_logits)
        z = ops.cast(self.instance_weights(labels, experts), z.dtype)[:, None] * z
        loss = hard_loss(labels, z)
        for i, group in enumerate(self.groups):
            distance = soft_loss(ops.take(experts, group, axis=-1), ops.take(z, group, axis=-1), self.temperature)
            loss = loss + ops.cast(self.expert_weights[i], z.dtype) * distance / self.temperature**2
        return loss

    def instance_weights(self, labels: Tensor, expert_logits: Tensor) -> Tensor:
        """Weight of every sample at the current progress, shape `(batch,)`: from its start value to 1 and beyond."""
        ids = class_ids(labels, len(self.class_counts))
        low, high = (ops.take(self.confidence_range[i], ids) for i in (0, 1))
        relative = (self.confidences(ids, expert_logits) - low) / ops.maximum(high - low, 1e-6)
        start = ops.take(ops.cast(self.start_of_class, "float32"), ids)
        # A class with a single image, or with equal confidences, starts at 1: there is nothing to order.
        relative = ops.where(high - low > 1e-6, ops.clip(relative, 0.0, 1.0), 1.0)
        weights = start + (1 - start) * relative
        return weights + (1 - weights) * self.progress

    def confidences(self, ids: Tensor, expert_logits: Tensor) -> Tensor:
        """Probability of the label by the expert that owns its class, shape `(batch,)`."""
        own = ops.equal(ops.take(self.group_of, ids)[:, None], self.group_of[None, :])
        logits = ops.where(own, ops.cast(expert_logits, "float32"), -1e9)
        return ops.exp(ops.take_along_axis(ops.log_softmax(logits), ids[:, None], axis=-1)[:, 0])


def expert_weight(student_accuracy: float, expert_accuracy: float, threshold: float = 0.3) -> float:
    """Self-paced weight of an expert: 1 while the student is far behind, 0 once it has caught up.

    Args:
        student_accuracy: Of the student on the classes of the expert, in 0..1.
        expert_accuracy: Of the expert, likewise.
        threshold: Share of the expert's accuracy below which its weight is 1.

    Returns:
        Float in 0..1.

    Examples:
        >>> [
        ...     round(expert_weight(accuracy, 0.6), 4)
        ...     for accuracy in (0.0, 0.18, 0.3, 0.7)
        ... ]
        [1.0, 1.0, 0.7143, 0.0]

    Reference: Xiang et al., arXiv 2001.01536, Eq. (6), with the threshold of the authors' code.
    """
    if expert_accuracy <= 0 or student_accuracy >= expert_accuracy:
        return 0.0
    return float(min(1.0, (expert_accuracy - student_accuracy) / (expert_accuracy * (1 - threshold))))
