"""One bar over all trainings of a comparison, with the time left."""

import contextlib
from collections.abc import Iterator
from typing import Any, Self

import keras

from keras_bikd.types import Logs


class Progress:
    """A progress bar over the steps of all trainings; silent if Keras' interactive logging is off.

    Args:
        steps: Number of all steps.

    Examples:
        >>> keras.config.disable_interactive_logging()
        >>> with Progress(10) as progress, progress.training("KD, seed 0", 10) as watch:
        ...     watch.on_train_batch_end(0)
        >>> keras.config.enable_interactive_logging()
    """

    def __init__(self, steps: int) -> None:
        from rich import progress  # which Keras requires

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TimeRemainingColumn(elapsed_when_finished=True),
        )
        hidden = not keras.config.is_interactive_logging_enabled()
        self._bar = progress.Progress(*columns, disable=hidden, speed_estimate_period=600)
        self._task = self._bar.add_task("preparing", total=steps)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.stop()

    def extend(self, steps: int) -> None:
        """Add steps that were not planned."""
        total = self._bar.tasks[0].total or 0
        self._bar.update(self._task, total=total + steps)

    @contextlib.contextmanager
    def training(self, name: str, steps: int) -> Iterator[keras.callbacks.Callback]:
        """Show the name of a training; its callback counts its steps, and a training that is skipped counts whole."""
        before = self._bar.tasks[0].completed
        self._bar.update(self._task, description=name)
        yield _Steps(self)
        self._bar.update(self._task, completed=before + steps)

    def advance(self) -> None:
        """Count a step."""
        self._bar.advance(self._task)


class _Steps(keras.callbacks.Callback):
    """Counts the steps of a training."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._progress.advance()
