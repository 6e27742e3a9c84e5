"""`BiKDHyperModel`: the hyper-parameters of BiKD as a search of Keras Tuner."""

import math
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import keras
import keras_tuner
from keras_tuner.errors import FailedTrialError, FatalValueError

from keras_bikd.bilevel.weight_net import MetaWeightNet
from keras_bikd.metrics import BalancedAccuracy
from keras_bikd.models.bikd import BiKDModel
from keras_bikd.teachers import TeacherReference

OBJECTIVE = keras_tuner.Objective("val_balanced_accuracy", "max")
"""The `objective` for a tuner: balanced accuracy on the validation data of `search`."""

_LAST = "last.weights.h5"


class BiKDHyperModel(keras_tuner.HyperModel):
    """BiKD as a `keras_tuner.HyperModel`, for `RandomSearch`, `BayesianOptimization` and `Hyperband`.

    Keras Tuner builds one model per trial. All share the teacher, which is stored with none of them. A trial that
    diverges is marked as failed, and the search continues. In the later rounds of `Hyperband`, both levels of the
    training resume where they stopped. An error that every trial would meet ends the search at once.

    Searched are `inner_steps` (1 to 20), `temperature` (1 to 10) and `meta_learning_rate` (1e-4 to 1e-2); fixed are
    `learning_rate` (0.1) and `hidden_units` (64, the width of the weight network). For other ranges and numbers, give
    the tuner entries of these names, `hyperparameters=hp`; see the second example.

    Do not pass `optimizer=` or `loss=` to the tuner: it would compile the model again, without the second optimizer.
    If many trials may diverge, pass `max_consecutive_failed_trials=100`.

    Args:
        student_builder: Function `(hp) -> keras.Model` that returns a new, built student with logits as outputs; it
            may take further hyper-parameters from `hp`.
        teacher: `keras.Model`, or a `TeacherReference`.
        num_classes: Number of classes.
        optimizer_builder: Function from a learning rate to the student's optimizer; by default SGD with momentum 0.9.
        model_arguments: Further arguments of `BiKDModel`, such as `{"class_counts": counts}`.
        compile_arguments: Further arguments of `BiKDModel.compile`, such as `{"steps_per_execution": 50}`.

    Examples:
        >>> import tempfile
        >>> def student_builder(hp):
        ...     return keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> teacher = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> tuner = keras_tuner.RandomSearch(
        ...     BiKDHyperModel(student_builder, teacher, num_classes=4),
        ...     objective=OBJECTIVE,
        ...     max_trials=12,
        ...     directory=tempfile.mkdtemp(),
        ... )
        >>> [hp.name for hp in tuner.oracle.get_space().space][:3]
        ['inner_steps', 'temperature', 'meta_learning_rate']

        >>> hp = keras_tuner.HyperParameters()
        >>> temperature = hp.Fixed("temperature", 4.0)
        >>> learning_rate = hp.Float("learning_rate", 0.01, 1.0, sampling="log")
        >>> tuner = keras_tuner.RandomSearch(
        ...     BiKDHyperModel(student_builder, teacher, num_classes=4),
        ...     objective=OBJECTIVE,
        ...     hyperparameters=hp,
        ...     directory=tempfile.mkdtemp(),
        ... )

    Then `tuner.search(data.train, meta_data=data.meta, validation_data=data.validation, epochs=...)`.
    """

    def __init__(
        self,
        student_builder: Callable[[keras_tuner.HyperParameters], keras.Model],
        teacher: keras.Model,
        num_classes: int,
        *,
        optimizer_builder: Callable[[float], keras.optimizers.Optimizer] | None = None,
        model_arguments: dict[str, Any] | None = None,
        compile_arguments: dict[str, Any] | None = None,
    ) -> None:
        self.student_builder, self.num_classes = student_builder, num_classes
        self.teacher = teacher if isinstance(teacher, TeacherReference) else TeacherReference(teacher)
        self.optimizer_builder = optimizer_builder or (lambda rate: keras.optimizers.SGD(rate, momentum=0.9))
        self.model_arguments, self.compile_arguments = model_arguments or {}, compile_arguments or {}
        self.dtype_policy = keras.config.dtype_policy()  # Keras Tuner forgets it before every trial
        super().__init__()  # wraps `self.build`

    def build(self, hp: keras_tuner.HyperParameters) -> BiKDModel:
        """Build and compile the model of a trial; see `keras_tuner.HyperModel.build`."""
        keras.config.set_dtype_policy(self.dtype_policy)
        student = self.student_builder(hp)
        if not isinstance(student, keras.Model) or not student.built:
            raise FatalValueError(
                "`BiKDHyperModel(student_builder=...)` must return a built `keras.Model`: begin it with a "
                f"`keras.Input`. Otherwise its weights cannot be loaded. Received: {student!r}"
            )
        losses = self.model_arguments.get("candidate_losses", ("hard", "soft"))
        arguments = {
            "inner_steps": hp.Int("inner_steps", 1, 20, default=5),
            "temperature": float(hp.Float("temperature", 1.0, 10.0, default=4.0)),
            **self.model_arguments,
        }
        meta_learning_rate = float(hp.Float("meta_learning_rate", 1e-4, 1e-2, sampling="log", default=1e-3))
        # What the tuner's `hyperparameters` name is taken from there.
        learning_rate, units = float(hp.Fixed("learning_rate", 0.1)), hp.Fixed("hidden_units", 64)
        net = MetaWeightNet((units, units), num_losses=len(losses))
        model = BiKDModel(student, self.teacher, net, **arguments)
        model.compile(
            self.optimizer_builder(learning_rate),
            meta_optimizer=keras.optimizers.Adam(meta_learning_rate),
            metrics=[BalancedAccuracy(self.num_classes)],
            **self.compile_arguments,
        )
        return model

    def fit(
        self,
        hp: keras_tuner.HyperParameters,
        model: keras.Model,
        *args: Any,
        callbacks: Iterable[keras.callbacks.Callback] = (),
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Train one trial; see `keras_tuner.HyperModel.fit`. The arguments are those of `BiKDModel.fit`."""
        if kwargs.get("validation_data") is None and not kwargs.get("validation_split"):
            raise FatalValueError(
                "`search` selects by validation data, which must be neither the meta set nor the test set. Pass "
                "`validation_data=...`, for instance `keras_bikd.data.load(validation_size=...).validation`. "
                f"Received: validation_data={kwargs.get('validation_data')!r}"
            )
        trials = next(callback for callback in callbacks if getattr(callback, "tuner", None))

        def checkpoint(trial_id: str) -> pathlib.Path:
            return pathlib.Path(trials.tuner.get_trial_dir(trial_id)) / _LAST

        before = hp.values.get("tuner/trial_id")
        if before is not None and checkpoint(before).exists():
            model.load_weights(checkpoint(before))  # of its last epoch; Hyperband has loaded those of the best one
        try:
            history = model.fit(*args, callbacks=[keras.callbacks.TerminateOnNaN(), *callbacks], **kwargs)
        except ValueError as error:  # wrong arguments or data, which every other trial would meet too
            raise FatalValueError(str(error)) from error
        for name in ("loss", "val_loss"):
            values = history.history.get(name, [])
            if not all(math.isfinite(value) for value in values):
                raise FailedTrialError(f"The training diverged: `{name}` is {values} over the epochs.")
        if "tuner/epochs" in hp.values:
            model.save_weights(checkpoint(trials.trial.trial_id))
        return history
