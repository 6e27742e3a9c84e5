"""Fixed objectives of the baselines: what `DistillationModel` minimises.

Each maps `(labels, teacher_logits, student_logits)` to one value per sample. Hyper-parameters are the fields.
"""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_bikd import checks
from keras_bikd.long_tail import class_balanced_weights, log_priors
from keras_bikd.losses import at_least_float32, balanced_softmax_loss, hard_loss, soft_cross_entropy, soft_loss

_NUMBERS = {
    "temperature": checks.positive_number,
    "beta": checks.between_zero_and_one,
    **dict.fromkeys(("alpha", "strength", "power", "hard_weight", "soft_weight"), checks.non_negative_number),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """Base of the objectives: a frozen record of hyper-parameters that can be called and saved."""

    def __post_init__(self):
        name = type(self).__name__
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (list, np.ndarray)):
                value = tuple(np.asarray(value).tolist())
                object.__setattr__(self, field.name, value)
            if check := _NUMBERS.get(field.name):
                check(name, field.name, value)
        for argument, values in self._per_class():
            checks.non_negative_per_class(name, argument, values)

    def _per_class(self):
        """Name and value of the fields that hold one number per class."""
        named = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return [(name, named[name]) for name in ("class_counts", "teacher_prior") if named.get(name) is not None]

    def __call__(self, labels, teacher_logits, student_logits):
        """Return the loss of every sample, shape `(batch,)`.

        Args:
            labels: Integer ids of shape `(batch,)`, or one-hot rows.
            teacher_logits: Float tensor of shape `(batch, classes)`.
            student_logits: Float tensor of shape `(batch, classes)`.
        """
        # A shift by log counts near 10 has no place in float16.
        student_logits = at_least_float32(student_logits)
        teacher_logits = ops.cast(at_least_float32(teacher_logits), student_logits.dtype)
        for name, values in self._per_class():
            if len(values) != student_logits.shape[-1]:
                raise ValueError(
                    f"`{type(self).__name__}({name}=...)` takes one number per class, and the student has "
                    f"{student_logits.shape[-1]} outputs. Received: {len(values)} numbers"
                )
        return self.call(labels, teacher_logits, student_logits)

    def call(self, labels, teacher_logits, student_logits):
        raise NotImplementedError(f"{type(self).__name__} must define `call`.")

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_bikd")
class CrossEntropy(Objective):
    """Plain training on the labels; the teacher is not used.

    Examples:
        >>> import numpy as np
        >>> logits = np.array([[1.0, 0.0, -1.0]])
        >>> np.round(CrossEntropy()(np.array([0]), logits, logits), 4)
        array([0.4076])
    """

    def call(self, labels, teacher_logits, student_logits):
        return hard_loss(labels, student_logits)


