"""Cells of a comparison on a Dask cluster: workers that die, workers that are not as they must be."""

import contextlib
import dataclasses
import importlib.util
import multiprocessing
import os
import pathlib
import random
import signal
import socket

import dask.sizeof
import distributed
import keras
import pytest

from keras_bikd import comparison, models, objectives
from keras_bikd.comparison import Call, Cell, Method, Part, Perceptron, Setting, cells

NETWORKS = {"student": Perceptron((12,)), "teacher": Perceptron((32,))}
SIZES = {"meta_size": 100, "test_size": 500, "steps": 2000}
DIGITS = Setting(name="sklearn_digits", imbalance_factors=(50.0,), seeds=(0, 1), **SIZES, **NETWORKS)


class Log(keras.callbacks.Callback):
    """Writes down which trainings begin and end. One named in `fatal` kills its worker, once, in the third epoch."""

    def __init__(self, file, name, fatal):
        super().__init__()
        self.file, self.name, self.fatal = pathlib.Path(file), name, fatal

    def write(self, event):
        with open(self.file, "a") as file:
            file.write(f"{event} {self.name}\n")

    def on_train_begin(self, logs=None):
        self.write("begin")

    def on_train_end(self, logs=None):
        self.write("end")

    def on_epoch_begin(self, epoch, logs=None):
        log = self.file.read_text()
        if epoch == 2 and self.name in self.fatal and f"killed {self.name}" not in log:
            self.write("killed")
            os.kill(os.getpid(), signal.SIGKILL)


class Die(Log):
    """Kills its worker whenever it begins."""

    def on_train_begin(self, logs=None):
        os.kill(os.getpid(), signal.SIGKILL)


@dataclasses.dataclass(frozen=True)
class Lookup:
    """Distillation of digits, with a callback that knows the method and the seed."""

    log: pathlib.Path
    fatal: tuple = ()
    callback: type = Log

    def __call__(self, cell):
        callback = self.callback if cell.method == "KD" else Log
        log = Call(callback, str(self.log), f"{cell.method} {cell.seed}", self.fatal)
        model = Call(models.DistillationModel, Part("student"), Part("teacher"), objectives.KnowledgeDistillation())
        return DIGITS, Method(model=model, callbacks=[log])


CELLS = [Cell("digits", 50.0, method, seed, quick=True) for method, seed in (("KD", 0), ("KD", 1), ("again", 1))]


def without_clock(row):
    return {key: value for key, value in row.items() if key not in ("seconds", "memory")}


@pytest.fixture
def forked_workers(monkeypatch):
    """Workers are forked from a server that has imported the library, for which each would take five seconds."""
    monkeypatch.setattr(distributed.utils, "_forkserver_preload_set", True)
    multiprocessing.get_context("forkserver").set_forkserver_preload(["distributed", "keras_bikd"])
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_no_row_and_none_is_computed_twice(tmp_path, forked_workers, capsys):
    lookup = Lookup(tmp_path / "log", fatal=("KD 1",))
    lookup.log.write_text("killed KD 1\n")  # not in this process
    comparison.run_cells(CELLS, lookup, tmp_path / "process")
    lookup.log.write_text("")
    capsys.readouterr()
    comparison.run_cells(CELLS, lookup, tmp_path / "cluster", workers=2)
    names = [f"{cell.method} {cell.seed}" for cell in CELLS]
    log = lookup.log.read_text().splitlines()
    assert log.count("killed KD 1") == 1
    assert sorted(line for line in log if "end" in line) == sorted(f"end {name}" for name in names)
    assert sorted(line for line in log if "begin" in line) == sorted(f"begin {name}" for name in [*names, "KD 1"])
    out = capsys.readouterr().out
    assert [out.count(f"{cell.method}, seed {cell.seed}:") for cell in CELLS] == [1, 1, 1]
    for cell in CELLS:
        one, two = (comparison.row_of(cell, lookup, tmp_path / folder) for folder in ("process", "cluster"))
        assert without_clock(one) == without_clock(two)
    before = lookup.log.read_text()
    comparison.run_cells(CELLS, lookup, tmp_path / "cluster", workers=2)
    assert lookup.log.read_text() == before


