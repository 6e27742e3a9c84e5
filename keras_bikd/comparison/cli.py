"""What the command `bikd compare` does; `keras_bikd_cli` reads its arguments."""

import argparse
import os
import pathlib
import tempfile
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from keras_bikd.comparison.findings import Findings
from keras_bikd.comparison.from_images import read_images, read_tfds
from keras_bikd.comparison.protocol import Protocol
from keras_bikd.comparison.run import Comparison, prepare
from keras_bikd.comparison.samples import Inputs, read_data
from keras_bikd.comparison.store import Store

_MINUTES = 10.0
_IMAGE_SIZE = (64, 64)
_IMAGES, _ROWS = 32, 128  # samples per step


class Prepared(NamedTuple):
    """A comparison that has been checked, and how long it is.

    Attributes:
        comparison: The `Comparison`.
        steps: Steps of every training.
        timing: Name to seconds besides the steps, and of a step, of every training of a round; empty if none was timed.
    """

    comparison: Comparison
    steps: int
    timing: dict[str, Any]


def prepared(options: argparse.Namespace) -> Prepared:
    """Read and check everything, and time a few steps if need be; nothing is trained.

    Args:
        options: What `keras_bikd_cli.parser` has read.

    Returns:
        A `Prepared`. On a dry run, nothing is left in the folder of the results.

    Raises:
        ValueError: If something does not fit.
    """
    if not options.dry_run:
        return _prepared(options, options.out)
    with tempfile.TemporaryDirectory() as nowhere:
        found = _prepared(options, nowhere)
        return found._replace(timing=found.timing or found.comparison.timing())


def _prepared(options: argparse.Namespace, folder: str) -> Prepared:
    Store(folder)  # before anything is read, which may take minutes
    inputs, batch_size = _read(options)
    held = {role: getattr(options, role) for role in ("validation", "meta", "test")}
    more = {role: path and inputs.like(path) for role, path in held.items()}
    given = read_data(inputs.samples, more["validation"], more["meta"], more["test"] or inputs.test)
    protocol = Protocol(
        methods=options.methods and tuple(options.methods),
        seeds=tuple(range(options.seeds)),
        minutes=_MINUTES if options.minutes is None and options.steps is None else options.minutes,
        steps=options.steps,
        batch_size=options.batch_size or batch_size,
        augment=inputs.augment,
    )
    comparison = prepare(given, inputs.student, inputs.teacher, folder=folder, protocol=protocol)
    plan = comparison.plan()
    return Prepared(comparison, plan["steps"], plan.get("timing", {}))


def _read(options: argparse.Namespace) -> tuple[Inputs, int]:
    """The data, and how many samples a step takes by default."""
    kind, _, name = options.data.partition(":")
    flip = not options.no_flip
    if kind == "tfds" and not os.path.exists(options.data):
        size, factor = options.image_size, options.imbalance_factor
        return read_tfds(name, size, imbalance_factor=factor, flip=flip, backbone=options.backbone), _IMAGES
    if os.path.isdir(options.data):
        size = options.image_size or _IMAGE_SIZE
        return read_images(options.data, size, flip=flip, backbone=options.backbone), _IMAGES
    if os.path.isfile(options.data):
        from keras_bikd.comparison.from_csv import read_table  # which needs pandas

        return read_table(options.data, options.label), _ROWS
    raise ValueError(f"There is no file or folder {options.data!r}. Sets of TensorFlow Datasets are named tfds:NAME.")


def show_plan(prepared: Prepared) -> None:
    """Print what is trained, on what, and how long it takes if that is known."""
    comparison, steps, timing = prepared
    first = next(iter(comparison.rounds.values()))
    train, rounds = first.train.samples, len(comparison.rounds)
    counts = train.class_counts
    print(f"Data: {len(train)} samples in {len(counts)} classes of {counts.max()} to {counts.min()}")
    share = f"{100 * comparison.protocol.validation_share:.0f} % of each class, others in each round"
    print(f"Validation: {share if first.validation.samples is train else f'{len(first.validation.ids)} samples'}")
    for name, subset in {"Test": first.test, "Checked samples": first.checked}.items():
        if subset is not None:
            print(f"{name}: {len(subset.ids)} samples")
    models = {"student": comparison.student(), **{role: own.build() for role, own in first.teachers.items()}}
    for role, model in models.items():
        print(f"{role.capitalize()}: {model.count_params():,} parameters")
    names = list(dict.fromkeys(own.name for own in comparison.trainings(comparison.methods)))
    print(f"Trainings: {rounds} x {len(names)} of {steps} steps, {comparison.protocol.batch_size} samples each")
    _show_times(names, {name: besides + steps * step for name, (besides, step) in timing.items()}, rounds)


def _show_times(trainings: list[str], seconds: dict[str, float], rounds: int) -> None:
    table = Table("training", *[title for title in ("one", f"all {rounds}") if seconds], box=None)
    for name in trainings:
        known = seconds.get(name)
        table.add_row(name, *(["fails"] if known is None else [_duration(known), _duration(rounds * known)]))
    if seconds:
        Console(highlight=False).print(table)
        print(f"Together about {_duration(rounds * sum(seconds.values()))}")


def show_findings(findings: Findings) -> None:
    """Print the recommendation and what it rests on."""
    has_test = findings.test is not None
    table = Table("method", "balanced accuracy", *(["on test data"] if has_test else []), "one training", box=None)
    for name in findings.methods:
        rows = [row for row in findings.rows if row["method"] == name]
        parts = ("validation", "test") if has_test else ("validation",)
        scores = [_mean_and_spread([row[part] for row in rows]) for part in parts]
        table.add_row(name, *scores, _duration(findings.seconds(name)))
    print()
    Console(highlight=False).print(table)
    print(f"\n{findings.recommendation}\n")


def write(findings: Findings, options: argparse.Namespace, command: str) -> None:
    """Write the report and the recommended student, and say where they are.

    Args:
        findings: What was found.
        options: What `keras_bikd_cli.parser` has read.
        command: The command, for the report.
    """
    folder = pathlib.Path(options.out)
    findings.report(folder / "report.html", command=command)
    findings.export(folder / "student", formats=("keras", *options.export))
    print(f"Report: {folder / 'report.html'}")
    for path in sorted((folder / "student").iterdir()):
        print(f"Student: {path}")


def _mean_and_spread(scores: list[Any]) -> str:
    spread = f" ± {np.std(scores, ddof=1):.1f}" if len(scores) > 1 else ""
    return f"{np.mean(scores):.1f}{spread} %"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
