"""The command `bikd`. It stands beside the package, whose import takes seconds: help and mistakes are answered at once.

What it does is in `keras_bikd.comparison.cli`.
"""

import argparse
import importlib.metadata
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

_DESCRIPTION = """Train the same small network on your data with several methods, several times each, and say which to
use.
Writes a report (HTML) and the recommended network with a model card."""

_EXAMPLES = """examples:
  bikd compare photos --out runs/photos
      a folder with one sub-folder of images per class
  bikd compare payments.csv --label fraud --out runs/payments
      a table, with the class of each row in the column `fraud`
  bikd compare tfds:cifar10 --imbalance-factor 100 --out runs/cifar
      a set of TensorFlow Datasets
  bikd compare photos --out runs/photos --dry-run
      what would be trained, by which methods, and how long it would take

All that is finished is kept in --out. If the command is stopped, the same command goes on where it was."""


def parser() -> argparse.ArgumentParser:
    """What the command takes."""
    top = argparse.ArgumentParser(prog="bikd", description="Knowledge distillation that works on long-tailed data.")
    top.add_argument("--version", action="version", version=f"%(prog)s {importlib.metadata.version('keras_bikd')}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    compare = commands.add_parser(
        "compare",
        help="find out which method to use on your data",
        description=_DESCRIPTION,
        usage="bikd compare DATA --out FOLDER [options]",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_data(compare.add_argument_group("data").add_argument)
    _add_training(compare.add_argument_group("training"))
    add = compare.add_argument_group("results").add_argument
    add("--out", required=True, metavar="FOLDER", help="folder of all results; needed")
    formats = ("tf_saved_model", "litert")
    add("--export", nargs="+", default=[], choices=formats, help="write the network in other formats too")
    return top


def _add_data(add: Callable[..., Any]) -> None:
    add("data", metavar="DATA", help="folder of images, CSV file, or tfds:NAME")
    add("--label", metavar="COLUMN", help="tables: the column with the class of each row")
    size = "images: height and width (default: 64 64; the own size of a set of tfds)"
    add("--image-size", type=_count, nargs=2, metavar=("H", "W"), help=size)
    add("--no-flip", action="store_true", help="images: do not mirror them; for letters, digits, left and right")
    backbone = "images: a network with ImageNet weights for the teacher, such as MobileNetV2, which may be downloaded"
    add("--backbone", metavar="NAME", help=backbone)
    add("--imbalance-factor", type=_positive, metavar="N", help="tfds: cut classes, from N times the smallest down")
    add("--validation", metavar="PATH", help="samples that decide (default: a fifth of each class, in turn)")
    add("--test", metavar="PATH", help="samples that are reported and decide nothing (default: none)")
    add("--meta", metavar="PATH", help="samples whose labels you have checked; for data with many wrong labels")


def _add_training(group: Any) -> None:
    add, either = group.add_argument, group.add_mutually_exclusive_group().add_argument
    either("--minutes", type=_positive, metavar="M", help="time for everything together (default: 10)")
    either("--steps", type=_count, metavar="N", help="steps of every training, instead of --minutes")
    add("--seeds", type=_count, default=3, metavar="N", help="times that every method is trained (default: 3)")
    add("--batch-size", type=_count, metavar="N", help="samples per step (default: 32 images, 128 rows of a table)")
    add("--methods", nargs="+", metavar="NAME", help="the methods, in quotes (default: all, which a dry run lists)")
    add("--dry-run", action="store_true", help="print the plan and how long it takes, and train nothing")
    either = group.add_mutually_exclusive_group().add_argument
    either("--workers", type=_count, default=1, metavar="N", help="trainings at a time, in processes (default: 1)")
    either("--scheduler", metavar="ADDRESS", help="tcp://HOST:PORT of a Dask scheduler whose workers train")


def _count(text: str) -> int:
    """An integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"takes an integer of at least 1, not {text!r}")
    return int(text)


def _positive(text: str) -> float:
    """A number above 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"takes a number above 0, not {text!r}")
    return number


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
        warnings.simplefilter("ignore")
        warnings.simplefilter("once", UserWarning)  # others are about code, for its authors
        warnings.showwarning = _show  # type: ignore[assignment]
        try:
            return _compare(options, command)
        except KeyboardInterrupt:
            print(f"\nStopped. What is finished is kept. To go on, repeat the command:\n  {command}", file=sys.stderr)
            return 130


def _compare(options: argparse.Namespace, command: str) -> int:
    try:
        from keras_bikd.comparison import cli

        comparison, plan = cli.prepared(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"bikd: {error}", file=sys.stderr)
        return 2
    cli.show_plan(comparison, plan)
    if not options.dry_run:
        findings = comparison.run(options.scheduler or options.workers)
        cli.show_findings(findings)
        cli.write(findings, options, command)
    return 0


def _show(message: Warning | str, *where: Any) -> None:
    """Print a warning without the line of code that gave it."""
    print(f"Warning: {message}", file=sys.stderr)
