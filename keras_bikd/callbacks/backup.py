"""Backups of a training, to resume from, and checkpoints of the student alone."""

import contextlib
import os
import pathlib
import signal
import tempfile
import threading
from types import FrameType
from typing import Any

import keras
import numpy as np

from keras_bikd import checks
from keras_bikd.backend import agreed, processes
from keras_bikd.files import atomic_write
from keras_bikd.keras_private import start_at_epoch
from keras_bikd.types import Logs


class ExactBackup(keras.callbacks.Callback):
    """Back up a training, and resume it after a kill as if it had never stopped.

    Differs from `keras.callbacks.BackupAndRestore` in three ways. The data continue at the batch where they stopped.
    An interrupted epoch is completed, with its metrics, instead of repeated. A kill during writing does no harm.

    The backup is removed when the training ends. Several processes share one backup. As with Keras' callback,
    `History` and callbacks with a state, such as `EarlyStopping`, start again.

    Args:
        directory: Folder for the backup; created if missing.
        position: The second result of `keras_bikd.data.resumable`; train on the first, with `steps_per_epoch`.
        every: Number of batches between two backups; by default only the end of each epoch is backed up.
        exit_code: If given, SIGTERM, by which job schedulers announce that they take a machine away, lets the batch at
            hand end, writes a backup, and ends the process with this code, 1 to 255. Take 75 (`os.EX_TEMPFAIL`, "try
            again"): nothing else exits with it. A second SIGTERM is handled as before the training; by default the
            first.

    Raises:
        ValueError: If `every` or `exit_code` is out of range, or, when training starts, if `steps_per_epoch` is missing
            or no multiple of `steps_per_execution`, or if `exit_code` is given outside the main thread or in one of
            several processes.

    Examples:
        >>> import numpy as np, tempfile, tensorflow as tf
        >>> keras.utils.set_random_seed(0)
        >>> batches = (
        ...     tf.data.Dataset.from_tensor_slices((np.ones((8, 3)), np.zeros(8)))
        ...     .shuffle(8)
        ...     .batch(2)
        ... )
        >>> from keras_bikd.data import resumable
        >>> stream, position = resumable(batches)
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> backup = ExactBackup(tempfile.mkdtemp(), position, every=3)
        >>> _ = model.fit(
        ...     stream,
        ...     shuffle=False,
        ...     steps_per_epoch=4,
        ...     epochs=2,
        ...     callbacks=[backup],
        ...     verbose=0,
        ... )
        >>> int(model.optimizer.iterations)
        8
    """

    def __init__(
        self, directory: str | os.PathLike[str], position: Any, every: int | None = None, exit_code: int | None = None
    ) -> None:
        super().__init__()
        self.every = None if every is None else checks.integer("ExactBackup", "every", every)
        self.directory, self.position = pathlib.Path(directory), position
        self._termination = None if exit_code is None else Termination(exit_code)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._steps = self.params["steps"]
        if self._steps is None:
            raise ValueError(
                "`ExactBackup` needs `fit(steps_per_epoch=...)`: the stream of `keras_bikd.data.resumable` has no end."
            )
        if self._steps % self.model.steps_per_execution:
            raise ValueError(
                "`ExactBackup` needs a multiple of `steps_per_execution` as `fit(steps_per_epoch=...)`. With any other "
                f"number, Keras takes more steps per epoch. Received: steps_per_epoch={self._steps} and "
                f"steps_per_execution={self.model.steps_per_execution}"
            )
        if self._termination is not None:
            self._termination.expect()
        self._saved, self._cut_short = 0, False
        self._metrics: dict[str, np.ndarray] = {}
        self._rates: list[tuple[keras.Variable, np.ndarray]] = []
        if backups := sorted(self.directory.glob("step_*.weights.h5")):
            if not self.model.optimizer.built:
                self.model.optimizer.build(self.model.trainable_variables)
            self.model.load_weights(backups[-1])
            self._saved = int(backups[-1].name.removeprefix("step_").removesuffix(".weights.h5"))
        epoch, self._offset = divmod(self._saved, self._steps)
        if self._offset:
            self._metrics = dict(np.load(self._metrics_file(self._saved)))
            # A schedule that multiplies the rate at the start of an epoch has done so already; it is called again.
            rates = [variable for variable in self.model.optimizer.variables if variable.name == "learning_rate"]
            self._rates = [(variable, variable.numpy()) for variable in rates]
        self.position.assign(self._saved)
        start_at_epoch(self.model, epoch)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._first = epoch * self._steps + self._offset
        self._add_metrics()

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        # Here all callbacks have seen the end of the batch before, and of the epoch before.
        if self._termination is not None and self._termination.requested:
            if self._first + batch > self._saved:
                self._save(self._first + batch)
            raise SystemExit(self._termination.exit_code)
        for variable, rate in self._rates:
            variable.assign(rate)
        self._rates = []

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._add_metrics()
        done = self._first + batch + 1
        if self.every is not None and done - self._saved >= self.every:
            self._save(done)
        if self._offset and done % self._steps == 0:
            self.model.stop_training = self._cut_short = True  # stops this epoch only: see `on_epoch_end`

    def _add_metrics(self) -> None:
        """Add the metrics from the first part of an interrupted epoch, as soon as the model has any; they are sums."""
        own = self.model.metrics_variables
        if self._metrics and len(self._metrics) == len(own):
            for i, variable in enumerate(own):
                variable.assign_add(self._metrics[str(i)])
            self._metrics = {}

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self._cut_short:
            self.model.stop_training = self._cut_short = False
        self._offset = 0
        self._save((epoch + 1) * self._steps)

    def on_train_end(self, logs: Logs | None = None) -> None:
        start_at_epoch(self.model, None)
        if self._termination is not None:
            if self._termination.requested:  # too late for what the program does next
                raise SystemExit(self._termination.exit_code)
            self._termination.forget()
        if _is_first_process():
            self._remove_all_but()
            with contextlib.suppress(OSError):  # if it holds other files
                self.directory.rmdir()

    def _save(self, done: int) -> None:
        """Write the backup, then put it in place, then remove the older one."""
        self._saved = done
        totals = agreed([variable.value for variable in self.model.metrics_variables])
        if not _is_first_process():
            # Keras creates a variable while it writes, and all processes must take part.
            with tempfile.TemporaryDirectory() as folder:
                self.model.save_weights(pathlib.Path(folder, "unused.weights.h5"))
            return
        # Weight files hold no metrics.
        metrics, backup = self._metrics_file(done), self.directory / f"step_{done:012d}.weights.h5"
        with atomic_write(backup) as unfinished:
            # By number: metrics of the same name have variables of the same path.
            np.savez(metrics, **{str(i): keras.ops.convert_to_numpy(total) for i, total in enumerate(totals)})
            self.model.save_weights(unfinished)
        self._remove_all_but(metrics, backup)

    def _remove_all_but(self, *kept: pathlib.Path) -> None:
        # What `atomic_write` names `unfinished_...` is left by a process that was killed while it wrote.
        for pattern in ("step_*.weights.h5", "metrics_*.npz", "unfinished_*_step_*.weights.h5"):
            for file in self.directory.glob(pattern):
                if file not in kept:
                    file.unlink()

    def _metrics_file(self, done: int) -> pathlib.Path:
        return self.directory / f"metrics_{done:012d}.npz"


