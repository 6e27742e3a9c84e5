"""Objectives that use the class counts of the training set."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_bikd import checks
from keras_bikd.long_tail import class_balanced_weights
from keras_bikd.losses import balanced_softmax_loss, hard_loss, soft_cross_entropy, soft_loss
from keras_bikd.objectives.base import ClassCounts, Factor, Objective, PerClass, Share, Temperature, log_prior
from keras_bikd.types import Tensor


@keras.saving.register_keras_serializable(package="keras_bikd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class BalancedSoftmax(Objective):
    """Cross-entropy under the class frequencies of the training set; the teacher is not used.

    Args:
        class_counts: Training samples per class.

    Examples:
        >>> import numpy as np
        >>> logits = np.array([[0.0, 2.0, 1.0]])
        >>> np.round(
        ...     BalancedSoftmax(class_counts=(100, 10, 1))(
        ...         np.array([2]), logits, logits
        ...     ),
        ...     4,
        ... )
        array([4.1739])

    Reference: Ren et al., arXiv 2007.10740, Eq. (4).
    """

    uses_teacher = False

    class_counts: ClassCounts

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        return balanced_softmax_loss(labels, student_logits, self.class_counts)


@keras.saving.register_keras_serializable(package="keras_bikd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitAdjustment(Objective):
    """Cross-entropy of logits shifted by a multiple of the log prior; the teacher is not used.

    Predict with the plain logits. At strength 1 it is `BalancedSoftmax`.

    Args:
        class_counts: Training samples per class.
        strength: Factor of the log prior.

    Examples:
        >>> import numpy as np
        >>> logits = np.array([[0.0, 2.0, 1.0]])
        >>> np.round(
        ...     LogitAdjustment(class_counts=(100, 10, 1), strength=0.5)(
        ...         np.array([2]), logits, logits
        ...     ),
        ...     4,
        ... )
        array([2.5859])

    Reference: Menon et al., arXiv 2007.07314, Eq. (10).
    """

    uses_teacher = False

    class_counts: ClassCounts
    strength: Factor = 1.0

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        return hard_loss(labels, student_logits + self.strength * log_prior(self.class_counts, student_logits))


@keras.saving.register_keras_serializable(package="keras_bikd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class BalancedKnowledgeDistillation(Objective):
    """BKD: the teacher's distribution is multiplied by class-balanced weights and normalised.

    The authors defer the weights on CIFAR-10: `KnowledgeDistillation(hard_weight=1, soft_weight=alpha)` until epoch
    160 of 200, then this (`keras_bikd.callbacks.DeferredObjective`).

    Args:
        class_counts: Training samples per class.
        temperature: Temperature of the soft term.
        alpha: Factor of the soft term.
        beta: In (0, 1); the weight of a class is `(1 - beta) / (1 - beta ** count)`.

    Examples:
        >>> import numpy as np
        >>> teacher, student = np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 2.0, 1.0]])
        >>> objective = BalancedKnowledgeDistillation(
        ...     class_counts=(100, 10, 1), temperature=4.0
        ... )
        >>> np.round(objective(np.array([2]), teacher, student), 4)
        array([15.6659])

    Reference: Zhang et al., arXiv 2104.10510, and the authors' code; weights of Cui et al., arXiv 1901.05555, Eq. (8).
    """

    class_counts: ClassCounts
    temperature: Temperature = 2.0
    alpha: Factor = 1.0
    beta: Share = 0.9999

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        # Weights times probabilities, normalised, are a softmax of shifted logits.
        log_weights = np.log(class_balanced_weights(self.class_counts, self.beta))
        teacher_logits = teacher_logits + self.temperature * ops.cast(log_weights, teacher_logits.dtype)
        soft = soft_loss(teacher_logits, student_logits, self.temperature)
        return hard_loss(labels, student_logits) + self.alpha * soft


@keras.saving.register_keras_serializable(package="keras_bikd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillingVirtualExamples(Objective):
    """DiVE: balanced softmax on the labels, and a teacher flattened by a power.

    The authors train the teacher with the balanced softmax too. A power of 1/2 is a teacher temperature twice the
    student's.

    Args:
        class_counts: Training samples per class.
        temperature: Temperature of the soft term.
        alpha: Share of the soft term; the hard term has `1 - alpha`.
        power: Power of the teacher's probabilities before they are normalised; 1 leaves them as they are.

    Examples:
        >>> import numpy as np
        >>> teacher, student = np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 2.0, 1.0]])
        >>> objective = DistillingVirtualExamples(
        ...     class_counts=(100, 10, 1), temperature=4.0
        ... )
        >>> np.round(objective(np.array([2]), teacher, student), 4)
        array([2.4271])

    Reference: He et al., arXiv 2103.15042; power normalisation as in the code of BiKD's authors.
    """

    class_counts: ClassCounts
    temperature: Temperature = 3.0
    alpha: Factor = 0.5
    power: Factor = 0.5

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        hard = balanced_softmax_loss(labels, student_logits, self.class_counts)
        return (1 - self.alpha) * hard + self.alpha * soft_loss(
            self.power * teacher_logits, student_logits, self.temperature
        )


@keras.saving.register_keras_serializable(package="keras_bikd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassConditionalDistillation(Objective):
    """CCKD: match the teacher's class-conditional distribution, with both class priors taken into account.

    `balanced softmax + alpha * T^2 * soft cross-entropy(q, r)`. Its authors' code is not public; three readings are
    known and differ in the priors, with `t` and `z` the logits:

    - `"released"`: `q = softmax((t - log teacher_prior) / T)`, `r = softmax((z + log prior) / T)`, as in code of a
      co-author of BiKD; the two sides are under different priors.
    - `"training_prior"`: `q = softmax((t - log teacher_prior + log prior) / T)`, `r = softmax((z + log prior) / T)`.
    - `"no_prior"`: `q = softmax((t - log teacher_prior) / T)`, `r = softmax(z / T)`.

    Predict with the plain logits.

    Args:
        class_counts: Training samples per class.
        teacher_prior: Mean of the teacher's probabilities over a balanced set, one number per class; see
            `teacher_prior_of`.
        variant: One of the three readings.
        temperature: Temperature of the soft term.
        alpha: Factor of the soft term.

    Examples:
        >>> import numpy as np
        >>> teacher, student = np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 2.0, 1.0]])
        >>> objective = ClassConditionalDistillation(
        ...     class_counts=(100, 10, 1), teacher_prior=(0.5, 0.3, 0.2)
        ... )
        >>> np.round(objective(np.array([2]), teacher, student), 2)
        array([8.93])

    Reference: Li et al., ICML 2024; compared in arXiv 2605.17839, Table 1.
    """

    class_counts: ClassCounts
    teacher_prior: PerClass
    variant: str = "training_prior"
    temperature: Temperature = 2.0
    alpha: Factor = 1.0

    VARIANTS = ("released", "training_prior", "no_prior")

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of(type(self).__name__, "variant", self.variant, self.VARIANTS)

    def call(self, labels: Tensor, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        prior = log_prior(self.class_counts, student_logits)
        teacher = teacher_logits - ops.cast(np.log(np.maximum(self.teacher_prior, 1e-12)), teacher_logits.dtype)
        student = student_logits
        if self.variant != "no_prior":
            student = student + prior
        if self.variant == "training_prior":
            teacher = teacher + prior
        soft = soft_cross_entropy(teacher, student, self.temperature)
        return balanced_softmax_loss(labels, student_logits, self.class_counts) + self.alpha * soft


def teacher_prior_of(teacher: keras.Model, balanced_data: Iterable[Any]) -> np.ndarray:
    """Mean probabilities of a teacher over a class-balanced set: the class prior that it has learned.

    Args:
        teacher: `keras.Model` that outputs logits.
        balanced_data: Batched data set of `(x, y)`, such as the meta set. Not the test set.

    Returns:
        Array of shape `(classes,)` that sums to 1.

    Examples:
        >>> import numpy as np
        >>> teacher = keras.Sequential(
        ...     [keras.Input((2,)), keras.layers.Dense(3, kernel_initializer="zeros")]
        ... )
        >>> teacher_prior_of(teacher, [(np.ones((4, 2)), np.zeros(4))]).round(3)
        array([0.333, 0.333, 0.333], dtype=float32)
    """
    rows = [ops.convert_to_numpy(ops.softmax(teacher(batch[0], training=False))) for batch in balanced_data]
    return np.concatenate(rows).mean(axis=0)
