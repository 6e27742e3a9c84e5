"""Cells of a comparison: independent trainings in processes of their own, each stored when it is done."""

import json
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import traceback
from collections.abc import Sequence
from multiprocessing.context import SpawnProcess

import keras

from keras_bikd import plots, results
from keras_bikd.comparison.protocol import train
from keras_bikd.comparison.setting import Cell, Lookup, counts_name

__all__ = ["row_of", "run_cells"]


def run_cells(cells: Sequence[Cell], lookup: Lookup, folder: str | pathlib.Path, workers: int = 1) -> None:
    """Run the cells that are not done yet.

    Cells of one setting, imbalance and seed share a process. It frees its memory at its end, and if it crashes the
    others go on. A cell that fails is reported, and run again the next time.

    Args:
        cells: Cells to run.
        lookup: Function `Cell -> (Setting, Method)`, at the top level of a module, so that a process can import it.
        folder: Where rows and teachers are kept.
        workers: Number of processes at a time. If there are several, each has a single thread.
    """
    plots.require_matplotlib()  # the figures come at the very end
    groups: dict[tuple[str, float | None, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.setting, cell.imbalance_factor, cell.seed), []).append(cell)
    waiting = [group for group in groups.values() if not all(row_of(cell, lookup, folder) for cell in group)]
    context = multiprocessing.get_context("spawn")
    running: dict[SpawnProcess, list[Cell]] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            group = waiting.pop(0)
            process = context.Process(target=_run_group, args=(group, lookup, folder, workers == 1), daemon=True)
            process.start()
            running[process] = group
        multiprocessing.connection.wait([process.sentinel for process in running])
        for process in [process for process in running if not process.is_alive()]:
            group = running.pop(process)
            if process.exitcode:
                print(f"FAILED: a process died with exit code {process.exitcode}, in one of {group}", flush=True)


def row_of(cell: Cell, lookup: Lookup, folder: str | pathlib.Path) -> results.Row | None:
    """Load the stored row of a cell; `None` if there is none, or if it was trained in any other way."""
    row = results.load_row(cell.path(folder))
    # As text, because the order of a dict counts too: of candidate losses, for one.
    return row if row is not None and json.dumps(row.get("config")) == json.dumps(cell.config(*lookup(cell))) else None


def _run_group(group: list[Cell], lookup: Lookup, folder: str | pathlib.Path, alone: bool) -> None:
    if not alone:
        os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}  # read at the first operation
    parent = multiprocessing.parent_process()
    for cell in group:
        if parent is not None and not parent.is_alive():
            return  # the comparison was killed, and may be running again
        keras.config.disable_interactive_logging()  # `clear_session` turns it on again
        if row_of(cell, lookup, folder):
            continue
        name = f"{cell.setting}, {counts_name(cell.imbalance_factor)}, {cell.method}, seed {cell.seed}"
        try:
            setting, method = lookup(cell)
            row = train(cell, setting, method, cell.folder(folder))
            results.save_row(cell.path(folder), row)
        except Exception:  # one cell must not stop the others
            print(f"FAILED: {name}\n{traceback.format_exc()}", flush=True)
            continue
        print(f"{name}: {row['overall']:.1f} ({row['seconds']:.0f} s)", flush=True)
        keras.utils.clear_session()
