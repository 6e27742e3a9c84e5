"""`TeacherReference`: a teacher that is kept out of the files of its students."""

import hashlib
import os
import pathlib
from typing import Any

import keras

__all__ = ["TeacherReference"]


@keras.saving.register_keras_serializable(package="keras_bikd")
class TeacherReference(keras.Model):
    """A teacher whose weights no checkpoint of its student holds.

    With a path, a saved model keeps the path and a hash of the file, and loads the teacher from there again. With a
    model in memory, checkpoints of weights work, and saving the whole model is refused.

    Args:
        teacher: Path of a `.keras` file, or a `keras.Model`.
        sha256: Hash that the file must have; by default it is taken as found.
        **kwargs: Keras model arguments.

    Raises:
        ValueError: If there is no such file, or it is not the one that was meant.

    Examples:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "teacher.keras")
        >>> keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)]).save(path)
        >>> TeacherReference(path).count_params()
        0
    """

    def __init__(self, teacher: str | os.PathLike | keras.Model, sha256: str | None = None, **kwargs: Any) -> None:
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
        self._teacher = lambda: teacher  # Keras tracks and saves layers, lists and dicts, not functions
        # Keras looks for layers that XLA cannot compile, and does not see these.
        self.supports_jit = all(layer.supports_jit for layer in teacher._flatten_layers())
        self.built = True

    @staticmethod
    def _check(teacher):
        is_path = isinstance(teacher, (str, os.PathLike))
        if is_path and pathlib.Path(teacher).is_file():
            return
        if is_path or not isinstance(teacher, keras.Model):
            raise ValueError(
                "`TeacherReference(teacher=...)` takes the path of a `.keras` file, or a `keras.Model`. "
                f"Received: teacher={teacher!r}{', where there is no file' if is_path else ''}"
            )

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self._teacher()(inputs, training=training)

    def get_config(self) -> dict[str, Any]:
        if self.file is None:
            raise ValueError(
                "This model knows its teacher only in memory, and its files hold no teacher: the teacher would be "
                "lost. Save `model.student`, or make the reference from a path: `TeacherReference('teacher.keras')`."
            )
        return {"teacher": self.file, "sha256": self.sha256, "name": self.name}


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
