"""`DistillationModel`: the baselines, trained like `BiKDModel`."""

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_bikd import checks
from keras_bikd.backend import num_replicas, plain_step, variable_scope
from keras_bikd.batches.adapters import adapter_of, check_length, is_dataset, is_tf_dataset
from keras_bikd.batches.fit_arguments import arrays_in_fit, example_of
from keras_bikd.batches.labels import (
    check_class_weights,
    check_plain_labels,
    class_weights,
    label_errors,
    sample_weights,
    weighted_by_class,
)
from keras_bikd.batches.preprocessing import preprocessed
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

    @property
    def layer_names(self) -> LayerNames:
        """The layers that the objective compares."""
        return layers_of([self.objective])

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The student; in training `Outputs` if the objective compares layers."""
        if training and any(self.layer_names):
            return self.student_outputs(inputs, training=True)
        return super().call(inputs, training=training)

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Train the student; as `keras.Model.fit`, but student, teacher and labels are checked first.

        `x` may also be a list of batches `(x, y)`, and `class_weight` an array with a number per class. Wherever a
        batch is `(x, y)`, `y` may be a dict `{"labels": labels, "teacher_logits": logits}`; the teacher then does not
        run.
        """
        given = inspect.signature(super().fit).bind(x, y, *args, **kwargs).arguments
        class_weight, batch_size = given.get("class_weight"), given.get("batch_size")
        self._begin_fit(batch_size, self.objective)
        if self.preprocess_samples is not None and not is_dataset(x):
            given = arrays_in_fit(given)
        if is_dataset(given.get("x")):
            given.update(x=self._data_set(given), shuffle=False, class_weight=None)
        else:
            given.update(_targets(given))
        example = example_of(given.get("x"), given.get("y"))
        if example is not None:
            checks.batched("training", example[1])
            with variable_scope(self):
                stored = labels_and_logits(example[1])[1]
                classes = self._count_classes(example[0], stored)
                self._check_layers(example[0], stored)
            checks.labels_match("training", example[1], classes)
            check_class_weights(class_weight, classes)
            if is_dataset(given["x"]):
                given["x"] = check_plain_labels("training", given["x"], classes)
            given["validation_data"] = self._validation_data(given, batch_size, classes)
        with label_errors():
            return super().fit(**given)

    def _data_set(self, arguments: dict[str, Any]) -> Any:
        """`x` of `fit` as a data set of batches that the student takes, weighted by class."""
        x, class_weight = arguments["x"], arguments.get("class_weight")
        data = x if is_tf_dataset(x) else adapter_of(x, shuffle=bool(arguments.get("shuffle", True)))
        check_length(data, arguments)
        data = preprocessed(data, self.preprocess_samples)
        return data if class_weight is None else weighted_by_class(data, class_weights(class_weight))

    def train_step(self, *arguments: Any) -> Any:
        return plain_step(self, super().train_step, *arguments)

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
        losses = loss_of(self.objective, labels, self.teacher_outputs(x, stored), student)
        if sample_weight is not None:
            losses = losses * ops.cast(ops.reshape(weights_of_labels(sample_weight), (-1,)), losses.dtype)
        # The optimizer sums over the replicas.
        return (ops.mean(losses) + sum(self.losses)) / num_replicas()

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Tensor | None = None) -> Logs:
        logits = y_pred.logits if isinstance(y_pred, Outputs) else y_pred
        return super().compute_metrics(x, y, logits, sample_weight=sample_weight)


def _targets(arguments: dict[str, Any]) -> dict[str, Any]:
    """`y`, `class_weight` and `sample_weight` of `fit`, for arrays, as Keras takes them."""
    y, class_weight = arguments.get("y"), arguments.get("class_weight")
    own = {} if class_weight is None else {"class_weight": class_weights(class_weight)}
    if isinstance(y, (list, tuple)):
        return own | {"y": np.asarray(y)}
    if not (own and isinstance(y, dict)):
        return own
    # Keras takes weights of classes for a single output alone.
    if arguments.get("validation_split"):  # they would weigh the validation loss as well
        raise ValueError(
            "With labels and logits as `y`, `fit` takes `class_weight` or `validation_split`, not both. Pass "
            f"`validation_data`. Received: validation_split={arguments['validation_split']!r}"
        )
    weights, others = sample_weights(y, own["class_weight"]), arguments.get("sample_weight")
    return {"sample_weight": weights if others is None else weights * np.reshape(others, -1), "class_weight": None}
