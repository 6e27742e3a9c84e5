"""Fixed objectives of the baselines: what `DistillationModel` minimises.

Each maps `(labels, teacher_logits, student_logits)` to one value per sample. Hyper-parameters are the fields.
"""

import dataclasses

import keras

from keras_bikd.losses import balanced_softmax_loss, hard_loss, soft_loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """Base of the objectives: a frozen record of hyper-parameters that can be called and saved."""

    def __call__(self, labels, teacher_logits, student_logits):
        """Return the loss of every sample, shape `(batch,)`.

        Args:
            labels: Integer ids of shape `(batch,)`, or one-hot rows.
            teacher_logits: Float tensor of shape `(batch, classes)`.
            student_logits: Float tensor of shape `(batch, classes)`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `__call__`.")

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_bikd")
class CrossEntropy(Objective):
    """Plain training on the labels; the teacher is not used.

    Example:
    >>> import numpy as np
    >>> logits = np.array([[1.0, 0.0, -1.0]])
    >>> np.round(CrossEntropy()(np.array([0]), logits, logits), 4)
    array([0.4076])
    """

    def __call__(self, labels, teacher_logits, student_logits):
        return hard_loss(labels, student_logits)


@keras.saving.register_keras_serializable(package="keras_bikd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class BalancedSoftmax(Objective):
    """Cross-entropy under the class frequencies of the training set; the teacher is not used.

    Args:
        class_counts: Training images per class.

    Example:
    >>> import numpy as np
    >>> logits = np.array([[0.0, 2.0, 1.0]])
    >>> np.round(BalancedSoftmax(class_counts=(100, 10, 1))(np.array([2]), logits, logits), 4)
    array([4.1739])

    Reference: Ren et al., arXiv 2007.10740, Eq. (4).
    """

    class_counts: tuple

    def __post_init__(self):
        object.__setattr__(self, "class_counts", tuple(int(count) for count in self.class_counts))

    def __call__(self, labels, teacher_logits, student_logits):
        return balanced_softmax_loss(labels, student_logits, self.class_counts)


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

    Example:
    >>> import numpy as np
    >>> teacher, student = np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 2.0, 1.0]])
    >>> np.round(KnowledgeDistillation(temperature=4.0)(np.array([2]), teacher, student), 4)
    array([1.4025])

    Reference: Hinton et al., arXiv 1503.02531; arXiv 2605.17839, section 3.1.
    """

    temperature: float = 4.0
    hard_weight: float = 0.5
    soft_weight: float = 0.5

    def __call__(self, labels, teacher_logits, student_logits):
        hard = hard_loss(labels, student_logits)
        return self.hard_weight * hard + self.soft_weight * soft_loss(teacher_logits, student_logits, self.temperature)
