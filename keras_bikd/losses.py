"""Per-sample losses: what BiKD weighs, before anything is averaged.

Every function returns shape `(batch,)`. Means are taken once, where samples are weighted. A binary classifier may have
one logit `z`, which counts as the two logits `(0, z)`.
Half-precision logits are cast to float32 first, because float16 is too coarse for a softmax of logits near 60.
"""

import keras
from keras import ops

from keras_bikd import checks
from keras_bikd.serialization import Serializable
from keras_bikd.types import Counts, Tensor


@keras.saving.register_keras_serializable(package="keras_bikd")
def hard_loss(labels: Tensor, logits: Tensor) -> Tensor:
    """Cross-entropy of the labels, one value per sample.

    The hard loss of the paper. Of teacher and student, it is also what the weight network sees of a sample.

    Args:
        labels: Class ids of shape `(batch,)` or `(batch, 1)`, or one-hot rows of shape `(batch, classes)`.
        logits: Float tensor of shape `(batch, classes)`, or `(batch, 1)` for two classes, before any softmax.

    Returns:
        Float tensor of shape `(batch,)`, in nats; at least float32.

    Examples:
        >>> import numpy as np
        >>> logits = np.array([[1.0, 0.0, -1.0], [0.0, 2.0, 1.0]])
        >>> np.round(hard_loss(np.array([0, 2]), logits), 4)
        array([0.4076, 1.4076])

    Reference: arXiv 2605.17839, Eq. (1), `L_hard`.
    """
    logits = class_logits(logits)
    labels = ops.convert_to_tensor(labels)
    if len(labels.shape) == len(logits.shape) and labels.shape[-1] == logits.shape[-1]:
        return ops.categorical_crossentropy(ops.cast(labels, logits.dtype), logits, from_logits=True)
    # On JAX with 64 bits, Keras multiplies by a float64 one-hot.
    ids = ops.cast(labels, "int32")
    return ops.cast(ops.sparse_categorical_crossentropy(ids, logits, from_logits=True), logits.dtype)


def soft_loss(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> Tensor:
    """Divergence of the student from the teacher at a temperature, one value per sample.

    `temperature ** 2 * KL(softmax(teacher / temperature) || softmax(student / temperature))`. The factor
    keeps the size of the gradient independent of the temperature.

    Args:
        teacher_logits: Float tensor of shape `(batch, classes)`.
        student_logits: Float tensor of shape `(batch, classes)`.
        temperature: Positive number; larger is softer.

    Returns:
        Float tensor of shape `(batch,)`, in nats; at least float32.

    Examples:
        >>> import numpy as np
        >>> teacher, student = np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 2.0, 1.0]])
        >>> np.round(soft_loss(teacher, student, temperature=4.0), 4)
        array([1.3975])

    Reference: arXiv 2605.17839, Eq. (1), `L_soft`; Hinton et al., arXiv 1503.02531, section 2.
    """
    teacher, student = _log_probabilities(teacher_logits, student_logits, temperature)
    return temperature**2 * ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)


