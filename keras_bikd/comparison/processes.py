"""Trainings of a comparison on a Dask cluster, each in a process of its own."""

import concurrent.futures
import contextlib
import importlib.util
import logging
import multiprocessing
import os
import pathlib
import pickle
import threading
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_bikd import checks
from keras_bikd.comparison.training import Training
from keras_bikd.files import atomic_write

_RETRIES = 2  # of a training whose process was killed


def train_on_dask(
    comparison: Any, trainings: Sequence[Training], workers: int | str
) -> Iterator[tuple[Training, str | None]]:
    """Do trainings on a Dask cluster, teachers before their students.

    Args:
        comparison: The `Comparison`, whose `train_one` is called in a new process for every training.
        trainings: What to train.
        workers: Number of processes of a cluster that ends with this call, or the address of a scheduler.

    Yields:
        Every training when it has ended, with its traceback if it has failed.

    Raises:
        ImportError: If Dask is missing.
        ValueError: If `workers` is out of range, or a worker does not see the folder or uses another backend.
    """
    with _client(workers) as client, _stored(comparison) as path:
        from distributed import as_completed

        futures: dict[Training, Any] = {}
        for number, training in enumerate(trainings):  # `None` stands for a teacher that is there
            needed = [futures.get(Training(name, training.seed, is_teacher=True)) for name in training.teachers]
            given = str(path), training, keras.backend.backend(), needed
            futures[training] = client.submit(_in_own_process, *given, priority=-number, pure=False, retries=_RETRIES)
        trained = {future: training for training, future in futures.items()}
        for future in as_completed(futures.values()):
            try:
                yield trained[future], future.result()
            except _RefusedError:
                raise
            except Exception:  # the process of the training, or its worker, was killed again and again
                yield trained[future], traceback.format_exc()


class _RefusedError(ValueError):
    """A worker cannot take part."""


@contextlib.contextmanager
def _client(workers: int | str) -> Iterator[Any]:
    """Connect to the scheduler, or to a cluster of processes that end with this one, even if it is killed."""
    if not isinstance(workers, str):
        checks.integer("compare", "workers", workers)
    if importlib.util.find_spec("distributed") is None:
        raise ImportError(
            "More than one worker, and a scheduler, need Dask. Install it with `pip install distributed`, or the extra "
            "`cluster`."
        )
    import dask
    from distributed import Client

    cluster: dict[str, Any] = {
        "n_workers": workers,
        "threads_per_worker": 1,
        "memory_limit": 0,  # it is that of the trainings, of which Dask can free nothing
        "env": {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"},  # read at TensorFlow's first operation
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",  # port 8787 may be taken, and Dask would warn
        "silence_logs": logging.ERROR,  # workers that take seconds to end are nothing to worry about
    }
    daemons = {"distributed.worker.daemon": False}  # they may have no processes of their own
    with dask.config.set(daemons), Client(workers) if isinstance(workers, str) else Client(**cluster) as client:
        yield client


@contextlib.contextmanager
def _stored(comparison: Any) -> Iterator[pathlib.Path]:
    """The comparison as a file in its folder, by which a worker also knows that it sees the same folder."""
    import cloudpickle  # which Dask requires; it takes functions of scripts and notebooks

    path = comparison.store.folder / f"running_{os.getpid()}.pickle"
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(cloudpickle.dumps(comparison))
    try:
        yield path
    finally:
        path.unlink()


def _in_own_process(path: str, training: Training, backend: str, teachers: list[str | None]) -> str | None:
    """Train in a process that ends with the training, or with this one: it frees its memory, and seeds are its own."""
    if any(teachers):
        return "The training of its teacher has failed."
    where = os.uname().nodename
    if not os.path.exists(path):
        raise _RefusedError(
            f"The workers must see the folder of the results. On {where} there is no {path}. Give a folder that all "
            "machines share under the same path."
        )
    if keras.backend.backend() != backend:
        raise _RefusedError(
            f"The workers must use the same backend, {backend}. One on {where} uses {keras.backend.backend()}. Start "
            f"them with KERAS_BACKEND={backend}."
        )
    if multiprocessing.current_process().daemon:
        raise _RefusedError(
            f"The workers must be able to start processes; one on {where} is a daemon. Start them with "
            "DASK_DISTRIBUTED__WORKER__DAEMON=False."
        )
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["keras_bikd.comparison"])  # it is imported once
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context, initializer=_end_with_parent) as process:
        return process.submit(_train_stored, path, training).result()


def _end_with_parent() -> None:
    """End this process when the one that has started it is killed: its training begins again elsewhere."""
    parent: Any = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train_stored(path: str, training: Training) -> str | None:
    keras.config.disable_interactive_logging()
    comparison: Any = pickle.loads(pathlib.Path(path).read_bytes())  # noqa: S301 (our own file)
    return comparison.train_one(training)
