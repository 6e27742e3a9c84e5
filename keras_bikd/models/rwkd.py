"""`RWKDModel`: the weights of every sample come from the meta loss directly, in every step, without a network."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_bikd.backend import apply_gradients, snapshot
from keras_bikd.bilevel.hypergradient import one_step_hypergradient
from keras_bikd.bilevel.optimizer import loss_scale, with_loss_scale
from keras_bikd.models.meta_guided import MetaGuidedModel
from keras_bikd.models.problem import unpacked
from keras_bikd.types import Batch, Counts, Logs, Teacher, Tensor

_SMALLEST_WEIGHT = 1e-8


@keras.saving.register_keras_serializable(package="keras_bikd")
class RWKDModel(MetaGuidedModel):
    """RW-KD: hard and soft loss share a total weight of one, split for each sample by what lowers the meta loss.

    The weight of a loss is proportional to the inner product of its gradient with that of the meta loss, where
    positive: what one virtual step from all-zero weights would gain. `fit` takes `meta_data` as `BiKDModel.fit` does.

    Args:
        student: `keras.Model` that outputs logits.
        teacher: `keras.Model` that outputs logits for the same inputs and classes, or the path of one; never trained.
        temperature: Positive number, temperature of the soft loss.
        meta_loss: As in `BiKDModel`.
        class_counts: As in `BiKDModel`.
        candidate_losses: As in `BiKDModel`.
        **kwargs: Keras model arguments (`name`, ...).

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> import keras, numpy as np
        >>> x, y = np.random.normal(size=(32, 8)).astype("float32"), np.arange(32) % 4
        >>> student = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> teacher = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model = RWKDModel(student, teacher)
        >>> model.compile(optimizer=keras.optimizers.SGD(0.1))
        >>> sorted(
        ...     model.fit(
        ...         x, y, meta_data=(x[:8], y[:8]), batch_size=8, verbose=0
        ...     ).history
        ... )
        ['hard_weight', 'loss', 'meta_loss', 'soft_weight', 'student_loss']

    Reference: Lu et al., Findings of EMNLP 2021; no official code. The algorithm follows two independent
    implementations, one by an author of arXiv 2605.17839.
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: Teacher,
        *,
        temperature: float = 4.0,
        meta_loss: str = "hard",
        class_counts: Counts | None = None,
        candidate_losses: dict[str, Callable[..., Tensor]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            student,
            teacher,
            temperature=temperature,
            meta_loss=meta_loss,
            class_counts=class_counts,
            candidate_losses=candidate_losses,
            **kwargs,
        )

    @property
    def student_optimizer(self) -> keras.optimizers.Optimizer:
        """The optimizer of the student."""
        return self.optimizer

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, metrics: Any = None, **kwargs: Any) -> None:
        optimizer = with_loss_scale(keras.optimizers.get(optimizer), self.student.compute_dtype)
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    def bilevel_step(self, batch: Batch, meta_batch: Batch) -> Logs:
        """One step: the weights follow from the gradient of the meta loss with respect to them, at weights of zero."""
        problem = self.problem
        theta = snapshot(self.student.trainable_variables)
        scale = loss_scale(self.student_optimizer)
        step = one_step_hypergradient(
            problem.lower_level(batch).at,
            lambda weights, forward: problem.cotangents(weights[0], forward),
            problem.upper_loss(meta_batch, scale),
            theta=theta,
            phi=[ops.zeros((ops.shape(unpacked(batch)[1])[0], len(self.candidate_losses)), _weight_dtype(theta[0]))],
            learning_rate=1.0,  # has no effect: the weights are normalised
        )
        # A positive gain is a negative hypergradient. `mean_weight` makes it small, close to the smallest weight.
        (slope,) = step.hypergradient
        gains = -slope / ops.maximum(step.forward.mean_weight[:, None], 1e-12) / scale / scale
        gains = ops.where(ops.isfinite(gains), ops.maximum(gains, _SMALLEST_WEIGHT), _SMALLEST_WEIGHT)
        weights = gains / ops.sum(gains, axis=-1, keepdims=True)
        gradient = problem.regularized(step.pullback(problem.cotangents(weights, step.forward)), step)
        apply_gradients(self.student_optimizer, gradient, self.student.trainable_variables)
        problem.keep_state(step.forward)
        return self._logs(batch, meta_batch, step._replace(meta_loss=step.meta_loss / scale), weights)


def _weight_dtype(parameter: Tensor) -> str:
    """Dtype of the losses and their weights: that of the parameters, but at least float32."""
    return keras.backend.result_type(parameter.dtype, "float32")
