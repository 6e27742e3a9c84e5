"""Callbacks that change a training at the start of an epoch."""

from collections.abc import Callable

import keras

from keras_bikd.types import Logs, Tensor


class MetaLearningRateScheduler(keras.callbacks.Callback):
    """Set the learning rate of the weight network at the start of every epoch, and log it.

    Use Keras' `LearningRateScheduler` for the learning rate of the student. The authors' code multiplies the meta
    learning rate by 0.8 at epochs 80 and 100; in the paper it is constant.

    Args:
        schedule: Function `(epoch, learning_rate) -> learning_rate`. By default the learning rate is only logged, as
            `meta_learning_rate`, and not changed.

    Examples:
        >>> callback = MetaLearningRateScheduler(
        ...     lambda epoch, rate: rate * 0.8 if epoch in (80, 100) else rate
        ... )
    """

    def __init__(self, schedule: Callable[[int, float], float] | None = None) -> None:
        super().__init__()
        self.schedule = schedule

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        if self.schedule is not None:
            optimizer = self.model.meta_optimizer
            optimizer.learning_rate = self.schedule(epoch, _number(optimizer.learning_rate))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is not None:
            logs["meta_learning_rate"] = _number(self.model.meta_optimizer.learning_rate)


def _number(learning_rate: keras.Variable) -> float:
    return float(keras.ops.convert_to_numpy(learning_rate))  # under a strategy it has a value on every device


class DeferredObjective(keras.callbacks.Callback):
    """Switch a `DistillationModel` to another objective at some epoch: deferred re-weighting.

    BKD on CIFAR-10 distils without weights until epoch 160 of 200. A resumed run uses the objective of its epoch.
    After the training the model has its first objective again.

    Args:
        objective: The later objective.
        epoch: Number of epochs to train with the first objective.

    Examples:
        >>> from keras_bikd.objectives import BalancedKnowledgeDistillation
        >>> callback = DeferredObjective(
        ...     BalancedKnowledgeDistillation(class_counts=(100, 10)), epoch=160
        ... )

    Reference: Cao et al., arXiv 1906.07413, section 3.3; Zhang et al., arXiv 2104.10510.
    """

    def __init__(self, objective: Callable[..., Tensor], epoch: int) -> None:
        super().__init__()
        self.objective, self.epoch = objective, epoch

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._own = self.model.objective

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._use(self.objective if epoch >= self.epoch else self._own)

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._use(self._own)

    def _use(self, objective: Callable[..., Tensor]) -> None:
        if self.model.objective is not objective:
            self.model.objective = objective
            self.model.make_train_function(force=True)  # the objective is part of the compiled step
