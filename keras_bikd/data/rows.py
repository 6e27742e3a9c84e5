"""Samples by position, decoded without TensorFlow: what Grain reads."""

import os
from collections.abc import Callable, Sequence
from typing import IO

import keras
import numpy as np

_CACHE_BYTES = 2**30  # a chosen set of at most this size is decoded once and kept in memory
COLOUR_MODES = {1: "grayscale", 3: "rgb", 4: "rgba"}


class Rows:
    """The samples of chosen ids and their labels, by position. `grain.MapDataset.source` and torch loaders take it.

    Args:
        sample: Function from an id to a sample, an array.
        ids: Ids of the samples, integer array.
        labels: The label of every id, integer array.
        keep: Whether to keep what has been read in memory.

    Examples:
        >>> rows = Rows(
        ...     lambda i: np.full((2, 2, 1), i),
        ...     ids=np.array([5, 3]),
        ...     labels=np.arange(10),
        ...     keep=False,
        ... )
        >>> len(rows), int(rows[1][1])
        (2, 3)
    """

    def __init__(self, sample: Callable[[int], np.ndarray], ids: np.ndarray, labels: np.ndarray, *, keep: bool) -> None:
        self.ids, self.labels = np.asarray(ids), np.asarray(labels)
        self._sample, self._keep = sample, keep
        self._kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> tuple[np.ndarray, np.integer]:
        i = int(self.ids[position])
        sample = self._kept.get(i)
        if sample is None:
            sample = self._sample(i)
            if self._keep:
                self._kept[i] = sample
        return sample, self.labels[i]


def fits_in_memory(count: int, shape: Sequence[int]) -> bool:
    """Whether `count` uint8 images of this shape are few enough to be kept in memory."""
    return count * int(np.prod(shape)) <= _CACHE_BYTES


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
        file, color_mode=COLOUR_MODES[channels], target_size=image_size, interpolation="bilinear"
    )
    return np.asarray(image, "uint8").reshape(image.height, image.width, channels)
