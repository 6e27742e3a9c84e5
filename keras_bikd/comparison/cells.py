"""Cells of a comparison: independent trainings, each stored when it is done, in this process or on a Dask cluster."""

import contextlib
import importlib.util
import json
import os
import pathlib
import random
import runpy
import sys
import tempfile
import traceback
import types
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_bikd import checks, plots, results
from keras_bikd.comparison.method import Method
from keras_bikd.comparison.protocol import train
from keras_bikd.comparison.setting import Cell, Lookup, Setting, counts_name


def run_cells(
    cells: Sequence[Cell],
    lookup: Lookup,
    folder: str | pathlib.Path,
    workers: int = 1,
    scheduler: str | None = None,
) -> None:
    """Run the cells that are not done yet.

    Cells of one setting, imbalance and seed run one after the other, for they share a teacher. A cell that fails is
    reported, and run again the next time. So is one whose worker has died four times; the first three times it begins
    again on another worker.

    Args:
        cells: Cells to run.
        lookup: Function `Cell -> (Setting, Method)`. Classes and functions of your own in what it returns stand at the
            top level of a module that a worker can import.
        folder: Where rows and teachers are kept.
        workers: One runs the cells in this process. More are processes of a Dask cluster that starts and ends with
            this call; each has a single thread.
        scheduler: Address of a Dask scheduler of yours, as in `"tcp://host:8786"`, in the place of `workers`. Its
            workers see `folder` under the same path, have one thread for tasks (`--nthreads 1`) and the same
            `KERAS_BACKEND`.

    Raises:
        ImportError: If matplotlib is missing, or Dask where it is needed.
        ValueError: If `workers` is out of range, or a worker of `scheduler` is not as described.

    Examples:
        >>> from keras_bikd.comparison import Call, Method, Part, Perceptron, Setting
        >>> from keras_bikd.models import DistillationModel
        >>> from keras_bikd.objectives import KnowledgeDistillation
        >>> networks = {"student": Perceptron((12,)), "teacher": Perceptron((64,))}
        >>> digits = Setting(
        ...     name="sklearn_digits",
        ...     imbalance_factors=(50.0,),
        ...     seeds=(0,),
        ...     meta_size=100,
        ...     test_size=500,
        ...     steps=2000,
        ...     **networks,
        ... )
        >>> parts = [Part("student"), Part("teacher")]
        >>> model = Call(DistillationModel, *parts, KnowledgeDistillation())
        >>> lookup = lambda cell: (digits, Method(model=model))
        >>> cells = [Cell("digits", 50.0, "KD", seed=0, quick=True)]
        >>> folder = tempfile.mkdtemp()
        >>> run_cells(cells, lookup, folder)
        digits, imbalance 50, KD, seed 0: ...
        >>> row_of(cells[0], lookup, folder)["method"]
        'KD'
    """
    plots.require_matplotlib()  # the figures come at the very end
    workers = checks.integer("run_cells", "workers", workers)
    groups: dict[tuple[str, float | None, int], list[_Training]] = {}
    for cell in cells:
        if row_of(cell, lookup, folder) is None:
            group = groups.setdefault((cell.setting, cell.imbalance_factor, cell.seed), [])
            group.append((cell, *lookup(cell)))
    if scheduler is None and workers == 1:
        for training in (training for group in groups.values() for training in group):
            print(_run(training, folder), flush=True)
    elif groups:
        _run_on_cluster(list(groups.values()), folder, workers, scheduler)


def row_of(cell: Cell, lookup: Lookup, folder: str | pathlib.Path) -> results.Row | None:
    """Load the stored row of a cell; `None` if there is none, or if it was trained in any other way."""
    return _stored((cell, *lookup(cell)), folder)


_Training = tuple[Cell, Setting, Method]


def _stored(training: _Training, folder: str | pathlib.Path) -> results.Row | None:
    cell, setting, method = training
    row = results.load_row(cell.path(folder))
    if row is None:
        return None
    # As text, because the order of a dict counts too: of candidate losses, for one.
    return row if json.dumps(row.get("config")) == json.dumps(cell.config(setting, method)) else None


def _name(cell: Cell) -> str:
    return f"{cell.setting}, {counts_name(cell.imbalance_factor)}, {cell.method}, seed {cell.seed}"


