"""The recommended student in the formats that Keras writes, with its class names and its model card."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_bikd import checks
from keras_bikd.comparison.report import template_environment
from keras_bikd.comparison.samples import Export
from keras_bikd.files import atomic_write
from keras_bikd.keras_private import layers_inside

FORMATS = {"keras": "student.keras", "tf_saved_model": "saved_model", "litert": "student.tflite"}
"""Format to the file or folder that it is written to."""


def export_student(
    student: keras.Model,
    export: Export | None,
    numbers: Mapping[str, Any],
    folder: pathlib.Path,
    formats: Sequence[str] = ("keras",),
) -> pathlib.Path:
    """Write student, class names and model card.

    Args:
        student: The student, as it was trained.
        export: How it is handed to others; by default as it is.
        numbers: What `Findings.numbers` returns.
        folder: The folder; created if missing.
        formats: Formats of the student, of `FORMATS`.

    Returns:
        The path of the folder.
    """
    for name in formats:
        checks.one_of("Findings.export", "formats", name, tuple(FORMATS))
    environment, formats = template_environment(), list(dict.fromkeys(formats))
    folder.mkdir(parents=True, exist_ok=True)
    student = student if export is None else export.wrap(student)
    for name in formats:
        _write_student(student, name, folder / FORMATS[name])
    card = environment.get_template("MODEL_CARD.md").render(
        numbers,
        formats=formats,
        files=FORMATS,
        inputs=keras.tree.map_structure(lambda tensor: f"{tensor.dtype} {tuple(tensor.shape)}", student.inputs),
        example=export and export.example,
        one_logit=student.outputs[0].shape[-1] == 1,
        packages=_packages(student),
    )
    names = json.dumps(numbers["class_names"], indent=1, ensure_ascii=False) + "\n"
    for file, text in {"classes.json": names, "MODEL_CARD.md": card}.items():
        with atomic_write(folder / file) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return folder


def _write_student(student: keras.Model, name: str, path: pathlib.Path) -> None:
    if name == "keras":
        with atomic_write(path) as unfinished:
            student.save(unfinished)
        return
    try:
        student.export(str(path), format=name, verbose=False)
    except Exception as error:
        raise ValueError(
            f"`Findings.export(formats=...)`: Keras {keras.__version__} on {keras.backend.backend()} cannot write this "
            f"student as {name!r}. Its message was: {error}"
        ) from error


def _packages(student: keras.Model) -> list[str]:
    """Packages besides Keras whose layers the student has: they must be imported before it is loaded."""
    layers = layers_inside(student, include_self=False)
    return sorted({type(layer).__module__.partition(".")[0] for layer in layers} - {"keras"})
