"""The backends give the same numbers, and read each other's files."""

import importlib.util
import itertools
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import without_tensorflow
from test_data import write_folder
from test_keywords import write_library

import forks

TESTS = pathlib.Path(__file__).parent
BACKENDS = tuple(name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name))


def finish(*processes):
    for process in processes:
        output = process.communicate("\n")
        assert process.returncode == 0, output


def difference(a, b):
    with np.load(a) as left, np.load(b) as right:
        assert left.files == right.files
        return max(np.abs(left[name].astype("float64") - right[name]).max() for name in left.files)


@pytest.mark.slow
def test_twenty_steps_and_the_files_of_the_other_backend(tmp_path):
    """Twenty steps with k = 3; in float64 also ten of them on one backend, saved, and ten on the next."""
    other = dict(zip(BACKENDS, [*BACKENDS[1:], BACKENDS[0]]))
    workers = [forks.start("backend_worker.py", tmp_path, other[own], backend=own) for own in BACKENDS]
    for worker in workers:
        output = list(itertools.takewhile(lambda line: line != "ready\n", worker.stdout))
        assert worker.poll() is None, "".join(output)
    finish(*workers)
    for floatx, tolerance in (("float32", 1e-6), ("float64", 1e-9)):
        first, *others = (tmp_path / f"{backend}_{floatx}.npz" for backend in BACKENDS)
        assert all(difference(first, path) <= tolerance for path in others)
    for backend in BACKENDS:
        whole, continued = tmp_path / f"{other[backend]}_float64.npz", tmp_path / f"{backend}_continued.npz"
        assert difference(whole, continued) <= 1e-9


def free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def several_processes(backend, count, *arguments):
    port = free_port()
    address, number = {
        "jax": (
            {
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{port}",
                "KERAS_DISTRIBUTION_NUM_PROCESSES": str(count),
            },
            "KERAS_DISTRIBUTION_PROCESS_ID",
        ),
        "torch": ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}, "RANK"),
    }[backend]
    start = lambda i: forks.start("process_worker.py", *arguments, backend=backend, **address, **{number: str(i)})
    return [start(i) for i in range(count)]


def check_two_processes(tmp_path, backend):
    """They end where one process does, also after a kill."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    alone = forks.start("process_worker.py", tmp_path / "one", 20, backend=backend)
    first, second = several_processes(backend, 2, tmp_path / "two", 20, "slow")
    while not list((tmp_path / "two" / "backup").glob("step_*")):
        assert first.poll() is None
        time.sleep(0.1)
    second.kill()
    second.communicate()
    told = next(line for line in first.stdout if "by peer" in line)  # its own shutdown waits for a heartbeat
    first.kill()
    first.communicate()
    assert "Connection" in told
    finish(alone, *several_processes(backend, 2, tmp_path / "two", 20))

    for i in range(2):
        one, two = (tmp_path / name for name in ("one", "two"))
        assert difference(one / "state_0.npz", two / f"state_{i}.npz") <= 1e-9
        assert difference(one / "logs_0.npz", two / f"logs_{i}.npz") <= 1e-6


@pytest.mark.slow
def test_two_processes_on_jax(tmp_path):
    check_two_processes(tmp_path, "jax")


@pytest.mark.backend
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="needs PyTorch, which runs on its own")
def test_two_processes_on_torch(tmp_path):
    check_two_processes(tmp_path, "torch")


@pytest.mark.slow
def test_what_devices_exchange_in_a_step(tmp_path):
    """The gradient of plain distillation; of BiKD that of two steps, of the virtual student, and the hypergradient."""
    found = json.loads(forks.start("communication_worker.py", tmp_path, backend="jax").communicate().splitlines()[-1])
    theta, phi, scalars = found["theta"], found["phi"], 100
    expected = [theta, 3 * theta + phi, 3 * theta + phi]
    assert all(0 <= own - want <= scalars for own, want in zip(found["exchanged"], expected, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_without_tensorflow(tmp_path, backend):
    """Training, callbacks, metrics, files and data need no TensorFlow; the loaders need it or Grain, and say so."""
    write_folder(tmp_path / "images")
    write_library(tmp_path / "library")
    command = [sys.executable, TESTS / "without_tensorflow.py", tmp_path]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "`pip install keras_bikd[grain]`" in process.stdout
    manifests = json.loads((tmp_path / "manifests.json").read_text())
    assert manifests == {name: data.manifest for name, data in without_tensorflow.data_sets(tmp_path).items()}


@pytest.mark.slow
def test_another_backend_is_refused_by_name():
    environment = {**os.environ, "KERAS_BACKEND": "numpy"}
    command = [sys.executable, "-c", "import keras_bikd"]
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "on the TensorFlow, JAX and PyTorch backends. Received: keras.backend.backend() = 'numpy'" in refused.stderr