def _is_first_process() -> bool:
    return processes()[0] == 0


class StudentCheckpoint(keras.callbacks.ModelCheckpoint):
    """`keras.callbacks.ModelCheckpoint` for the student alone: the file holds neither teacher nor weight network.

    Args:
        filepath: As in `ModelCheckpoint`: `"student.keras"`, or `"student.weights.h5"` with `save_weights_only=True`.
        **kwargs: As in `ModelCheckpoint` (`monitor`, `mode`, `save_best_only`, ...).

    Examples:
        >>> best = {
        ...     "monitor": "val_balanced_accuracy",
        ...     "mode": "max",
        ...     "save_best_only": True,
        ... }
        >>> callback = StudentCheckpoint("student.keras", **best)
    """

    def _save_model(self, epoch: int, batch: int | None, logs: Logs | None) -> None:
        whole = self.model  # on JAX, reading it updates its variables
        self.set_model(whole.student)
        try:
            super()._save_model(epoch, batch, logs)
        finally:
            self.set_model(whole)


class Termination:
    """A SIGTERM during a training, remembered until the training can stop.

    Args:
        exit_code: What the process then ends with.
    """

    def __init__(self, exit_code: int) -> None:
        self.exit_code = checks.integer("ExactBackup", "exit_code", exit_code)
        if exit_code > 255:
            raise ValueError(f"`ExactBackup(exit_code=...)` takes at most 255. Received: exit_code={exit_code!r}")
        self.requested = False
        self._before: Any = signal.SIG_DFL

    def expect(self) -> None:
        """From now on, a SIGTERM is remembered."""
        if threading.current_thread() is not threading.main_thread():
            raise ValueError(
                "`ExactBackup(exit_code=...)` needs `fit` in the main thread, the only one in which Python handles "
                f"signals. Received: a call in thread {threading.current_thread().name!r}"
            )
        if processes()[1] > 1:
            raise ValueError(
                "`ExactBackup(exit_code=...)` works in a training of one process: several would stop at different "
                f"batches. Received: {processes()[1]} processes. Use `ExactBackup(every=...)` and let the job be killed"
            )
        self.requested = False
        if signal.getsignal(signal.SIGTERM) != self._handle:  # left there by a training that ended with an exception
            self._before = signal.signal(signal.SIGTERM, self._handle) or signal.SIG_DFL

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.forget()
        self.requested = _is_in_fit(frame)
        if not self.requested:  # an exception has ended the training, of which no callback is told
            signal.raise_signal(number)

    def forget(self) -> None:
        """From now on, SIGTERM does what it did before."""
        signal.signal(signal.SIGTERM, self._before)


def _is_in_fit(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_name != "fit":
        frame = frame.f_back
    return frame is not None
