"""The command `bikd`. It stands beside the package, whose import takes seconds: help and mistakes are answered at once.

What it does is in `keras_bikd.cli`.
"""

import argparse
import importlib.metadata
import os
import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

__all__ = ["main", "parser"]

_METHODS = (
    "cross-entropy",
    "balanced softmax",
    "KD",
    "balanced softmax + corrected teacher",
    "BiKD as published",
    "BiKD with class counts",
)

_EXAMPLES = """examples:
  bikd compare photos --out runs/photos
      a folder with one sub-folder of images per class
  bikd compare payments.csv --label fraud --out runs/payments
      a table, with the class of each row in the column `fraud`
  bikd compare tfds:cifar10 --imbalance-factor 100 --out runs/cifar
      a set of TensorFlow Datasets
  bikd compare photos --out runs/photos --dry-run
      what would be trained, and how long it would take

methods:
  {methods}

All that is finished is kept in --out. If the command is stopped, the same command goes on where it was."""


def parser() -> argparse.ArgumentParser:
    """What the command takes."""
    top = argparse.ArgumentParser(prog="bikd", description="Knowledge distillation that works on long-tailed data.")
    top.add_argument("--version", action="version", version=f"%(prog)s {importlib.metadata.version('keras_bikd')}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    compare = commands.add_parser(
        "compare",
        help="find out which method to use on your data",
        description=(
            "Train the same small network on your data with several methods, several times each, and say which to use. "
            "Writes a report (HTML) and the recommended network with a model card."
        ),
        usage="bikd compare DATA --out FOLDER [options]",
        epilog=_EXAMPLES.format(methods="\n  ".join(_METHODS)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_data(compare)
    _add_training(compare)
    _add_results(compare)
    return top


def _add_data(compare: argparse.ArgumentParser) -> None:
    data = compare.add_argument_group("data")
    data.add_argument("data", metavar="DATA", help="folder of images, CSV file, or tfds:NAME")
    data.add_argument("--label", metavar="COLUMN", help="tables: the column with the class of each row")
    data.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="images: the size they are shrunk to (default: 64 64; the own size of a set of tfds)",
    )
    data.add_argument(
        "--no-flip", action="store_true", help="images: do not mirror them; for letters, digits, left and right"
    )
    data.add_argument(
        "--imbalance-factor",
        type=float,
        metavar="N",
        help="tfds: cut the classes to a long tail, the largest N times the smallest (default: all images)",
    )
    data.add_argument(
        "--validation",
        metavar="PATH",
        help="samples that decide, of the same kind as the data (default: a fifth of each class, in turn)",
    )
    data.add_argument("--test", metavar="PATH", help="samples that are reported and decide nothing (default: none)")
    data.add_argument(
        "--meta", metavar="PATH", help="samples whose labels you have checked; for data with many wrong labels"
    )


def _add_training(compare: argparse.ArgumentParser) -> None:
    training = compare.add_argument_group("training")
    budget = training.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, metavar="M", help="time for everything together (default: 10)")
    budget.add_argument("--steps", type=int, metavar="N", help="steps of every training, instead of --minutes")
    training.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="times that every method is trained (default: 3)"
    )
    training.add_argument(
        "--batch-size", type=int, metavar="N", help="samples per step (default: 32 images, 128 rows of a table)"
    )
    training.add_argument(
        "--methods",
        nargs="+",
        choices=_METHODS,
        metavar="NAME",
        help="the methods to compare, in quotes (default: all, listed below)",
    )
    training.add_argument(
        "--dry-run", action="store_true", help="print the plan and how long it takes, and train nothing"
    )


def _add_results(compare: argparse.ArgumentParser) -> None:
    results = compare.add_argument_group("results")
    results.add_argument("--out", required=True, metavar="FOLDER", help="folder of all results; needed")
    results.add_argument(
        "--export",
        nargs="+",
        default=[],
        choices=("tf_saved_model", "litert"),
        metavar="FORMAT",
        help="write the network as tf_saved_model or litert too (default: .keras alone)",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: What stands behind `bikd`; by default those of the process.

    Returns:
        The exit status: 0, 2 for input that does not fit, 130 if it was stopped.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's talk about its own installation
    command = shlex.join(["bikd", *given])
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = _Warnings()
        try:
            return _compare(options, command)
        except KeyboardInterrupt:
            print(f"\nStopped. What is finished is kept. To go on, repeat the command:\n  {command}", file=sys.stderr)
            return 130


def _compare(options: argparse.Namespace, command: str) -> int:
    try:
        from keras_bikd import cli

        prepared = cli.prepare(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"bikd: {_in_words_of_the_command(str(error))}", file=sys.stderr)
        return 2
    cli.show_plan(prepared)
    if not options.dry_run:
        findings = prepared.comparison.run()
        cli.show_findings(findings)
        cli.write(findings, options, command)
    return 0


_ARGUMENTS = {
    "compare(folder": "--out",
    "compare(data": "the data",
    "Folder(path": "the folder",
    "validation_data": "--validation",
    "test_data": "--test",
    "meta_data": "--meta",
    "class_names": "the class names",
}


def _in_words_of_the_command(message: str) -> str:
    """A message of the library with the command's options in the place of arguments of functions."""

    def option(match: re.Match[str]) -> str:
        call, name = match[1] or "", match[2]
        return _ARGUMENTS.get(f"{call}{name}") or _ARGUMENTS.get(name) or f"--{name.replace('_', '-')}"

    called = re.sub(r"`(\w+\()(\w+)=(?:\.\.\.|\([^`]*)\)`", option, message)
    return re.sub(r"`()(validation_data|test_data|meta_data)`", option, called)


class _Warnings:
    """Prints each warning once, without the line of code that gave it."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = _in_words_of_the_command(str(message))
        if issubclass(category, UserWarning) and text not in self.seen:  # others are about code, for its authors
            self.seen.add(text)
            print(f"Warning: {text}", file=sys.stderr)
