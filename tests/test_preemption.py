"""SIGTERM during a training: the batch ends, the backup is written, the exit code says to try again."""

import concurrent.futures
import signal
import sys

import keras
import numpy as np
import pytest

from keras_bikd.callbacks import ExactBackup
from small_runs import StopAfter, train_small


class Terminate(keras.callbacks.Callback):
    """Sends SIGTERM to this process in the batch or epoch of that number, counted over the whole training."""

    def __init__(self, when, number, times=1):
        super().__init__()
        self.when, self.left, self.times = when, number, times

    def send(self, when):
        self.left -= self.when == when
        if self.when == when and self.left == 0:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGTERM)

    def on_train_begin(self, logs=None):
        self.send("train begin")

    def on_train_batch_begin(self, batch, logs=None):
        self.send("batch begin")

    def on_train_batch_end(self, batch, logs=None):
        self.send("batch end")

    def on_epoch_end(self, epoch, logs=None):
        self.send("epoch end")


class Record(keras.callbacks.Callback):
    """Counts batches and keeps the logs of epochs."""

    def __init__(self):
        super().__init__()
        self.batches, self.epochs = 0, []

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append((epoch, dict(logs)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that was never stopped: three epochs of six batches."""
    return train_small(tmp_path_factory.mktemp("whole"), None)


@pytest.mark.parametrize(
    ("when", "number", "done"),
    [
        ("train begin", 1, 0),
        ("batch begin", 8, 8),
        ("batch end", 8, 8),
        ("batch end", 12, 12),
        ("epoch end", 1, 6),
        ("epoch end", 3, 18),
    ],
)
def test_the_batch_ends_and_the_next_process_goes_on_behind_it(tmp_path, when, number, done, whole):
    """All callbacks see the end of the batch, and of the epoch if it was the last, once."""
    model, expected = whole
    before, first, second = signal.getsignal(signal.SIGTERM), Record(), Record()
    with pytest.raises(SystemExit) as stop:
        train_small(tmp_path / "run", None, Terminate(when, number), first, exit_code=75)
    assert stop.value.code == 75
    assert signal.getsignal(signal.SIGTERM) is before
    assert [int(path.name[5:17]) for path in (tmp_path / "run").glob("step_*")] == [done] * (done > 0)
    resumed, _ = train_small(tmp_path / "run", None, second, exit_code=75)
    assert signal.getsignal(signal.SIGTERM) is before
    assert (first.batches, second.batches) == (done, 18 - done)
    assert first.epochs + second.epochs == expected
    for a, b in zip(model.variables, resumed.variables):
        np.testing.assert_array_equal(a, b)
    assert not (tmp_path / "run").exists()


def test_a_second_sigterm_acts_as_before_the_training(tmp_path):
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    try:
        with pytest.raises(SystemExit) as stop:
            train_small(tmp_path, None, Terminate("batch end", 1, times=2), exit_code=75)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stop.value.code == 3


def test_a_sigterm_after_a_training_that_ended_with_an_exception_acts_as_before_it(tmp_path):
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    try:
        with pytest.raises(KeyboardInterrupt):
            train_small(tmp_path, None, StopAfter(2), exit_code=75)
        with pytest.raises(SystemExit) as stop:
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stop.value.code == 3


def test_signals_are_for_the_main_thread(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        training = pool.submit(train_small, tmp_path, None, exit_code=75)
        with pytest.raises(ValueError, match="needs `fit` in the main thread"):
            training.result()


def test_several_processes_would_stop_at_different_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_bikd.callbacks.backup.processes", lambda: (0, 2, 2))
    with pytest.raises(ValueError, match="Received: 2 processes"):
        train_small(tmp_path, None, exit_code=75)


@pytest.mark.parametrize("code", [0, 256])
def test_an_exit_code_that_the_system_cannot_tell(tmp_path, code):
    with pytest.raises(ValueError, match=f"exit_code={code}"):
        ExactBackup(tmp_path, None, exit_code=code)
