"""What the command `bikd` does; `keras_bikd_cli` reads its arguments."""

import argparse
import os
import pathlib
import tempfile
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from keras_bikd.advisor import Comparison, Findings, Protocol
from keras_bikd.advisor.given import data_of, networks_of
from keras_bikd.advisor.images import read_images, read_tfds
from keras_bikd.advisor.inputs import Inputs
from keras_bikd.advisor.kept import Kept
from keras_bikd.advisor.timing import Timing
from keras_bikd.comparison.findings import TEACHER

_MINUTES = 10.0
_IMAGE_SIZE = (64, 64)
_IMAGES, _ROWS = 32, 128  # samples per step


class Prepared(NamedTuple):
    """A comparison that has been checked, and how long it is.

    Attributes:
        comparison: The `Comparison`.
        steps: Steps of every training.
        timing: Name to `Timing` of every training of a round; empty if none were timed.
    """

    comparison: Comparison
    steps: int
    timing: dict[str, Timing]


def prepare(options: argparse.Namespace) -> Prepared:
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
        prepared = _prepared(options, nowhere)
        return prepared._replace(timing=prepared.timing or prepared.comparison.timing())


def _prepared(options: argparse.Namespace, folder: str) -> Prepared:
    Kept(folder)  # before anything is read, which may take minutes
    inputs, batch_size = _read(options)
    given = {name: getattr(options, name) for name in ("validation", "meta", "test")}
    more = {name: path and inputs.like(path) for name, path in given.items()}
    data = data_of(inputs.samples, more["validation"], more["meta"], more["test"] or inputs.test)
    minutes = _MINUTES if options.minutes is None and options.steps is None else options.minutes
    comparison = Comparison(
        data,
        networks_of(inputs.student, inputs.teacher, data.train),
        folder=folder,
        protocol=Protocol(
            methods=options.methods and tuple(options.methods),
            seeds=tuple(range(options.seeds)),
            minutes=minutes,
            steps=options.steps,
            batch_size=batch_size if options.batch_size is None else options.batch_size,
            augment=inputs.augment,
        ),
    )
    plan = comparison.plan()
    timing = {name: Timing(*seconds) for name, seconds in plan.get("timing", {}).items()}
    return Prepared(comparison, plan["steps"], timing)


def _read(options: argparse.Namespace) -> tuple[Inputs, int]:
    """The data, and how many samples a step takes by default."""
    kind, _, name = options.data.partition(":")
    flip = not options.no_flip
    if kind == "tfds" and not os.path.exists(options.data):
        read = read_tfds(name, options.image_size, imbalance_factor=options.imbalance_factor, flip=flip)
        return read, _IMAGES
    if os.path.isdir(options.data):
        return read_images(options.data, options.image_size or _IMAGE_SIZE, flip=flip), _IMAGES
    if os.path.isfile(options.data):
        from keras_bikd.comparison.from_csv import read_table  # which needs pandas

        return read_table(options.data, options.label), _ROWS
    raise ValueError(f"There is no file or folder {options.data!r}. Sets of TensorFlow Datasets are named tfds:NAME.")


def show_plan(prepared: Prepared) -> None:
    """Print what is trained, on what, and how long it takes if that is known."""
    comparison, steps, timing = prepared
    data, rounds, protocol = comparison.data, len(comparison.rounds), comparison.protocol
    counts = data.train.class_counts
    print(f"Data: {len(data.train)} samples in {len(counts)} classes of {counts.max()} to {counts.min()}")
    share = f"{100 * protocol.validation_share:.0f} % of each class, others in each round"
    print(f"Validation: {share if data.validation is None else f'{len(data.validation.ids)} samples'}")
    for name, subset in {"Test": data.test, "Checked samples": data.meta}.items():
        if subset is not None:
            print(f"{name}: {len(subset.ids)} samples")
    for role, model in comparison.networks.made().items():
        print(f"{role.capitalize()}: {model.count_params():,} parameters")
    trainings = [TEACHER] if comparison.networks.build_teacher is not None else []
    trainings += list(comparison.methods)
    print(f"Trainings: {rounds} x {len(trainings)} of {steps} steps, {protocol.batch_size} samples each")
    _show_times(trainings, {name: found.seconds(steps) for name, found in timing.items()}, rounds)


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
