"""The image files of a folder, looked at before they are needed."""

import os
import pathlib
import warnings
from collections.abc import Iterable, Sequence

import numpy as np

__all__ = ["check_readable", "image_files", "is_hidden"]

_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is ignored."""
    return name.startswith(".")


def image_files(folder: pathlib.Path, classes: Sequence[str]) -> np.ndarray:
    """The files below the sub-folders `classes` that are images by their names, in alphabetical order.

    Files of other names are reported in a warning.
    """
    # In the order of `keras.utils.image_dataset_from_directory`, which the ids in manifests follow.
    walks = (sorted(os.walk(folder / name)) for name in classes)
    present = [os.path.join(root, name) for walk in walks for root, _, names in walk for name in sorted(names)]
    present = [file for file in present if not _is_below_hidden(file, folder)]
    files = [file for file in present if file.lower().endswith(_ENDINGS)]
    if others := sorted({*present} - {*files}):
        warnings.warn(
            f"{len(others)} files of {str(folder)!r} are left out, because their names do not end in .jpg, .jpeg, "
            f".png, .gif or .bmp: {_first(others)}.",
            stacklevel=3,  # where `Folder` was called
        )
    return np.array(files)


def check_readable(files: Iterable[str]) -> None:
    """Raise unless all files begin as images do: a hundred thousand take seconds."""
    files = list(files)
    if unreadable := [file for file in files if not _begins_as_image(file)]:
        raise ValueError(
            f"`Folder(path=...)` found {len(unreadable)} of {len(files)} files that are not readable JPEG, PNG, GIF or "
            f"BMP images: {_first(unreadable)}. Remove or replace them."
        )


def _begins_as_image(file: str) -> bool:
    try:
        with open(file, "rb") as opened:
            return opened.read(8).startswith(_SIGNATURES)
    except OSError:
        return False


def _is_below_hidden(file: str, folder: pathlib.Path) -> bool:
    return any(map(is_hidden, pathlib.Path(file).relative_to(folder).parts))


def _first(names: Sequence[str]) -> str:
    return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