def soft_cross_entropy(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the student under the teacher's soft labels, one value per sample.

    `soft_loss` plus `temperature ** 2` times the entropy of the teacher, which does not depend on the student. The
    values differ from those of `soft_loss`; the gradients do not.

    Args:
        teacher_logits: Float tensor of shape `(batch, classes)`.
        student_logits: Float tensor of shape `(batch, classes)`.
        temperature: Positive number; larger is softer.

    Returns:
        Float tensor of shape `(batch,)`, in nats; at least float32.

    Examples:
        >>> import numpy as np
        >>> teacher, student = np.array([[1.0, 0.0, 3.0]]), np.array([[0.0, 2.0, 1.0]])
        >>> np.round(soft_cross_entropy(teacher, student, temperature=4.0), 4)
        array([18.1676])

    Reference: the soft term of Zhou et al., arXiv 2102.00650.
    """
    teacher, student = _log_probabilities(teacher_logits, student_logits, temperature)
    return -(temperature**2) * ops.sum(ops.exp(teacher) * student, axis=-1)


def _log_probabilities(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    student = class_logits(student_logits)
    teacher = ops.cast(class_logits(teacher_logits), student.dtype)
    return ops.log_softmax(teacher / temperature), ops.log_softmax(student / temperature)


def class_ids(labels: Tensor, num_classes: int) -> Tensor:
    """Convert ids, a column of ids, or one-hot rows to class ids.

    Args:
        labels: Labels in any of these forms.
        num_classes: Number of classes.

    Returns:
        Int32 tensor of shape `(batch,)`.

    Examples:
        >>> forms = [2, 0], [[2], [0]], [[0, 0, 1], [1, 0, 0]]
        >>> [ops.convert_to_numpy(class_ids(labels, 3)).tolist() for labels in forms]
        [[2, 0], [2, 0], [2, 0]]
    """
    labels = ops.convert_to_tensor(labels)
    are_rows = len(labels.shape) == 2 and labels.shape[-1] == num_classes
    return ops.cast(ops.argmax(labels, axis=-1) if are_rows else ops.reshape(labels, (-1,)), "int32")


def balanced_softmax_loss(labels: Tensor, logits: Tensor, class_counts: Counts) -> Tensor:
    """Cross-entropy under the class frequencies of the training set, one value per sample.

    Adds `log(class_counts)` to the logits, so that the logits themselves model balanced classes. Predict with
    the plain logits.

    Args:
        labels: As in `hard_loss`.
        logits: Float tensor of shape `(batch, classes)`.
        class_counts: Training samples per class, shape `(classes,)`. A class without images counts as one.

    Returns:
        Float tensor of shape `(batch,)`, in nats; at least float32.

    Raises:
        ValueError: If there are more or fewer counts than classes.

    Examples:
        >>> import numpy as np
        >>> logits = np.array([[1.0, 0.0, -1.0], [0.0, 2.0, 1.0]])
        >>> np.round(balanced_softmax_loss(np.array([0, 2]), logits, [100, 10, 1]), 4)
        array([0.0374, 4.1739])

    Reference: Ren et al., arXiv 2007.10740, Eq. (4).
    """
    logits = class_logits(logits)
    if logits.shape[-1] != len(class_counts):
        raise ValueError(
            f"`class_counts` takes one number per class, and the model has {logits.shape[-1]} classes. "
            f"Received: {len(class_counts)} numbers"
        )
    log_counts = ops.log(ops.maximum(ops.cast(class_counts, logits.dtype), 1))
    return hard_loss(labels, logits + log_counts)


@keras.saving.register_keras_serializable(package="keras_bikd")
class BalancedSoftmaxLoss(Serializable, keras.losses.Loss):
    """`balanced_softmax_loss` for `compile(loss=...)` of any Keras classifier that outputs logits.

    Args:
        class_counts: Training samples per class.
        reduction: As in Keras losses.
        name: Name of the loss.
        dtype: Dtype of the loss.

    Examples:
        >>> float(BalancedSoftmaxLoss([100, 10, 1])([2], [[0.0, 2.0, 1.0]]))
        4.173937...
    """

    ARGUMENTS = ("class_counts",)

    def __init__(
        self,
        class_counts: Counts,
        reduction: str | None = "sum_over_batch_size",
        name: str = "balanced_softmax_loss",
        dtype: str | None = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.class_counts = checks.class_counts("BalancedSoftmaxLoss", "class_counts", class_counts)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The loss of every sample, shape `(batch,)`; arguments as in `balanced_softmax_loss`."""
        shape, classes = ops.shape(y_true), len(self.class_counts)
        is_rows = len(shape) > 1 and shape[-1] == classes
        labels = y_true if is_rows else ops.cast(y_true, "int32")  # Keras passes class ids as floats
        return balanced_softmax_loss(labels, y_pred, self.class_counts)


@keras.saving.register_keras_serializable(package="keras_bikd")
def attention_transfer_loss(teacher_features: Tensor, student_features: Tensor) -> Tensor:
    """Distance between where teacher and student look, one value per sample.

    The attention at a place is the mean of the squared features there. The maps of both networks are scaled to length
    one, and the squared distance is taken: 0 for equal maps, 2 for maps without a common place. The networks may have
    different numbers of channels.

    Args:
        teacher_features: Float tensor of shape `(batch, ..., channels)`, or `(batch, channels, ...)` if that is
            Keras' image data format.
        student_features: Float tensor with the same places; the number of channels may be another one.

    Returns:
        Float tensor of shape `(batch,)`, between 0 and 2.

    Raises:
        ValueError: If there are no places, or others than in the teacher.

    Examples:
        >>> import numpy as np
        >>> teacher = np.array([[[3.0, 0.0], [0.0, 4.0]]])
        >>> student = np.array([[[1.0], [0.0]]])
        >>> np.round(attention_transfer_loss(teacher, student), 4)
        array([1.0195])

    Reference: Zagoruyko and Komodakis, arXiv 1612.03928, Eq. (2), with the square of the authors' code.
    """
    channels = 1 if keras.config.image_data_format() == "channels_first" else -1

    def attention(features: Tensor) -> Tensor:
        energy = ops.mean(ops.square(ops.convert_to_tensor(features)), axis=channels)
        energy = ops.reshape(energy, (ops.shape(energy)[0], -1))
        # The epsilon keeps the gradient finite where a ReLU has left nothing.
        return energy * ops.rsqrt(ops.sum(ops.square(energy), axis=-1, keepdims=True) + keras.config.epsilon() ** 2)

    teacher, student = (tuple(features.shape) for features in (teacher_features, student_features))
    places = [shape[2:] if channels == 1 else shape[1:-1] for shape in (teacher, student)]
    if not places[0] or places[0] != places[1]:
        raise ValueError(
            "`attention_transfer_loss` compares two layers with the same places, such as the pixels of two feature "
            "maps of equal height and width. Choose layers at the same scale. "
            f"Received: {teacher} from the teacher and {student} from the student"
        )
    return ops.sum(ops.square(attention(teacher_features) - attention(student_features)), axis=-1)


def class_logits(logits: Tensor) -> Tensor:
    """Logits with one column per class, in float32 or better.

    Args:
        logits: Float tensor of shape `(batch, classes)`, or `(batch, 1)` from a binary classifier with one logit.

    Returns:
        Float tensor of shape `(batch, classes)`.

    Examples:
        >>> ops.convert_to_numpy(class_logits([[2.0], [-1.0]])).tolist()
        [[0.0, 2.0], [0.0, -1.0]]
    """
    logits = ops.convert_to_tensor(logits)
    if keras.backend.standardize_dtype(logits.dtype) in ("float16", "bfloat16"):
        logits = ops.cast(logits, "float32")
    # A sigmoid of z is a softmax of (0, z).
    return ops.concatenate([ops.zeros_like(logits), logits], axis=-1) if logits.shape[-1] == 1 else logits
