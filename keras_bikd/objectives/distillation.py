"""Objectives of labels and teacher that do not use class counts, and plain cross-entropy."""

import dataclasses

import keras
from keras import ops

from keras_bikd.losses import hard_loss, soft_cross_entropy, soft_loss
from keras_bikd.objectives.base import ClassCounts, Factor, Objective, Temperature, log_prior
from keras_bikd.types import Tensor


@keras.saving.register_keras_serializable(package="keras_bikd")
class CrossEntropy(Objective):
    """Plain training on the labels; the teacher is not used.

    Examples:
        >>> import numpy as np
        >>> logits = np.array([[1.0, 0.0, -1.0]])
        >>> np.round(CrossEntropy()(np.array([0]), logits, logits), 4)
        array([0.4076])
    """

    uses_teacher = False

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        return hard_loss(labels, student_logits)


@keras.saving.register_keras_serializable(package="keras_bikd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftTargets(Objective):
    """Divergence from the teacher alone; the soft loss of BiKD.

    Args:
        temperature: Temperature of both distributions.
        class_counts: Training samples per class, to remove the class prior from a teacher that was trained on a long
            tail (`teacher_logits - log prior`). By default the teacher is used as it is.

    Examples:
        >>> import numpy as np
        >>> teacher, student = np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 2.0, 1.0]])
        >>> np.round(SoftTargets(temperature=4.0)(np.array([2]), teacher, student), 4)
        array([1.3975])

    Reference: arXiv 2605.17839, Eq. (1), `L_soft`; the correction is Menon et al., arXiv 2007.07314, section 4.1.
    """

    temperature: Temperature = 4.0
    class_counts: ClassCounts | None = None

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        if self.class_counts is not None:
            teacher_logits = teacher_logits - log_prior(self.class_counts, teacher_logits)
        return soft_loss(teacher_logits, student_logits, self.temperature)


@keras.saving.register_keras_serializable(package="keras_bikd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class KnowledgeDistillation(Objective):
    """A fixed mix of the hard and the soft loss.

    `hard_weight * hard + soft_weight * soft`, the soft loss with its factor `temperature ** 2`. Papers call either
    weight alpha; here each has its own name.

    Args:
        temperature: Temperature of the soft loss.
        hard_weight: Weight of the cross-entropy of the labels.
        soft_weight: Weight of the divergence from the teacher.

    Examples:
        >>> import numpy as np
        >>> teacher, student = np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 2.0, 1.0]])
        >>> np.round(
        ...     KnowledgeDistillation(temperature=4.0)(np.array([2]), teacher, student),
        ...     4,
        ... )
        array([1.4025])

    Reference: Hinton et al., arXiv 1503.02531; arXiv 2605.17839, section 3.1.
    """

    temperature: Temperature = 4.0
    hard_weight: Factor = 0.5
    soft_weight: Factor = 0.5

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        hard = hard_loss(labels, student_logits)
        return self.hard_weight * hard + self.soft_weight * soft_loss(teacher_logits, student_logits, self.temperature)


@keras.saving.register_keras_serializable(package="keras_bikd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightedSoftLabels(Objective):
    """WSL: the better the student already is on a sample, compared with the teacher, the less its soft labels count.

    `hard + alpha * (1 - exp(-CE_student / CE_teacher)) * T^2 * soft cross-entropy`; no gradient flows through the
    weight. As in the authors' code, the soft term is the cross-entropy, not the divergence: the values are larger, the
    gradients the same.

    Args:
        temperature: Temperature of the soft term.
        alpha: Factor of the soft term; 2.25 on CIFAR, 2.5 with temperature 2 on ImageNet.

    Examples:
        >>> import numpy as np
        >>> teacher, student = np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 2.0, 1.0]])
        >>> np.round(WeightedSoftLabels()(np.array([2]), teacher, student), 4)
        array([42.2743])

    Reference: Zhou et al., arXiv 2102.00650, and the authors' code.
    """

    temperature: Temperature = 4.0
    alpha: Factor = 2.25

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        hard = hard_loss(labels, student_logits)
        ratio = ops.stop_gradient(hard) / (hard_loss(labels, teacher_logits) + 1e-7)
        soft = soft_cross_entropy(teacher_logits, student_logits, self.temperature)
        return hard + self.alpha * (1 - ops.exp(-ratio)) * soft