@pytest.mark.slow
def test_a_cell_that_kills_every_worker_is_reported_and_does_not_stop_its_group(tmp_path, forked_workers, capsys):
    lookup = Lookup(tmp_path / "log", callback=Die)
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        comparison.run_cells(CELLS[1:], lookup, tmp_path, workers=2)
    assert "FAILED: digits, imbalance 50, KD, seed 1\n" in capsys.readouterr().out
    assert [comparison.row_of(cell, lookup, tmp_path) is None for cell in CELLS[1:]] == [True, False]


def scheduler(threads):
    """A scheduler with one worker, in this process."""
    return distributed.LocalCluster(
        n_workers=1, threads_per_worker=threads, processes=False, dashboard_address="127.0.0.1:0"
    )


def test_cells_on_a_scheduler_of_ours(tmp_path):
    lookup = Lookup(tmp_path / "log")
    with scheduler(threads=1) as own:
        comparison.run_cells(CELLS[:1], lookup, tmp_path, scheduler=own.scheduler_address)
    assert comparison.row_of(CELLS[0], lookup, tmp_path)["overall"] > 0
    assert not list(tmp_path.glob(".running_*"))


def test_cells_in_this_process_leave_the_interactive_logging_as_it_is(tmp_path):
    is_on = keras.config.is_interactive_logging_enabled()
    cell = (CELLS[0], *Lookup(tmp_path / "log")(CELLS[0]))
    try:
        for switch in (keras.config.disable_interactive_logging, keras.config.enable_interactive_logging):
            switch()
            expected = keras.config.is_interactive_logging_enabled()
            cells._run(cell, tmp_path)  # the second time, the row is there
            assert keras.config.is_interactive_logging_enabled() == expected
    finally:
        (keras.config.enable_interactive_logging if is_on else keras.config.disable_interactive_logging)()


def test_a_worker_with_several_threads_is_refused(tmp_path):
    with (
        scheduler(threads=2) as own,
        pytest.raises(ValueError, match=r"has 2 threads\. Start them with `--nthreads 1`"),
    ):
        comparison.run_cells(CELLS[:1], Lookup(tmp_path / "log"), tmp_path, scheduler=own.scheduler_address)


def test_a_worker_that_sees_another_folder_or_uses_another_backend_is_refused(tmp_path):
    training = (CELLS[0], *Lookup(tmp_path / "log")(CELLS[0]))
    with pytest.raises(ValueError, match=r"there is no .*/elsewhere/running_1"):
        cells._run_on_worker(training, tmp_path / "elsewhere" / "running_1", keras.backend.backend())
    with pytest.raises(ValueError, match="Start them with KERAS_BACKEND=numpy"):
        cells._run_on_worker(training, tmp_path, "numpy")


def test_dask_leaves_the_generator_alone_that_seeds_layers():
    """Keras draws the seeds of layers from Python's generator, which the event loop of a worker used as well."""
    cells._give_dask_its_own_random()
    random.seed(0)
    before = random.getstate()
    dask.sizeof.sizeof([[1]] * 1000)
    assert random.getstate() == before


def test_without_dask_the_error_says_what_to_install(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "distributed" else find_spec(name))
    with pytest.raises(ImportError, match="the extra `cluster`"):
        comparison.run_cells(CELLS, Lookup(tmp_path / "log"), tmp_path, workers=2)
    with pytest.raises(ValueError, match="workers=0"):
        comparison.run_cells(CELLS, Lookup(tmp_path / "log"), tmp_path, workers=0)


def test_a_cluster_needs_no_port_of_its_own(tmp_path):
    """The port of Dask's dashboard is taken where another cluster runs: no reason to warn."""
    lookup = Lookup(tmp_path / "log")
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # taken already
            taken.bind(("127.0.0.1", 8787))
            taken.listen()
        comparison.run_cells(CELLS[:1], lookup, tmp_path, workers=2)
    assert comparison.row_of(CELLS[0], lookup, tmp_path)["overall"] > 0
