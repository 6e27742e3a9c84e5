"""What the command `bikd compare` does; `keras_bikd_cli` reads its arguments."""

import argparse
import os
import pathlib
import tempfile
from typing import Any

from rich.console import Console
from rich.table import Table

from keras_bikd.comparison.findings import Findings
from keras_bikd.comparison.from_images import read_images, read_tfds
from keras_bikd.comparison.methods import Protocol
from keras_bikd.comparison.run import Comparison, prepare
from keras_bikd.comparison.samples import Inputs, read_data
from keras_bikd.comparison.store import Store
from keras_bikd.results import duration, spread

_MINUTES = 10.0
_IMAGE_SIZE = (64, 64)
_IMAGES, _ROWS = 32, 128  # samples per step


def prepared(options: argparse.Namespace) -> tuple[Comparison, dict[str, Any]]:
    """Read and check everything, and time a few steps if need be; nothing is trained.

    Args:
        options: What `keras_bikd_cli.parser` has read.

    Returns:
        The `Comparison` and its plan. A dry run leaves nothing in the folder of the results, and times the trainings
        of a round also where the number of steps is given.

    Raises:
        ValueError: If something does not fit.
    """
    if not options.dry_run:
        return _prepared(options, options.out)
    with tempfile.TemporaryDirectory() as nowhere:
        comparison, plan = _prepared(options, nowhere)
        return comparison, plan if "timing" in plan else plan | {"timing": comparison.timing()}


def _prepared(options: argparse.Namespace, folder: str) -> tuple[Comparison, dict[str, Any]]:
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
    return comparison, comparison.plan()


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


def show_plan(comparison: Comparison, plan: dict[str, Any]) -> None:
    """Print what is trained, on what, and how long it takes if that is known."""
    first, rounds, steps = comparison.first, len(comparison.rounds), plan["steps"]
    train, counts = first.train.samples, first.train.samples.class_counts
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
    if timing := plan.get("timing"):
        _show_times(names, {name: besides + steps * step for name, (besides, step) in timing.items()}, rounds)


def _show_times(trainings: list[str], seconds: dict[str, float], rounds: int) -> None:
    table = Table("training", "one", f"all {rounds}", box=None)
    for name in trainings:
        known = seconds.get(name)
        table.add_row(name, *(["fails"] if known is None else [duration(known), duration(rounds * known)]))
    Console(highlight=False).print(table)
    print(f"Together about {duration(rounds * sum(seconds.values()))}")


def show_findings(findings: Findings) -> None:
    """Print the recommendation and what it rests on."""
    parts = {"validation": "balanced accuracy"} | ({} if findings.test is None else {"test": "on test data"})
    table = Table("method", *parts.values(), "one training", box=None)
    for name in findings.methods:
        rows = [row for row in findings.rows if row["method"] == name]
        scores = [f"{spread(row[part] for row in rows)} %" for part in parts]
        table.add_row(name, *scores, duration(findings.seconds(name)))
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
