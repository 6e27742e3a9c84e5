"""Trainings on a Dask cluster: workers that die, workers that are not as they must be."""

import contextlib
import importlib.util
import multiprocessing
import os
import pathlib
import signal
import socket
import time

import dask
import distributed
import keras
import numpy as np
import pytest

import keras_bikd as bikd
from keras_bikd.comparison import Method, processes
from keras_bikd.comparison.training import Training


class Log(keras.callbacks.Callback):
    """Writes down which trainings begin and end. One named in `fatal` is killed, once, in the third epoch."""

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
            os.kill(self.fatal[self.name](), signal.SIGKILL)
            time.sleep(60)  # ended from outside, long before


def worker():
    return multiprocessing.parent_process().pid


def kd(parts):
    return bikd.DistillationModel(parts.student, parts.teacher, bikd.objectives.KnowledgeDistillation())


def methods(log, fatal=()):
    """Two methods; in each a callback writes the method and the seed down."""

    def logged(name):
        def fit(parts):
            return {"callbacks": [Log(log, f"{name} {parts.train.seed}", dict(fatal))]}

        return Method(kd, fit)

    return {name: logged(name) for name in ("KD", "again")}


def network(units=4):
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(units, "relu"), keras.layers.Dense(3)])


def compare(folder, workers, chosen, seeds=(0, 1)):
    random = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [40, 20, 8])
    x = (random.normal(size=(68, 5)) + 2 * np.eye(5)[y]).astype("float32")
    protocol = bikd.Protocol(methods=chosen, seeds=seeds, steps=20, batch_size=8)
    return bikd.compare((x, y), network, lambda: network(8), folder=folder, protocol=protocol, workers=workers)


def without_clock(findings):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in findings.rows]


@pytest.fixture
def forked_workers(monkeypatch):
    """Workers are forked from a server that has imported the library, for which each would take five seconds."""
    monkeypatch.setattr(distributed.utils, "_forkserver_preload_set", True)
    multiprocessing.get_context("forkserver").set_forkserver_preload(["distributed", "keras_bikd.comparison"])
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("killed", [worker, os.getpid], ids=["worker", "training"])
def test_a_process_that_is_killed_loses_no_row_and_none_is_computed_twice(tmp_path, forked_workers, killed):
    log = tmp_path / "log"
    log.write_text("killed KD 1\n")  # not in this process
    one = compare(tmp_path / "process", 1, methods(str(log), {"KD 1": killed}))
    log.write_text("")
    two = compare(tmp_path / "cluster", 2, methods(str(log), {"KD 1": killed}))
    names = [f"{name} {seed}" for name in ("KD", "again") for seed in (0, 1)]
    lines = log.read_text().splitlines()
    assert lines.count("killed KD 1") == 1
    assert sorted(line for line in lines if "end" in line) == sorted(f"end {name}" for name in names)
    assert sorted(line for line in lines if "begin" in line) == sorted(f"begin {name}" for name in [*names, "KD 1"])
    assert without_clock(one) == without_clock(two)
    assert str(one.recommendation).split("A training took")[0] == str(two.recommendation).split("A training took")[0]
    assert not list((tmp_path / "cluster").glob("running_*"))
    before = log.read_text()
    compare(tmp_path / "cluster", 2, methods(str(log), {"KD 1": killed}))
    assert log.read_text() == before


@pytest.mark.slow
def test_a_training_that_always_dies_is_reported_and_does_not_stop_the_others(tmp_path, forked_workers):
    class Die(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            os._exit(1)

    chosen = {"KD": Method(kd), "fatal": Method(kd, lambda parts: {"callbacks": [Die()]})}
    with pytest.warns(UserWarning, match="fatal, seed 0, failed and is left out: .*BrokenProcessPool"):
        found = compare(tmp_path, 2, chosen, seeds=(0,))
    assert list(found.methods) == ["KD"]


@contextlib.contextmanager
def scheduler():
    """A scheduler with one worker, in this process."""
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(**options) as own:
        yield own.scheduler_address


@pytest.mark.slow
def test_trainings_on_a_scheduler_of_ours(tmp_path):
    with scheduler() as address:
        found = compare(tmp_path, address, {"KD": Method(kd)}, seeds=(0,))
    assert found.rows[0]["validation"] >= 0


def test_a_worker_that_sees_another_folder_or_uses_another_backend_or_is_a_daemon_is_refused(tmp_path, monkeypatch):
    training, here = Training("KD", 0), keras.backend.backend()
    with pytest.raises(ValueError, match=r"there is no .*/elsewhere"):
        processes._in_own_process(str(tmp_path / "elsewhere"), training, here, [])
    with pytest.raises(ValueError, match="Start them with KERAS_BACKEND=numpy"):
        processes._in_own_process(str(tmp_path), training, "numpy", [])
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    with pytest.raises(ValueError, match="DASK_DISTRIBUTED__WORKER__DAEMON=False"):
        processes._in_own_process(str(tmp_path), training, here, [])


def test_a_training_whose_teacher_has_failed_is_left_out(tmp_path):
    assert "its teacher has failed" in processes._in_own_process(str(tmp_path), Training("KD", 0), "numpy", ["Error"])


def test_without_dask_the_error_says_what_to_install(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "distributed" else find_spec(name))
    with pytest.raises(ImportError, match="the extra `cluster`"):
        compare(tmp_path, 2, {"KD": Method(kd)})
    with pytest.raises(ValueError, match="workers=0"):
        compare(tmp_path, 0, {"KD": Method(kd)})


def test_a_cluster_needs_no_port_of_its_own():
    """The port of Dask's dashboard is taken where another cluster runs: no reason to warn."""
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # taken already
            taken.bind(("127.0.0.1", 8787))
            taken.listen()
        with processes._client(1) as client:
            assert client.submit(int, "3").result() == 3
