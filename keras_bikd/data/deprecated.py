"""Names and keywords of the version before. They work for one more release, with a warning that says what to write."""

import dataclasses
from typing import Any

from keras_bikd.checks import warn_deprecated
from keras_bikd.data.loader import LongTailedData, load
from keras_bikd.data.sources import Arrays, Folder, Source, Tfds
from keras_bikd.data.split import LongTailCut

__all__ = ["Cut", "load_folder", "make_long_tailed", "moved_keywords", "renamed"]

_REPLACEMENTS = {
    "Cut": "data.LongTailCut",
    "make_long_tailed": "data.load(data.Arrays(x, y), ...)",
    "load_folder": "data.load(data.Folder(path, image_size), ...)",
}
_OF_TFDS = ("image_size", "data_dir")
_OF_CUT = ("meta_in_train", "sampling")

Cut = LongTailCut
"""Deprecated: `LongTailCut`."""


def renamed(name: str) -> Any:
    """What `keras_bikd.data.<name>` was, with a warning."""
    if name not in _REPLACEMENTS:
        raise AttributeError(f"module 'keras_bikd.data' has no attribute {name!r}")
    warn_deprecated(f"data.{name}", f"`{_REPLACEMENTS[name]}`")
    return globals()[name]


def make_long_tailed(x: Any, y: Any, imbalance_factor: float | None = None, **options: Any) -> LongTailedData:
    """Deprecated: `load(Arrays(x, y), ...)`."""
    source = Arrays(x, y, name=options.pop("name", "arrays"))
    return load(source, imbalance_factor, **_with_cut(options))


def load_folder(directory: Any, imbalance_factor: float | None = None, **options: Any) -> LongTailedData:
    """Deprecated: `load(Folder(path, image_size), ...)`."""
    source = Folder(directory, options.pop("image_size"))
    return load(source, imbalance_factor, **_with_cut(options))


def moved_keywords(
    function: str, source: str | Source, cut: LongTailCut, moved: dict[str, Any]
) -> tuple[str | Source, LongTailCut]:
    """Source and cut that say what old keywords said, with a warning."""
    for name in moved:
        if name not in _OF_TFDS + _OF_CUT:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")
    for_tfds, for_cut = ({name: moved[name] for name in names if name in moved} for names in (_OF_TFDS, _OF_CUT))
    if for_tfds:
        if not isinstance(source, str):
            raise TypeError(f"{function}() takes {', '.join(for_tfds)} with the name of a tfds set alone")
        given = _equations(for_tfds)
        warn_deprecated(f"{function}({given})", f"`{function}(Tfds({source!r}, {given}), ...)`")
        source = Tfds(source, **for_tfds)
    if for_cut:
        given = _equations(for_cut)
        warn_deprecated(f"{function}({given})", f"`{function}(..., cut=LongTailCut({given}))`")
        cut = dataclasses.replace(cut, **for_cut)
    return source, cut


def _with_cut(options: dict[str, Any]) -> dict[str, Any]:
    drawn = {name: options.pop(name) for name in _OF_CUT if name in options}
    return {**options, "cut": dataclasses.replace(options.get("cut", LongTailCut()), **drawn)}


def _equations(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())
