"""Atomic writing: a reader finds a whole file or none."""

import contextlib
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Write a file whole or not at all, even if the process is killed meanwhile.

    Args:
        path: File to write. Missing folders are created, and an existing file is replaced at the end.

    Yields:
        A path in the same folder to write to, with the suffix of `path` and a name of its own in every process. When
        the block ends it becomes `path`; if the block raises, it is removed and `path` stays as it was.

    Examples:
        >>> import tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "scores", "seed_0.txt")
        >>> with atomic_write(path) as unfinished:
        ...     _ = unfinished.write_text("0.71")
        >>> path.read_text()
        '0.71'
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"unfinished_{os.getpid()}_{path.name}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