@keras.saving.register_keras_serializable(package="keras_bikd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class BalancedSoftmax(Objective):
    """Cross-entropy under the class frequencies of the training set; the teacher is not used.

    Args:
        class_counts: Training images per class.

    Examples:
        >>> import numpy as np
        >>> logits = np.array([[0.0, 2.0, 1.0]])
        >>> np.round(BalancedSoftmax(class_counts=(100, 10, 1))(np.array([2]), logits, logits), 4)
        array([4.1739])

    Reference: Ren et al., arXiv 2007.10740, Eq. (4).
    """

    class_counts: tuple

    def call(self, labels, teacher_logits, student_logits):
        return balanced_softmax_loss(labels, student_logits, self.class_counts)


@keras.saving.register_keras_serializable(package="keras_bikd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitAdjustment(Objective):
    """Cross-entropy of logits shifted by a multiple of the log prior; the teacher is not used.

    Predict with the plain logits. At strength 1 it is `BalancedSoftmax`.

    Args:
        class_counts: Training images per class.
        strength: Factor of the log prior.

    Examples:
        >>> import numpy as np
        >>> logits = np.array([[0.0, 2.0, 1.0]])
        >>> np.round(LogitAdjustment(class_counts=(100, 10, 1), strength=0.5)(np.array([2]), logits, logits), 4)
        array([2.5859])

    Reference: Menon et al., arXiv 2007.07314, Eq. (10).
    """

    class_counts: tuple
    strength: float = 1.0

    def call(self, labels, teacher_logits, student_logits):
        return hard_loss(labels, student_logits + self.strength * _log_prior(self.class_counts, student_logits))


@keras.saving.register_keras_serializable(package="keras_bikd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftTargets(Objective):
    """Divergence from the teacher alone; the soft loss of BiKD.

    Args:
        temperature: Temperature of both distributions.
        class_counts: Training images per class, to take the class prior out of a teacher that was trained on a long
            tail (`teacher_logits - log prior`); by default the teacher is taken as it is.

    Examples:
        >>> import numpy as np
        >>> teacher, student = np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 2.0, 1.0]])
        >>> np.round(SoftTargets(temperature=4.0)(np.array([2]), teacher, student), 4)
        array([1.3975])

    Reference: arXiv 2605.17839, Eq. (1), `L_soft`; the correction is Menon et al., arXiv 2007.07314, section 4.1.
    """

    temperature: float = 4.0
    class_counts: tuple | None = None

    def call(self, labels, teacher_logits, student_logits):
        if self.class_counts is not None:
            teacher_logits = teacher_logits - _log_prior(self.class_counts, teacher_logits)
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
        >>> np.round(KnowledgeDistillation(temperature=4.0)(np.array([2]), teacher, student), 4)
        array([1.4025])

    Reference: Hinton et al., arXiv 1503.02531; arXiv 2605.17839, section 3.1.
    """

    temperature: float = 4.0
    hard_weight: float = 0.5
    soft_weight: float = 0.5

    def call(self, labels, teacher_logits, student_logits):
        hard = hard_loss(labels, student_logits)
        return self.hard_weight * hard + self.soft_weight * soft_loss(teacher_logits, student_logits, self.temperature)


@keras.saving.register_keras_serializable(package="keras_bikd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightedSum(Objective):
    """Objectives with constant weights: what a learned weighting has to beat.

    Args:
        objectives: The parts.
        weights: One number per part.

    Examples:
        >>> import numpy as np
        >>> parts = (BalancedSoftmax(class_counts=(100, 10, 1)), SoftTargets())
        >>> twin = WeightedSum(objectives=parts, weights=(0.5, 0.5))
        >>> teacher, student = np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 2.0, 1.0]])
        >>> np.round(twin(np.array([2]), teacher, student), 4)
        array([2.7857])
    """

    objectives: tuple
    weights: tuple

    def __post_init__(self):
        object.__setattr__(self, "objectives", tuple(self.objectives))
        super().__post_init__()
        if len(self.objectives) != len(self.weights):
            raise ValueError(
                "`WeightedSum` takes as many weights as objectives. "
                f"Received: {len(self.objectives)} objectives and weights={self.weights!r}"
            )
        for part, weight in zip(self.objectives, self.weights):
            _check_callable("WeightedSum", "objectives", part)
            checks.non_negative_number("WeightedSum", "weights", weight)

    def call(self, labels, teacher_logits, student_logits):
        parts = [part(labels, teacher_logits, student_logits) for part in self.objectives]
        return sum(weight * part for weight, part in zip(self.weights, parts))

    def get_config(self):
        parts = [keras.saving.serialize_keras_object(part) for part in self.objectives]
        return {"objectives": parts, "weights": self.weights}

    @classmethod
    def from_config(cls, config):
        parts = tuple(keras.saving.deserialize_keras_object(part) for part in config["objectives"])
        return cls(objectives=parts, weights=config["weights"])


@keras.saving.register_keras_serializable(package="keras_bikd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherTrust(Objective):
    """Another objective, each sample weighted by the probability that the teacher gives to its label.

    A rule made by hand for labels that cannot be relied on, and a control for learned weights.

    Args:
        objective: What is weighted.

    Examples:
        >>> import numpy as np
        >>> teacher, student = np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 2.0, 1.0]])
        >>> np.round(TeacherTrust(objective=CrossEntropy())(np.array([2]), teacher, student), 4)
        array([1.1877])
    """

    objective: Objective

    def __post_init__(self):
        super().__post_init__()
        _check_callable("TeacherTrust", "objective", self.objective)

    def call(self, labels, teacher_logits, student_logits):
        trust = ops.exp(-hard_loss(labels, teacher_logits))
        return ops.stop_gradient(trust) * self.objective(labels, teacher_logits, student_logits)

    def get_config(self):
        return {"objective": keras.saving.serialize_keras_object(self.objective)}

    @classmethod
    def from_config(cls, config):
        return cls(objective=keras.saving.deserialize_keras_object(config["objective"]))


@keras.saving.register_keras_serializable(package="keras_bikd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightedSoftLabels(Objective):
    """WSL: the soft labels of a sample count the less, the better the student already is against the teacher.

    `hard + alpha * (1 - exp(-CE_student / CE_teacher)) * T^2 * soft cross-entropy`; no gradient flows through the
    weight. The soft term holds the teacher's entropy, as in the authors' code: larger values, same gradients as with
    the divergence.

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

    temperature: float = 4.0
    alpha: float = 2.25

    def call(self, labels, teacher_logits, student_logits):
        hard = hard_loss(labels, student_logits)
        ratio = ops.stop_gradient(hard) / (hard_loss(labels, teacher_logits) + 1e-7)
        soft = soft_cross_entropy(teacher_logits, student_logits, self.temperature)
        return hard + self.alpha * (1 - ops.exp(-ratio)) * soft


