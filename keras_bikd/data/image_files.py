"""Image files: those of a folder, checks that they can be read, and reading them without TensorFlow."""

import os
import pathlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO

import keras
import numpy as np

_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
_COLOUR_MODES = {1: "grayscale", 3: "rgb", 4: "rgba"}  # by channels, as Keras names them
_MANY = 1000  # files from which on a progress bar is shown while all are decoded
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
    """Raise unless the first bytes of every file are those of an image; for 100,000 files this takes seconds."""
    files = list(files)
    if unreadable := [file for file in files if not _begins_as_image(file)]:
        raise ValueError(
            f"`Folder(path=...)` found {len(unreadable)} of {len(files)} files that are not readable JPEG, PNG, GIF or "
            f"BMP images: {_first(unreadable)}. Remove or replace them."
        )


def readable_part(folder: pathlib.Path, files: np.ndarray, classes: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The files that can be decoded to the end, and the classes that have any; a warning names the others."""
    sound = np.array(list(_in_progress(files)), bool)
    left = files[sound]
    present = {pathlib.Path(file).relative_to(folder).parts[0] for file in left}
    empty = [name for name in classes if name not in present]
    broken = files[~sound].tolist()
    problems = [f"{len(broken)} files that cannot be decoded: {_first(broken)}"] if broken else []
    problems += [f"{len(empty)} class folders without a readable image: {_first(empty)}"] if empty else []
    if problems:
        # Where `Folder` was called.
        warnings.warn(f"Left out of {str(folder)!r} are {'; and '.join(problems)}.", stacklevel=3)
    return left, [name for name in classes if name in present]


def _in_progress(files: np.ndarray) -> Iterator[bool]:
    """Whether each file can be decoded to the end."""
    from rich.progress import track  # which Keras requires

    with ThreadPoolExecutor() as pool:  # Pillow decodes without Python's lock
        sound = pool.map(_is_decoded, files)
        yield from track(sound, "reading images", len(files), disable=len(files) < _MANY, transient=True)


def _is_decoded(file: str) -> bool:
    from PIL import Image

    try:
        with Image.open(file) as image:
            image.load()
    except Exception:  # Pillow's decoders raise many kinds
        return False
    return True


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


def checked_size(owner: str, image_size: Sequence[int]) -> tuple[int, int]:
    """Return `(height, width)`, or raise in the name of `owner`."""
    sides = np.asarray(image_size)
    if sides.shape != (2,) or sides.dtype.kind not in "iu" or sides.min() < 1:
        raise ValueError(
            f"`{owner}(image_size=...)` takes (height, width), two integers of at least 1. "
            f"Received: image_size={image_size!r}"
        )
    return int(sides[0]), int(sides[1])


def decoded(file: str | os.PathLike[str] | IO[bytes], channels: int, image_size: tuple[int, int] | None) -> np.ndarray:
    """Decode an image file with Pillow; uint8 of shape `(height, width, channels)`.

    JPEG files differ from TensorFlow's by a few of the 256 levels, resized images by one.

    Args:
        file: Path, or an open file.
        channels: 1, 3 or 4.
        image_size: `(height, width)` to resize to, with the same antialiasing as in TensorFlow; `None` for no change.
    """
    image = keras.utils.load_img(
        file, color_mode=_COLOUR_MODES[channels], target_size=image_size, interpolation="bilinear"
    )
    return np.asarray(image, "uint8").reshape(image.height, image.width, channels)
