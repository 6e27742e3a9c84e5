"""`BiKDHyperModel`: search the hyper-parameters of BiKD with Keras Tuner."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import keras
import keras_tuner
from keras_tuner.errors import FailedTrialError, FatalValueError

from keras_bikd import checks
from keras_bikd.bilevel.weight_net import MetaWeightNet
from keras_bikd.metrics import BalancedAccuracy
from keras_bikd.models.bikd import BiKDModel
from keras_bikd.teachers import TeacherReference

OBJECTIVE = keras_tuner.Objective("val_balanced_accuracy", "max")
"""The `objective` for a tuner: balanced accuracy on the validation data of `search`."""

_LAST = "last.weights.h5"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The hyper-parameters to search: a pair is a range, a number is fixed.

    Args:
        inner_steps: Batches between two updates of the weight network.
        temperature: Temperature of the soft loss.
        meta_learning_rate: Learning rate of the weight network, searched on a logarithmic scale.
        learning_rate: Learning rate of the student, likewise.
        hidden_units: Width of the two hidden layers of the weight network; several numbers are a choice.

    Raises:
        ValueError: If a field is neither a positive number nor a range of them.

    Examples:
        >>> SearchSpace(temperature=4.0).inner_steps
        (1, 20)
    """

    inner_steps: tuple[int, int] | int = (1, 20)
    temperature: tuple[float, float] | float = (1.0, 10.0)
    meta_learning_rate: tuple[float, float] | float = (1e-4, 1e-2)
    learning_rate: tuple[float, float] | float = 0.1
    hidden_units: tuple[int, ...] | int = 64

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            numbers = value if isinstance(value, (tuple, list)) else (value,)
            is_range = field.name != "hidden_units" and isinstance(value, (tuple, list))
            whole = field.name in ("inner_steps", "hidden_units")
            kind = "an integer" if whole else "a number"
            several = "several to choose from" if field.name == "hidden_units" else "a pair (lowest, highest) of them"
            fit = all(checks.is_number(n) and n > 0 and (not whole or isinstance(n, int)) for n in numbers)
            if not fit or (is_range and (len(numbers) != 2 or numbers[0] >= numbers[1])):
                raise ValueError(
                    f"`SearchSpace({field.name}=...)` takes {kind} above 0, or {several}. "
                    f"Received: {field.name}={value!r}"
                )


class BiKDHyperModel(keras_tuner.HyperModel):
    """BiKD as a `keras_tuner.HyperModel`, for `RandomSearch`, `BayesianOptimization` and `Hyperband`.

    Keras Tuner builds one model per trial. All share the teacher, which is stored with none of them. A trial that
    diverges is marked as failed, and the search continues. In the later rounds of `Hyperband`, both levels of the
    training resume where they stopped. An error that every trial would meet ends the search at once.

    Do not pass `optimizer=` or `loss=` to the tuner: it would compile the model again, without the second optimizer.
    If many trials may diverge, pass `max_consecutive_failed_trials=100`.

    Args:
        student_builder: Function `(hp) -> keras.Model` that returns a new, built student with logits as outputs; it
            may take further hyper-parameters from `hp`.
        teacher: `keras.Model`, or a `TeacherReference`.
        num_classes: Number of classes.
        space: A `SearchSpace`.
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
        >>> [hp.name for hp in tuner.oracle.get_space().space]
        ['inner_steps', 'temperature', 'meta_learning_rate']

    Then `tuner.search(data.train, meta_data=data.meta, validation_data=data.validation, epochs=...)`.
    """

    def __init__(
        self,
        student_builder: Callable[[keras_tuner.HyperParameters], keras.Model],
        teacher: keras.Model,
        num_classes: int,
        *,
        space: SearchSpace = SearchSpace(),
        optimizer_builder: Callable[[float], keras.optimizers.Optimizer] | None = None,
        model_arguments: dict[str, Any] | None = None,
        compile_arguments: dict[str, Any] | None = None,
    ) -> None:
        self.student_builder, self.num_classes, self.space = student_builder, num_classes, space
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
        units, losses = self._hidden_units(hp), self.model_arguments.get("candidate_losses", ("hard", "soft"))
        inner_steps, temperature = self._number(hp, "inner_steps", 5), self._number(hp, "temperature", 4.0)
        meta_learning_rate = self._number(hp, "meta_learning_rate", 1e-3)
        arguments = {"temperature": temperature, "inner_steps": inner_steps, **self.model_arguments}
        net = MetaWeightNet((units, units), num_losses=len(losses))
        model = BiKDModel(student, self.teacher, net, **arguments)
        model.compile(
            self.optimizer_builder(self._number(hp, "learning_rate", None)),
            meta_optimizer=keras.optimizers.Adam(meta_learning_rate),
            metrics=[BalancedAccuracy(self.num_classes)],
            **self.compile_arguments,
        )
        return model

    def _number(self, hp: keras_tuner.HyperParameters, name: str, default: float | None) -> Any:
        value = getattr(self.space, name)
        if not isinstance(value, (tuple, list)):
            return value
        low, high = value
        default = default if default is not None and low <= default <= high else low
        if name == "inner_steps":
            return hp.Int(name, low, high, default=default)
        sampling = "log" if name.endswith("learning_rate") else "linear"
        return float(hp.Float(name, low, high, sampling=sampling, default=default))

    def _hidden_units(self, hp: keras_tuner.HyperParameters) -> int:
        units = self.space.hidden_units
        return hp.Choice("hidden_units", list(units)) if isinstance(units, (tuple, list)) else units

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