def _run(training: _Training, folder: str | pathlib.Path) -> str:
    """Train a cell, unless a worker that has died since has done so; return what there is to say of it."""
    cell = training[0]
    is_logging = keras.config.is_interactive_logging_enabled()
    keras.config.disable_interactive_logging()
    try:
        row = _stored(training, folder)
        if row is None:
            row = train(*training, cell.folder(folder))
            results.save_row(cell.path(folder), row)
    except Exception:  # one cell must not stop the others
        return f"FAILED: {_name(cell)}\n{traceback.format_exc()}"
    finally:
        keras.utils.clear_session()  # turns the logging on
        if not is_logging:
            keras.config.disable_interactive_logging()
    return f"{_name(cell)}: {row['overall']:.1f} ({row['seconds']:.0f} s)"


def _run_on_cluster(
    groups: list[list[_Training]], folder: str | pathlib.Path, workers: int, scheduler: str | None
) -> None:
    """Keep one cell of every group on the cluster, so that none begins after this process has been killed."""
    with _client(workers, scheduler) as client, _witness(folder) as witness:
        from distributed import KilledWorker, as_completed

        running: dict[Any, tuple[int, _Training]] = {}
        completed = as_completed()

        def submit(number: int) -> None:
            """Submit the next cell of a group; the first groups go first."""
            if groups[number]:
                training, here = groups[number].pop(0), keras.backend.backend()
                future = client.submit(_run_on_worker, training, witness, here, priority=-number, pure=False)
                running[future] = number, training
                completed.add(future)

        for number in range(len(groups)):
            submit(number)
        for future in completed:
            number, (cell, *_) = running.pop(future)
            try:
                print(future.result(), flush=True)
            except KilledWorker as error:
                print(f"FAILED: {_name(cell)}\n{error}", flush=True)
            submit(number)


@contextlib.contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator[Any]:
    """Connect to the scheduler, or to a cluster of processes that end with this one, even if it is killed."""
    if importlib.util.find_spec("distributed") is None:
        raise ImportError(
            "`run_cells` needs Dask for more than one worker and for a scheduler. Install it with "
            "`pip install distributed`, or the extra `cluster`."
        )
    import dask
    from distributed import Client, LocalCluster

    if scheduler is not None:
        with Client(scheduler) as client:
            yield client
        return
    # TensorFlow reads them at its first operation.
    threads = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    # Without an address, the web server would take port 8787, and warn where another cluster has it.
    options: dict[str, Any] = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "env": threads}
    # A paused worker waits for Dask to free memory, of which nothing is Dask's. Near the limit it is restarted.
    with (
        dask.config.set({"distributed.worker.memory.pause": False}),
        LocalCluster(n_workers=workers, threads_per_worker=1, **options) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextlib.contextmanager
def _witness(folder: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """A file in the folder of rows, by which a worker knows that it sees the same folder."""
    folder = pathlib.Path(folder).resolve()  # a worker has a working directory of its own
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".running_") as file:
        yield pathlib.Path(file.name)


def _run_on_worker(training: _Training, witness: pathlib.Path, backend: str) -> str:
    from distributed import get_worker

    if not witness.exists():
        raise ValueError(
            f"The workers of `run_cells` must see its folder. On {os.uname().nodename} there is no {witness}. Give a "
            "folder that all machines share under the same path."
        )
    if keras.backend.backend() != backend:
        raise ValueError(
            f"The workers of `run_cells` must use its backend, {backend}. One on {os.uname().nodename} uses "
            f"{keras.backend.backend()}. Start them with KERAS_BACKEND={backend}."
        )
    if get_worker().state.nthreads != 1:
        raise ValueError(
            "Seeds and sessions of Keras belong to a process: a worker of `run_cells` must run one task at a time. One "
            f"on {os.uname().nodename} has {get_worker().state.nthreads} threads. Start them with `--nthreads 1`."
        )
    _give_dask_its_own_random()
    return _run(training, witness.parent)


def _give_dask_its_own_random() -> None:
    """The event loop of a worker draws from Python's generator, while a task draws the seeds of Keras' layers there."""
    own = types.SimpleNamespace(**runpy.run_module("random"))  # a second copy of it, with a state of its own
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("dask", "distributed") and getattr(module, "random", None) is random:
            module.random = own  # type: ignore[attr-defined]
