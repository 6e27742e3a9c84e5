"""`DistillationModel`: the baselines, trained like `BiKDModel`."""

import inspect
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_bikd import checks
from keras_bikd.backend import num_replicas, plain_step, variable_scope
from keras_bikd.batches.fit_arguments import checked, training_set, weight_per_class
from keras_bikd.losses import class_logits
from keras_bikd.models.teacher_student import TeacherStudentModel
from keras_bikd.objectives.base import LayerNames, Outputs, layers_of, loss_of
from keras_bikd.types import Logs, Teacher, Tensor, labels_and_logits, weights_of_labels


@keras.saving.register_keras_serializable(package="keras_bikd")
class DistillationModel(TeacherStudentModel):
    """A student trained on a fixed objective of labels and teacher.

    The counterpart of `BiKDModel` for comparisons: the same life cycle without a meta set. `evaluate` reports the hard
    loss.

    Args:
        student: `keras.Model` that outputs logits.
        teacher: `keras.Model` that outputs logits for the same inputs and classes, or the path of one; never trained.
        objective: One of `keras_bikd.objectives`, or any `(labels, teacher_logits, student_logits) -> (batch,)`.
        **kwargs: Keras model arguments (`name`, ...).

    Raises:
        ValueError: If `student` or `teacher` is no Keras model, or `objective` cannot be called.

    Examples:
        >>> import keras, numpy as np
        >>> from keras_bikd.objectives import KnowledgeDistillation
        >>> x, y = np.random.normal(size=(32, 8)).astype("float32"), np.arange(32) % 4
        >>> student = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> teacher = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model = DistillationModel(
        ...     student, teacher, KnowledgeDistillation(temperature=4.0)
        ... )
        >>> model.compile(optimizer="sgd", metrics=["accuracy"])
        >>> sorted(model.fit(x, y, verbose=0).history)
        ['accuracy', 'loss']
    """

    ARGUMENTS = (*TeacherStudentModel.ARGUMENTS, "objective")

    def __init__(self, student: keras.Model, teacher: Teacher, objective: Callable[..., Tensor], **kwargs: Any) -> None:
        super().__init__(student, teacher, **kwargs)
        self.objective = checks.objective("DistillationModel", "objective", objective)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The student; in training `Outputs` if the objective compares layers."""
        if training and any(self._compared):
            return self.networks.student_outputs(inputs, True, self._compared.student)
        return super().call(inputs, training=training)

    @property
    def _compared(self) -> LayerNames:
        return layers_of([self.objective])

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Train the student; as `keras.Model.fit`, but student, teacher and labels are checked first.

        `x` may also be a list of batches `(x, y)`, and `class_weight` an array with a number per class. Wherever a
        batch is `(x, y)`, `y` may be a dict `{"labels": labels, "teacher_logits": logits}`; the teacher then does not
        run.
        """
        given = inspect.signature(super().fit).bind(x, y, *args, **kwargs).arguments
        x, y, batch_size = given.pop("x"), given.pop("y"), given.get("batch_size")
        self._begin_fit(self.objective)
        shuffle, steps = bool(given.pop("shuffle", True)), given.get("steps_per_epoch")
        data = training_set(x, y, given, shuffle=shuffle, shuffle_batches=shuffle, steps=steps)
        inputs, target, *_ = data.example()
        checks.batched("training", target)
        stored = labels_and_logits(target)[1]
        with variable_scope(self):
            classes = self.networks.count_classes(inputs, stored, self._compared)
        self.networks.require_own_variables()
        checks.labels_match("training", target, classes)
        if given.get("validation_data") is not None:
            given["validation_data"] = checked(given["validation_data"], classes, ("validation",))
            given["validation_batch_size"] = given.get("validation_batch_size") or batch_size
        class_weight = given.pop("class_weight", None)
        class_weight = None if class_weight is None else weight_per_class(class_weight, classes)
        return super().fit(checked(data.batches, classes, ("training",), class_weight), shuffle=False, **given)

    def train_step(self, *arguments: Any) -> Any:
        return plain_step(self, super().train_step, self.student.non_trainable_variables, *arguments)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        """Mean objective of the training; in `evaluate`, the loss of `compile`."""
        if not training:
            return super().compute_loss(x, y, y_pred, sample_weight, training=training)
        labels, stored = labels_and_logits(y)
        student = y_pred if isinstance(y_pred, Outputs) else Outputs(y_pred)
        student = student._replace(logits=class_logits(student.logits))
        teacher = self.networks.teacher_outputs(x, stored, self._compared.teacher)
        losses = loss_of(self.objective, labels, teacher, student)
        if sample_weight is not None:
            losses = losses * ops.cast(ops.reshape(weights_of_labels(sample_weight), (-1,)), losses.dtype)
        # The optimizer sums over the replicas.
        return (ops.mean(losses) + sum(self.losses)) / num_replicas()

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Tensor | None = None) -> Logs:
        logits = y_pred.logits if isinstance(y_pred, Outputs) else y_pred
        return super().compute_metrics(x, y, logits, sample_weight=sample_weight)
