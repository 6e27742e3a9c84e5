"""Manifests: files that describe a split, written next to a teacher and checked before a student learns from it."""

import json
import os
import pathlib
from typing import Any

from keras_bikd.data.augment import Augmentations
from keras_bikd.data.loader import LongTailedData, load
from keras_bikd.data.sources import Source, Tfds
from keras_bikd.data.split import LongTailCut
from keras_bikd.results import save_row


def save_manifest(path: str | os.PathLike[str], data: LongTailedData) -> None:
    """Write the manifest of a split as JSON, whole or not at all.

    Args:
        path: File to write; missing folders are created.
        data: A `LongTailedData`.
    """
    save_row(path, data.manifest)


def check_manifest(path: str | os.PathLike[str], data: LongTailedData) -> None:
    """Raise unless `data` is the split that a manifest describes.

    Use it before a student learns from a saved teacher: the teacher must not have seen the student's meta or test
    images, and Table 1 of the paper compares models that were trained on the same images. How the images are sampled
    may differ.

    Args:
        path: Manifest, as written by `save_manifest`.
        data: A `LongTailedData`.

    Raises:
        ValueError: If there is no such file, or if the splits differ; the message says in what.
    """
    recorded, own = _read("check_manifest", path), data.manifest
    names = sorted({*recorded, *own} - {"sampling"})
    if differing := [name for name in names if recorded.get(name) != own.get(name)]:
        listed = "; ".join(f"{name}: {recorded.get(name)!r} there, {own.get(name)!r} here" for name in differing)
        raise ValueError(f"The manifest {str(path)!r} describes other data. {listed}")


def load_manifest(
    path: str | os.PathLike[str],
    source: str | Source | None = None,
    *,
    batch_size: int = 100,
    augment: Augmentations = None,
) -> LongTailedData:
    """Load the very split that a manifest describes.

    Args:
        path: Manifest, as written by `save_manifest`.
        source: As in `load`. Needed for arrays, folders, and tfds sets with arguments of their own; by default the
            tfds set that the manifest names.
        batch_size: As in `load`.
        augment: As in `load`.

    Returns:
        A `LongTailedData`.

    Raises:
        ValueError: If there is no such file, or if the data set has changed since, so that its split is another one.

    Examples:
        >>> import tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "split.json")
        >>> save_manifest(
        ...     path, load("sklearn_digits", 50, meta_size=100, test_size=500)
        ... )
        sklearn_digits 1.0.0: 314 training samples in 10 classes of 114 to 2, ...
        >>> data = load_manifest(path)
        sklearn_digits 1.0.0: 314 training samples in 10 classes of 114 to 2, ...
    """
    recorded = _read("load_manifest", path)
    drawn = {name: recorded[name] for name in ("meta_in_train", "sampling")}
    cut = LongTailCut(**recorded["cut"], **drawn)
    source = recorded["data_set"] if source is None else source
    source = Tfds(source) if isinstance(source, str) else source
    data = load(
        source,
        recorded["imbalance_factor"],
        meta_size=recorded["meta_size"],
        validation_size=recorded["validation_size"],
        test_size=recorded["test_size"] if source.test_size is None else None,
        batch_size=batch_size,
        seed=recorded["seed"],
        augment=augment,
        cut=cut,
    )
    check_manifest(path, data)
    return data


def _read(function: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    path = pathlib.Path(path)
    if not path.exists():
        raise ValueError(
            f"`{function}(path=...)` finds no manifest at {str(path)!r}. `save_manifest` writes one, in the recipes "
            "next to the teacher."
        )
    return json.loads(path.read_text())
