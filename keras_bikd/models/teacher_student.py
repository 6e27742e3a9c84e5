"""Base of all distilled models: they act as their student, and leave the teacher unchanged."""

import functools
import os
import warnings
from collections.abc import Callable
from typing import Any, Self

import keras
from keras import ops, tree

from keras_bikd import checks
from keras_bikd.backend import agreed, no_gradients
from keras_bikd.batches.adapters import first_rows, is_dataset
from keras_bikd.batches.fit_arguments import raw_batches
from keras_bikd.batches.labels import check_plain_labels
from keras_bikd.batches.preprocessing import (
    Preprocessing,
    preprocessed,
    preprocessed_batch,
    preprocessing_of,
    require_same_preprocessing,
)
from keras_bikd.losses import class_logits, hard_loss
from keras_bikd.metrics import PerClassAccuracy, ShotAccuracy
from keras_bikd.objectives.base import LayerNames, Outputs
from keras_bikd.objectives.layers import tapped
from keras_bikd.serialization import Serializable, for_every_backend
from keras_bikd.teachers import Experts, StoredTeacher, TeacherReference
from keras_bikd.types import Logs, Teacher, Tensor, labels_and_logits, weights_of_labels

_ROWS = 8  # samples, to check the outputs of student and teacher


class TeacherStudentModel(Serializable, keras.Model):
    """Base of `DistillationModel`, `BiKDModel` and `RWKDModel`.

    It acts as its student: `call`, `predict`, `evaluate`, `summary` and `export` are the student's.

    Args:
        student: `keras.Model` that outputs logits.
        teacher: `keras.Model` that outputs logits for the same inputs and classes, or the path of one
            (`TeacherReference`). It runs in inference mode, only for batches without `teacher_logits`, and is never
            trained. `StoredTeacher` if all batches have them.
        teacher_output: Which output of the teacher holds the logits, if it has several: the name of one, or a function
            of all of them.
        **kwargs: Keras model arguments.
    """

    ARGUMENTS: tuple[str, ...] = ("student", "teacher", "teacher_output")

    def __init__(
        self,
        student: keras.Model,
        teacher: Teacher,
        *,
        teacher_output: str | Callable[[Any], Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"autocast": False, **kwargs})  # student and teacher cast their inputs themselves
        if isinstance(teacher, (str, os.PathLike)):
            teacher = TeacherReference(teacher)
        for role, model in (("student", student), ("teacher", teacher)):
            if not isinstance(model, keras.Model):
                raise ValueError(
                    f"`{type(self).__name__}({role}=...)` takes a `keras.Model` that outputs logits. "
                    f"Received: {role}={model!r} of type {type(model).__name__}"
                )
        self.student = student
        self.teacher = teacher
        self.teacher_output = teacher_output
        self._tapped = functools.lru_cache(maxsize=4)(tapped)  # freed with the model
        self._traced: Callable[[], tuple[Any, ...] | None] = lambda: None  # Keras tracks what is no function
        if student.built:
            self.built = True

    def build(self, input_shape: Any = None) -> None:
        # An unbuilt student builds itself when it is called.
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Tensor:
        return self.student(inputs, training=training)

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, metrics: Any = None, **kwargs: Any) -> None:
        """Configure the training; see `keras.Model.compile`.

        Args:
            optimizer: Optimizer of the student.
            loss: What `evaluate` reports as `loss`, from labels and logits; by default the hard loss.
            metrics: Keras metrics of labels and logits, such as `["accuracy"]`.
            **kwargs: Further arguments of `keras.Model.compile` (`jit_compile`, `steps_per_execution`, ...).
        """
        several = [
            metric.name for metric in tree.flatten(metrics) if isinstance(metric, (PerClassAccuracy, ShotAccuracy))
        ]
        if len(set(several)) < len(several):
            raise ValueError(
                "`compile(metrics=...)` received metrics with several log entries under the same name, which would "
                f"overwrite each other. Give each its own `name=...`. Received: metrics named {', '.join(several)}"
            )
        super().compile(optimizer=optimizer, loss=loss or hard_loss, metrics=metrics, **kwargs)
        # Keras stores the resolved flag: a model saved on a CPU would not use XLA on a GPU.
        self._compile_config.config["jit_compile"] = kwargs.get("jit_compile", "auto")
        if self.student.built:
            self._build_optimizer()

    def get_compile_config(self) -> dict[str, Any] | None:
        return for_every_backend(super().get_compile_config())

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))

    def _build_optimizer(self) -> None:
        self.optimizer.build(self.trainable_variables)

    def _begin_fit(self, batch_size: int | None, *settings: Any) -> None:
        """Check what needs no data, and compile the step again if `settings` are not those of the last `fit`."""
        self._assert_compile_called("fit")
        if batch_size is not None:
            checks.positive_integer("fit", "batch_size", batch_size)
        before = self._traced()
        if before is not None and [id(part) for part in before] != [id(part) for part in settings]:
            self.train_function = None
        self._traced = lambda: settings

    @property
    def preprocess_samples(self) -> Preprocessing:
        """How the student prepares raw batches, if it has a preprocessor, as classifiers of keras-hub do; else `None`.

        It is applied wherever the student would apply it: in `fit`, `evaluate` and `predict`, and not in `call`.
        """
        return preprocessing_of(self.student)

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        # In `fit`, the validation data are prepared once.
        if self.preprocess_samples is not None and not kwargs.get("_use_cached_eval_dataset"):
            data = x if y is None else (x, y) if sample_weight is None else (x, y, sample_weight)
            x = self._batches(data, batch_size)
            y = batch_size = sample_weight = None
        return super().evaluate(x, y, batch_size, verbose, sample_weight, *args, **kwargs)

    def predict(self, x: Any, batch_size: int | None = None, *args: Any, **kwargs: Any) -> Any:
        if self.preprocess_samples is not None:
            x, batch_size = self._batches(x if is_dataset(x) else (x,), batch_size), None
        return super().predict(x, batch_size, *args, **kwargs)

    def _batches(self, data: Any, batch_size: int | None) -> Any:
        return preprocessed(raw_batches(data, batch_size), self.preprocess_samples)

    def _validation_data(self, arguments: dict[str, Any], batch_size: int | None, num_classes: int) -> Any:
        """The validation data of `fit`, checked and prepared."""
        data = check_plain_labels("validation", arguments.get("validation_data"), num_classes)
        if data is None or self.preprocess_samples is None:
            return data
        return self._batches(data, arguments.get("validation_batch_size") or batch_size)

    def train_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, *args: Any, **kwargs: Any) -> Any:
        return super().train_on_batch(*self._batch(x, y, sample_weight), *args, **kwargs)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, *args: Any, **kwargs: Any) -> Any:
        return super().test_on_batch(*self._batch(x, y, sample_weight), *args, **kwargs)

    def predict_on_batch(self, x: Any) -> Any:
        return super().predict_on_batch(self._batch(x)[0])

    def _batch(self, *batch: Any) -> tuple[Any, Any, Any]:
        prepared = preprocessed_batch(batch, self.preprocess_samples)
        return keras.utils.unpack_x_y_sample_weight(prepared)

    # The target may hold logits of the teacher. What `compile` takes sees the labels alone.
    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Tensor | None = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        labels, _ = labels_and_logits(y)
        return super().compute_loss(x, labels, y_pred, weights_of_labels(sample_weight), training=training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Tensor, sample_weight: Tensor | None = None) -> Logs:
        labels, _ = labels_and_logits(y)
        return super().compute_metrics(x, labels, y_pred, sample_weight=weights_of_labels(sample_weight))

    def teacher_logits(self, inputs: Any, stored: Tensor | None = None) -> Tensor:
        """Logits of the teacher in inference mode, detached from every gradient.

        Args:
            inputs: A batch, as the teacher takes it.
            stored: Its logits, if the batch brings them; the teacher then does not run.

        Returns:
            Float tensor of shape `(batch, classes)`, at least float32.
        """
        return self._run_teacher(inputs, stored, ()).logits

    def teacher_outputs(self, inputs: Any, stored: Tensor | None = None) -> Outputs:
        """Outputs of the teacher for the objectives; arguments as in `teacher_logits`."""
        return self._run_teacher(inputs, stored, self.layer_names.teacher)

    def student_outputs(self, inputs: Any, training: bool) -> Outputs:
        """Outputs of the student for the objectives."""
        return Outputs(*self._tapped("student", self.student, self.layer_names.student)(inputs, training))

    @property
    def layer_names(self) -> LayerNames:
        """The layers that the objectives compare."""
        return LayerNames()

    def _run_teacher(self, inputs: Any, stored: Tensor | None, names: tuple[str, ...]) -> Outputs:
        if names and (stored is not None or isinstance(self.teacher, StoredTeacher)):
            raise ValueError(
                "An objective compares outputs of layers of the teacher, which therefore has to run: pass the teacher "
                "itself, and batches without stored logits. "
                f"Received: stored logits, and a loss of {', '.join(map(repr, names))}"
            )
        if stored is not None:
            logits = ops.cast(stored, keras.backend.result_type(keras.config.floatx(), "float32"))
            return Outputs(class_logits(logits))
        network = self.teacher.network() if isinstance(self.teacher, TeacherReference) else self.teacher
        with no_gradients():
            outputs, layers = self._tapped("teacher", network, names)(inputs, False)
            logits = class_logits(self._chosen_output(outputs))
            return Outputs(*tree.map_structure(ops.stop_gradient, (logits, layers)))

    def _chosen_output(self, outputs: Any) -> Any:
        chosen = self.teacher_output
        if chosen is None:
            return outputs
        if callable(chosen):
            return chosen(outputs)
        names = list(outputs) if isinstance(outputs, dict) else getattr(self.teacher, "output_names", [])
        if chosen not in names:
            raise ValueError(
                f"`{type(self).__name__}(teacher_output=...)` takes the name of an output of the teacher, or a "
                f"function of all its outputs. Received: teacher_output={chosen!r}; the names are {names}"
            )
        return outputs[chosen] if isinstance(outputs, dict) else tree.flatten(outputs)[names.index(chosen)]

    def _check_layers(self, inputs: Any, stored: Tensor | None) -> None:
        """Raise unless both networks have the layers that the objectives compare."""
        if any(self.layer_names):
            rows = first_rows(inputs, _ROWS)
            self.student_outputs(rows, training=False)
            self.teacher_outputs(rows, stored)

    def _count_classes(self, inputs: Any, stored: Tensor | None = None) -> int:
        """Number of classes; raise unless student and teacher, or `stored`, have logits of the same number."""
        for teacher in _networks_of(self.teacher):
            require_same_preprocessing(self.student, teacher)
        rows = first_rows(inputs, _ROWS)
        student, teacher = (
            checks.classes_of(role, model, outputs)
            for role, model, outputs in (
                ("student", self.student, self.student(rows, training=False)),
                (
                    "teacher",
                    self.teacher,
                    self._chosen_output(self.teacher(rows, training=False))
                    if stored is None
                    else checks.finite_logits(stored)[:_ROWS],
                ),
            )
        )
        if student != teacher:
            source = "a teacher" if stored is None else "`teacher_logits`"
            raise ValueError(
                "Teacher and student must have the same classes. "
                f"Received: {source} with {teacher} outputs and a student with {student}."
            )
        taught = {id(variable) for variable in self.teacher.variables}
        shared = [variable.path for variable in self.student.trainable_variables if id(variable) in taught]
        if shared:
            raise ValueError(
                "Training the student would change the teacher: they share variables. Give one of them layers of its "
                "own (`keras.models.clone_model` and `set_weights`), or freeze the shared ones. "
                f"Received: {len(shared)} shared variables, {', '.join(shared[:3])}{', ...' if len(shared) > 3 else ''}"
            )
        return student

    # The teacher keeps its own `trainable` flag, which belongs to the user; here it is never trained.
    @property
    def trainable_variables(self) -> list[keras.Variable]:
        return self._without_teacher(super().trainable_variables)

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        return self._all_but(self.variables, self.trainable_variables)

    @property
    def trainable_weights(self) -> list[keras.Variable]:
        return self._without_teacher(super().trainable_weights)

    @property
    def non_trainable_weights(self) -> list[keras.Variable]:
        return self._all_but(self.weights, self.trainable_weights)

    def _without_teacher(self, variables: list[keras.Variable]) -> list[keras.Variable]:
        return self._all_but(variables, self.teacher.variables)

    @staticmethod
    def _all_but(variables: list[keras.Variable], excluded: list[keras.Variable]) -> list[keras.Variable]:
        ids = {id(variable) for variable in excluded}
        return [variable for variable in variables if id(variable) not in ids]

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        taught = {id(metric) for metric in self.teacher.metrics}
        return [metric for metric in super().metrics if id(metric) not in taught]

    @property
    def losses(self) -> list[Tensor]:
        return self._losses_override or self.student.losses  # on JAX, those of the forward pass

    def get_metrics_result(self) -> Logs:
        """The logs of an epoch, equal in all processes of a training."""
        logs = super().get_metrics_result()
        return tree.pack_sequence_as(logs, agreed(tree.flatten(logs)))

    def summary(self, *args: Any, **kwargs: Any) -> None:
        self.student.summary(*args, **kwargs)

    def save(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save student, teacher and the state of the training; see `keras.Model.save`."""
        if os.fspath(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                f"`{type(self).__name__}.save` writes `.keras` files. Keras' older format cannot hold a model of two "
                f"models. Replace the extension with `.keras`, or save `model.student`. Received: filepath={filepath!r}"
            )
        super().save(filepath, *args, **kwargs)

    def export(self, *args: Any, **kwargs: Any) -> Any:
        return self.student.export(*args, **kwargs)

    # Keras saves no state of random generators (dropout); without it a resumed run would draw other masks.
    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        for i, seed in enumerate(self._seeds()):
            store[f"seed_{i}"] = seed.numpy()

    def load_own_variables(self, store: Any) -> None:
        own = [key for key in list(store.keys()) if not key.startswith("seed_")]
        super().load_own_variables({key: store[key] for key in own})
        for i, seed in enumerate(self._seeds()):
            seed.assign(store[f"seed_{i}"])

    def _seeds(self) -> list[keras.Variable]:
        return self._all_but(self.variables, self.weights)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """Revive a model from what `get_config` returned."""
        with warnings.catch_warnings():
            # Of students that compile themselves, such as those of keras-hub: here they need not be compiled.
            warnings.filterwarnings("ignore", message=r"`compile\(\)` was not called as part of model loading")
            return super().from_config(config, custom_objects)

    # The student's own build configuration is stored with the student.
    def get_build_config(self) -> None:
        return None


def _networks_of(teacher: keras.Model) -> list[keras.Model]:
    """The networks that a teacher consists of."""
    if isinstance(teacher, Experts):
        return teacher.experts
    return [teacher.network() if isinstance(teacher, TeacherReference) else teacher]
