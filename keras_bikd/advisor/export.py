"""The recommended student with its model card, to be used elsewhere."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import keras

from keras_bikd import checks
from keras_bikd.advisor import facts
from keras_bikd.advisor.findings import Findings
from keras_bikd.advisor.report import template_environment
from keras_bikd.files import atomic_write

FORMATS = {"keras": "student.keras", "tf_saved_model": "saved_model", "litert": "student.tflite"}
"""Format to the file or folder that it is written to."""


def export_student(
    findings: Findings, folder: str | os.PathLike[str], formats: Sequence[str] = ("keras",)
) -> pathlib.Path:
    """Write student, class names and model card; see `Findings.export`."""
    for name in formats:
        checks.one_of("Findings.export", "formats", name, tuple(FORMATS))
    environment, folder = template_environment(), pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    student, export = findings.student(), findings.train.export
    if export is not None:
        student = export.wrap(student)
    for name in dict.fromkeys(formats):
        _write_student(student, name, folder / FORMATS[name])
    card = environment.get_template("MODEL_CARD.md").render(_content(findings, student, formats))
    for file, text in {
        "classes.json": json.dumps(findings.class_names, indent=1, ensure_ascii=False) + "\n",
        "MODEL_CARD.md": card,
    }.items():
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


def _content(findings: Findings, student: keras.Model, formats: Sequence[str]) -> dict[str, Any]:
    """Everything that the model card shows."""
    method, baseline = findings.recommendation.method, facts.baseline_of(findings)
    shown = [method] if baseline is None else [method, baseline]
    lines = facts.class_lines(findings)
    return {
        "method": method,
        "baseline": baseline,
        "sentences": findings.recommendation.sentences,
        "seed": next(iter(findings.rounds)),
        "counts": findings.class_counts,
        "lines": [line for line in facts.method_lines(findings) if line.name in shown],
        "classes": lines,
        "unjudged": [line.name for line in lines if not line.recommended.samples],
        "held_out": int(findings.evidence.counts.sum()),
        "fewest": min(line.recommended.samples for line in lines),
        "calibration": facts.calibration_of(findings, method),
        "suspects": findings.suspects,
        "setup": facts.setup_of(findings),
        "formats": list(dict.fromkeys(formats)),
        "files": FORMATS,
        "inputs": keras.tree.map_structure(lambda tensor: f"{tensor.dtype} {tuple(tensor.shape)}", student.inputs),
        "example": findings.train.export and findings.train.export.example,
        "one_logit": student.outputs[0].shape[-1] == 1,
        "packages": _packages(student),
    }


def _packages(student: keras.Model) -> list[str]:
    """Packages besides Keras whose layers the student has: they must be imported before it is loaded."""
    layers = student._flatten_layers(include_self=False)
    return sorted({type(layer).__module__.partition(".")[0] for layer in layers} - {"keras"})
