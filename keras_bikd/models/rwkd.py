"""`RWKDModel`: the weights of every sample come from the meta loss directly, in every step, without a network."""

from typing import Any

import keras
from keras import ops

from keras_bikd.backend import apply_gradients, run_step
from keras_bikd.bilevel.optimizer import loss_scale, with_loss_scale
from keras_bikd.models.meta_guided import MetaGuidedModel
from keras_bikd.models.problem import unpacked
from keras_bikd.types import Batch, Logs

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

    @property
    def student_optimizer(self) -> keras.optimizers.Optimizer:
        """The optimizer of the student."""
        return self.optimizer

    @property
    def meta_optimizer(self) -> keras.optimizers.Optimizer:
        """The optimizer whose loss scale the meta loss has; the weights have no optimizer of their own."""
        return self.optimizer

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, metrics: Any = None, **kwargs: Any) -> None:
        optimizer = with_loss_scale(keras.optimizers.get(optimizer), self.student.compute_dtype)
        super().compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    def train_step(self, *arguments: Any) -> Any:
        return run_step(self, self.bilevel_step, *arguments)

    def bilevel_step(self, batch: Batch, meta_batch: Batch) -> Logs:
        """One step: the weights follow from the gradient of the meta loss with respect to them, at weights of zero."""
        problem, variables = self.problem, self.student.trainable_variables
        samples, dtype = ops.shape(unpacked(batch)[1])[0], keras.backend.result_type(variables[0].dtype, "float32")
        # The weights are normalised, so this has no effect but in float16, where it keeps the gradients in range.
        learning_rate = loss_scale(self.student_optimizer)
        step = problem.virtual_step(
            batch,
            meta_batch,
            lambda weights, forward: weights[0],
            phi=[ops.zeros((samples, len(self.candidate_losses)), dtype)],
            learning_rate=learning_rate,
        )
        # A positive gain is a negative hypergradient. `mean_weight` makes it small, close to the smallest weight.
        (slope,) = step.hypergradient
        gains = -slope / ops.maximum(step.forward.mean_weight[:, None], 1e-12) / learning_rate
        gains = ops.where(ops.isfinite(gains), ops.maximum(gains, _SMALLEST_WEIGHT), _SMALLEST_WEIGHT)
        weights = gains / ops.sum(gains, axis=-1, keepdims=True)
        gradient = problem.regularized(step.pullback(problem.batch_weights(weights, step.forward)), step)
        apply_gradients(self.student_optimizer, gradient, variables)
        problem.keep_state(step.forward)
        return self._logs(batch, meta_batch, step, weights)