@keras.saving.register_keras_serializable(package="keras_bikd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class BalancedKnowledgeDistillation(Objective):
    """BKD: the teacher's distribution is multiplied by class-balanced weights and normalised.

    The authors defer the weights on CIFAR-10: `KnowledgeDistillation(hard_weight=1, soft_weight=alpha)` until epoch
    160 of 200, then this (`keras_bikd.callbacks.DeferredObjective`).

    Args:
        class_counts: Training images per class.
        temperature: Temperature of the soft term.
        alpha: Factor of the soft term.
        beta: In (0, 1); the weight of a class is `(1 - beta) / (1 - beta ** count)`.

    Examples:
        >>> import numpy as np
        >>> teacher, student = np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 2.0, 1.0]])
        >>> objective = BalancedKnowledgeDistillation(class_counts=(100, 10, 1), temperature=4.0)
        >>> np.round(objective(np.array([2]), teacher, student), 4)
        array([15.6659])

    Reference: Zhang et al., arXiv 2104.10510, and the authors' code; weights of Cui et al., arXiv 1901.05555, Eq. (8).
    """

    class_counts: tuple
    temperature: float = 2.0
    alpha: float = 1.0
    beta: float = 0.9999

    def call(self, labels, teacher_logits, student_logits):
        # Weights times probabilities, normalised, are a softmax of shifted logits.
        log_weights = np.log(class_balanced_weights(self.class_counts, self.beta))
        teacher_logits = teacher_logits + self.temperature * ops.cast(log_weights, teacher_logits.dtype)
        soft = soft_loss(teacher_logits, student_logits, self.temperature)
        return hard_loss(labels, student_logits) + self.alpha * soft


@keras.saving.register_keras_serializable(package="keras_bikd")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillingVirtualExamples(Objective):
    """DiVE: balanced softmax on the labels, and a teacher that is flattened by a power.

    The authors train the teacher with the balanced softmax too. A power of 1/2 is a teacher temperature twice the
    student's.

    Args:
        class_counts: Training images per class.
        temperature: Temperature of the soft term.
        alpha: Share of the soft term; the hard term has `1 - alpha`.
        power: Power of the teacher's probabilities before they are normalised; 1 leaves them as they are.

    Examples:
        >>> import numpy as np
        >>> teacher, student = np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 2.0, 1.0]])
        >>> objective = DistillingVirtualExamples(class_counts=(100, 10, 1), temperature=4.0)
        >>> np.round(objective(np.array([2]), teacher, student), 4)
        array([2.4271])

    Reference: He et al., arXiv 2103.15042; power normalisation as in the code of BiKD's authors.
    """

    class_counts: tuple
    temperature: float = 3.0
    alpha: float = 0.5
    power: float = 0.5

    def call(self, labels, teacher_logits, student_logits):
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
        class_counts: Training images per class.
        teacher_prior: Mean of the teacher's probabilities over a balanced set, one number per class; see
            `teacher_prior_of`.
        variant: One of the three readings.
        temperature: Temperature of the soft term.
        alpha: Factor of the soft term.

    Examples:
        >>> import numpy as np
        >>> teacher, student = np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 2.0, 1.0]])
        >>> objective = ClassConditionalDistillation(class_counts=(100, 10, 1), teacher_prior=(0.5, 0.3, 0.2))
        >>> np.round(objective(np.array([2]), teacher, student), 2)
        array([8.93])

    Reference: Li et al., ICML 2024; compared in arXiv 2605.17839, Table 1.
    """

    class_counts: tuple
    teacher_prior: tuple
    variant: str = "training_prior"
    temperature: float = 2.0
    alpha: float = 1.0

    VARIANTS = ("released", "training_prior", "no_prior")

    def __post_init__(self):
        super().__post_init__()
        checks.one_of(type(self).__name__, "variant", self.variant, self.VARIANTS)

    def call(self, labels, teacher_logits, student_logits):
        log_prior = _log_prior(self.class_counts, student_logits)
        teacher = teacher_logits - ops.cast(np.log(np.maximum(self.teacher_prior, 1e-12)), teacher_logits.dtype)
        student = student_logits
        if self.variant != "no_prior":
            student = student + log_prior
        if self.variant == "training_prior":
            teacher = teacher + log_prior
        soft = soft_cross_entropy(teacher, student, self.temperature)
        return balanced_softmax_loss(labels, student_logits, self.class_counts) + self.alpha * soft


def teacher_prior_of(teacher, balanced_data):
    """Mean probabilities of a teacher over a class-balanced set: the class prior it has in effect learnt.

    Args:
        teacher: `keras.Model` that outputs logits.
        balanced_data: Batched data set of `(x, y)`, such as the meta set. Not the test set.

    Returns:
        Array of shape `(classes,)` that sums to 1.

    Examples:
        >>> import numpy as np
        >>> teacher = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, kernel_initializer="zeros")])
        >>> teacher_prior_of(teacher, [(np.ones((4, 2)), np.zeros(4))]).round(3)
        array([0.333, 0.333, 0.333], dtype=float32)
    """
    return np.mean(
        np.concatenate(
            [ops.convert_to_numpy(ops.softmax(teacher(batch[0], training=False))) for batch in balanced_data]
        ),
        axis=0,
    )


def _check_callable(owner, name, objective):
    if not callable(objective):
        raise ValueError(
            f"`{owner}({name}=...)` takes objectives: functions (labels, teacher_logits, student_logits) -> (batch,). "
            f"Received: {objective!r}"
        )


def _log_prior(class_counts, logits):
    return ops.cast(log_priors(class_counts), logits.dtype)
