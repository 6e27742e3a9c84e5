"""`StoredTeacher`: in place of a teacher whose logits come with the batches."""

import os
from typing import Any

import keras


@keras.saving.register_keras_serializable(package="keras_bikd")
class StoredTeacher(keras.Model):
    """Stands for a teacher that never runs: every batch brings the teacher's logits.

    The target of such a batch is a dict `{"labels": labels, "teacher_logits": logits}`. The batches of
    `keras_bikd.data.precompute_teacher` have it. Logits from anywhere else can be passed in the same form, with arrays
    or any data set. Validation data need no logits.

    Args:
        file: Path of the logits, to record in saved models; it is not read.
        sha256: Hash of the teacher that computed them, to record likewise.
        **kwargs: Keras model arguments (`name`, ...).

    Examples:
        >>> import numpy as np, keras_bikd as bikd
        >>> x, y, logits = (
        ...     np.ones((8, 3)),
        ...     np.arange(8) % 4,
        ...     np.random.normal(size=(8, 4)),
        ... )
        >>> student = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
        >>> model = bikd.DistillationModel(
        ...     student, StoredTeacher(), bikd.objectives.KnowledgeDistillation()
        ... )
        >>> model.compile(optimizer="sgd")
        >>> sorted(
        ...     model.fit(x, {"labels": y, "teacher_logits": logits}, verbose=0).history
        ... )
        ['loss']
    """

    def __init__(self, file: str | os.PathLike[str] | None = None, sha256: str | None = None, **kwargs: Any) -> None:
        super().__init__(**{"autocast": False, **kwargs})
        self.file, self.sha256 = None if file is None else os.fspath(file), sha256
        self.built = True

    # Not `call`: Keras would add the shapes of all inputs to the message.
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise ValueError(
            "A `StoredTeacher` cannot run, and a batch came without the logits of the teacher. Training batches, and "
            'meta batches where `meta_loss` is not "hard", need the target {"labels": labels, "teacher_logits": '
            "logits}, as in the batches of `keras_bikd.data.precompute_teacher`. Or pass the teacher itself."
        )

    def get_config(self) -> dict[str, Any]:
        return {"file": self.file, "sha256": self.sha256, "name": self.name}
