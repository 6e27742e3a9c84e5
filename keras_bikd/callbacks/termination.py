"""SIGTERM during a training: a request to stop at the next chance, instead of the end of the process."""

import signal
import threading
from types import FrameType
from typing import Any, NoReturn

from keras_bikd import checks
from keras_bikd.backend import processes


class Termination:
    """Remembers a SIGTERM until a training can stop.

    Args:
        exit_code: What the process then ends with.

    Raises:
        ValueError: If `exit_code` is not within 1..255.

    Examples:
        >>> termination = Termination(exit_code=75)
        >>> termination.expect()
        >>> signal.raise_signal(signal.SIGTERM)
        >>> termination.requested
        True
    """

    def __init__(self, exit_code: int) -> None:
        self.exit_code = checks.positive_integer("ExactBackup", "exit_code", exit_code)
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
        self.requested = True
        self.forget()

    def forget(self) -> None:
        """From now on, SIGTERM does what it did before."""
        signal.signal(signal.SIGTERM, self._before)

    def exit(self) -> NoReturn:
        """End the process as requested."""
        raise SystemExit(self.exit_code)
