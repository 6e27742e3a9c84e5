"""TensorFlow and JAX give the same numbers, and read each other's files."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

TESTS = pathlib.Path(__file__).parent
BACKENDS = ("tensorflow", "jax")


def run(script, *arguments, backend, **environment):
    """Start a script of this folder on a backend."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "JAX_ENABLE_X64": "1", **environment}
    command = [sys.executable, TESTS / script, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(*processes):
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output


def difference(a, b):
    with np.load(a) as left, np.load(b) as right:
        assert left.files == right.files
        return max(np.abs(left[name].astype("float64") - right[name]).max() for name in left.files)


@pytest.mark.slow
@pytest.mark.parametrize(("floatx", "tolerance"), [("float32", 1e-6), ("float64", 1e-9)])
def test_twenty_steps_and_the_files_of_the_other_backend(tmp_path, floatx, tolerance):
    """Twenty steps with k = 3, whole; and ten of them on one backend, saved, and ten on the other."""
    worker = "backend_worker.py"
    finish(*(run(worker, tmp_path, floatx, 0, 20, backend=backend) for backend in BACKENDS))
    assert difference(tmp_path / "tensorflow_20.npz", tmp_path / "jax_20.npz") <= tolerance
    finish(*(run(worker, tmp_path, floatx, 0, 10, backend=backend) for backend in BACKENDS))
    for writer, reader in (BACKENDS, BACKENDS[::-1]):
        finish(run(worker, tmp_path, floatx, 10, 20, tmp_path / f"{writer}_10.keras", backend=reader))
        assert difference(tmp_path / f"{writer}_20.npz", tmp_path / f"{reader}_continued_20.npz") <= tolerance
