"""Base of all distilled models: they act as their student, and leave the teacher unchanged."""

import os
import warnings
from collections.abc import Callable
from typing import Any, Self

import keras
from keras import tree

from keras_bikd.backend import agreed
from keras_bikd.keras_private import Untracked, losses_of_forward_pass, saved_compile_arguments
from keras_bikd.losses import hard_loss
from keras_bikd.metrics import PerClassAccuracy, ShotAccuracy
from keras_bikd.models.problem import Networks
from keras_bikd.serialization import Serializable, for_every_backend
from keras_bikd.teachers import TeacherReference, networks_of, require_no_preprocessor
from keras_bikd.types import Logs, Teacher, Tensor, labels_and_logits, weights_of_labels


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
        for role, model in (("student", student), *(("teacher", network) for network in networks_of(teacher))):
            require_no_preprocessor(type(self).__name__, role, model)
        self.student = student
        self.teacher = teacher
        self.teacher_output = teacher_output
        self.networks = Networks(student, teacher, teacher_output)
        self._traced = Untracked(None)
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
        saved_compile_arguments(self)["jit_compile"] = kwargs.get("jit_compile", "auto")
        if self.student.built:
            self._build_optimizer()

    def get_compile_config(self) -> dict[str, Any] | None:
        return for_every_backend(super().get_compile_config())

    def compile_from_config(self, config: dict[str, Any]) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))

    def _build_optimizer(self) -> None:
        self.optimizer.build(self.trainable_variables)

    def _begin_fit(self, *settings: Any) -> None:
        """Compile the step again if `settings` are not those of the last `fit`."""
        if not self.compiled:
            raise ValueError("Call `compile(...)` before `fit`. Received: a model that is not compiled.")
        before, self._traced.value = self._traced.value, settings
        if before is not None and [id(part) for part in before] != [id(part) for part in settings]:
            self.train_function = None

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
        return self.networks.teacher_outputs(inputs, stored).logits

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
        return losses_of_forward_pass(self) or self.student.losses

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
