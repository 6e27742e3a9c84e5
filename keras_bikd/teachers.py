"""Teachers that are more than a network: a file's, one of several experts, and one whose logits are stored."""

import hashlib
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_bikd.keras_private import Untracked, layers_inside
from keras_bikd.serialization import Serializable
from keras_bikd.types import Tensor


@keras.saving.register_keras_serializable(package="keras_bikd")
class Experts(Serializable, keras.Model):
    """Experts as one teacher, as in LFME: the logits of every class come from the expert of its group.

    Train each expert on the classes of its group alone (`keras_bikd.data.only_classes`).

    Args:
        experts: One `keras.Model` per group, with one logit per class of the group, in the order of the group.
        groups: One sequence of class ids per expert, as from `keras_bikd.long_tail.class_groups`; every class is in
            exactly one group.
        **kwargs: Keras model arguments.

    Raises:
        ValueError: If the groups do not match the experts.

    Examples:
        >>> import keras, numpy as np
        >>> experts = [
        ...     keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
        ...     for _ in range(2)
        ... ]
        >>> Experts(experts, [[1, 3], [2, 0]])(np.zeros((5, 8))).shape
        TensorShape([5, 4])
    """

    ARGUMENTS = ("experts", "groups")

    def __init__(self, experts: Sequence[keras.Model], groups: Iterable[Iterable[int]], **kwargs: Any) -> None:
        super().__init__(**{"autocast": False, **kwargs})  # experts cast their inputs themselves
        self.experts = list(experts)
        self.groups = [[int(label) for label in group] for group in groups]
        flat = [label for group in self.groups for label in group]
        if len(self.experts) != len(self.groups) or sorted(flat) != list(range(len(flat))):
            raise ValueError(
                "`Experts(experts, groups)` takes one group of class ids per expert, each class in one group. "
                f"Received: {len(self.experts)} experts and groups={self.groups}"
            )
        self.columns = np.argsort(flat)
        self.built = all(expert.built for expert in self.experts)

    def call(self, inputs: Any, training: bool | None = None) -> Tensor:
        logits = [expert(inputs, training=training) for expert in self.experts]
        widths = [part.shape[-1] for part in logits]
        if widths != [len(group) for group in self.groups]:
            raise ValueError(
                "`Experts(experts, groups)` takes experts with one logit per class of their group. "
                f"Received: experts of {widths} logits and groups={self.groups}"
            )
        return ops.take(ops.concatenate(logits, axis=-1), self.columns, axis=-1)


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


@keras.saving.register_keras_serializable(package="keras_bikd")
class TeacherReference(keras.Model):
    """A teacher whose weights are not stored with the student.

    Made from a path, it stores the path and a hash of the file, and a loaded model reads the teacher from there. Made
    from a model in memory, it allows checkpoints of weights, but saving the whole model raises an error.

    Args:
        teacher: Path of a `.keras` file, or a `keras.Model`.
        sha256: Hash that the file must have. By default any file is accepted, and its hash is stored.
        **kwargs: Keras model arguments.

    Raises:
        ValueError: If there is no such file, or its hash is another one.

    Examples:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "teacher.keras")
        >>> keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)]).save(path)
        >>> TeacherReference(path).count_params()
        0
    """

    def __init__(self, teacher: str | os.PathLike[str] | keras.Model, sha256: str | None = None, **kwargs: Any) -> None:
        path = found = None
        if isinstance(teacher, keras.Model):
            if sha256 is not None:
                raise ValueError(
                    "`TeacherReference(sha256=...)` is the hash of a file: pass the path of one as `teacher`. "
                    f"Received: sha256={sha256!r} and teacher={teacher!r}"
                )
        elif not isinstance(teacher, (str, os.PathLike)) or not pathlib.Path(teacher).is_file():
            raise ValueError(
                "`teacher=...` takes a `keras.Model` that outputs logits, or the path of a `.keras` file. "
                f"Received: teacher={teacher!r}"
            )
        else:
            path, found = os.fspath(teacher), _sha256(teacher)
            if sha256 not in (None, found):
                raise ValueError(
                    f"The teacher {path!r} is not the file that was meant: its SHA-256 is {found}, expected {sha256}. "
                    "Restore the file, or build the model again with the teacher that you want."
                )
            teacher = keras.saving.load_model(path)
        super().__init__(**{"name": teacher.name, "autocast": False, "dtype": teacher.dtype_policy, **kwargs})
        self.file, self.sha256 = path, found
        self._teacher = Untracked(teacher)
        # Keras searches for layers that XLA cannot compile, and does not find those of the teacher.
        self.supports_jit = all(layer.supports_jit for layer in layers_inside(teacher))
        self.built = True

    def network(self) -> keras.Model:
        """The teacher itself. A property would be saved with its owner."""
        return self._teacher.value

    def call(self, inputs: Any, training: bool | None = None) -> Tensor:
        return self.network()(inputs, training=training)

    def get_config(self) -> dict[str, Any]:
        if self.file is None:
            raise ValueError(
                "The teacher of this model exists only in memory, and files of the model hold no teacher: it would be "
                "lost. Save `model.student`, or make the reference from a path: `TeacherReference('teacher.keras')`."
            )
        return {"teacher": self.file, "sha256": self.sha256, "name": self.name}


def _sha256(path: str | os.PathLike[str]) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def networks_of(teacher: keras.Model) -> list[keras.Model]:
    """The networks that a teacher consists of."""
    if isinstance(teacher, Experts):
        return teacher.experts
    return [teacher.network() if isinstance(teacher, TeacherReference) else teacher]


def require_no_preprocessor(owner: str, role: str, model: keras.Model) -> None:
    """Raise if a model has a preprocessor, as classifiers of keras-hub do: Keras does not apply it in a call.

    Args:
        owner: Class or function that takes the model, for the message.
        role: Argument of the model, likewise.
        model: `keras.Model`.
    """
    if getattr(model, "preprocess_samples", None) is not None and getattr(model, "preprocessor", None) is not None:
        raise ValueError(
            f"`{owner}({role}=...)` takes a model without a preprocessor of its own, because student and teacher are "
            "given the same inputs. Apply it to the data, and take it off the model: "
            f"`data = data.map({role}.preprocessor)` and `{role}.preprocessor = None`. Received: {model!r}"
        )
