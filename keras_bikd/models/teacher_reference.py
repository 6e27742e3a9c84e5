"""`TeacherReference`: a teacher that is not stored in the files of its students."""

import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import Any

import keras

from keras_bikd.types import Tensor


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
        self._check(teacher)
        if sha256 is not None and isinstance(teacher, keras.Model):
            raise ValueError(
                "`TeacherReference(sha256=...)` is the hash of a file: pass the path of one as `teacher`. "
                f"Received: sha256={sha256!r} and teacher={teacher!r}"
            )
        path = found = None
        if not isinstance(teacher, keras.Model):
            path, found = os.fspath(teacher), _sha256(teacher)
            if sha256 not in (None, found):
                raise ValueError(
                    f"The teacher {path!r} is not the file that was meant: its SHA-256 is {found}, expected {sha256}. "
                    "Restore the file, or build the model again with the teacher that you want."
                )
            teacher = keras.saving.load_model(path)
        super().__init__(**{"name": teacher.name, "autocast": False, "dtype": teacher.dtype_policy, **kwargs})
        self.file, self.sha256 = path, found
        self._teacher: Callable[[], keras.Model] = lambda: (
            teacher
        )  # Keras tracks and saves layers, lists and dicts, but no functions
        # Keras searches for layers that XLA cannot compile, and does not find those of the teacher.
        self.supports_jit = all(layer.supports_jit for layer in teacher._flatten_layers())
        self.built = True

    @staticmethod
    def _check(teacher: Any) -> None:
        is_path = isinstance(teacher, (str, os.PathLike))
        if is_path and pathlib.Path(teacher).is_file():
            return
        if is_path or not isinstance(teacher, keras.Model):
            raise ValueError(
                "`TeacherReference(teacher=...)` takes the path of a `.keras` file, or a `keras.Model`. "
                f"Received: teacher={teacher!r}{', where there is no file' if is_path else ''}"
            )

    def network(self) -> keras.Model:
        """The teacher itself. A property would be saved with its owner."""
        return self._teacher()

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
