"""The keywords of Python's standard library: text with a natural long tail. No download, on every machine.

Which keyword stands here? A sample is the text around a keyword, as bytes. The classes are as large as they are: in
Python 3.11, `def` has 212 times as many samples as `global`.
"""

import dataclasses
import functools
import hashlib
import io
import itertools
import keyword
import pathlib
import platform
import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

BEFORE = 48
"""Bytes of a sample before the keyword."""

BEHIND = 16
"""Bytes of a sample behind the keyword."""

_PER_CLASS = 40  # samples of every class in the test set, and as many that are held out for meta and validation sets
_TEST, _HELD_OUT, _SMALL = 0.2, 0.4, 0.88  # places of the files where a part ends, and where that of `small` begins
# With this prefix, files with rare keywords fall into every part, in Python 3.10 to 3.13, with and without the tests.
_PREFIX = "120"
_OTHER_PEOPLES = {"site-packages", "dist-packages"}
_LABELS = {name: label for label, name in enumerate(keyword.kwlist)}


class Samples(NamedTuple):
    """Keywords and what stands around them.

    Attributes:
        x: uint8 array of shape `(samples, 65)`: 48 bytes before the keyword, 0 in its place, 16 bytes behind it.
        labels: Integer array of shape `(samples,)`, indices into `keyword.kwlist`.
    """

    x: np.ndarray
    labels: np.ndarray


def samples_of(source: str) -> Samples:
    r"""The keywords of a source text, those in comments and strings left out.

    The text around them is UTF-8. At both ends of the text, it goes on with newlines.

    Args:
        source: The text.

    Returns:
        `Samples` in the order of the text.

    Raises:
        SyntaxError: If the text does not consist of Python's tokens.
        tokenize.TokenError: If it ends within a token or a bracket.

    Examples:
        >>> samples = samples_of("# if\nwhile x is not None:\n    pass\n")
        >>> [keyword.kwlist[label] for label in samples.labels]
        ['while', 'is', 'not', 'None', 'pass']
        >>> samples.x[1, 35:].tobytes()
        b'# if\nwhile x \x00 not None:\n    p'
    """
    starts = [0, *itertools.accumulate(len(line) for line in io.StringIO(source))]
    contexts, labels = [], []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and token.string in _LABELS:
            begin = starts[token.start[0] - 1] + token.start[1]
            end = begin + len(token.string)
            before = source[max(begin - BEFORE, 0) : begin].encode()[-BEFORE:].rjust(BEFORE, b"\n")
            behind = source[end : end + BEHIND].encode()[:BEHIND].ljust(BEHIND, b"\n")
            contexts.append(before + b"\0" + behind)
            labels.append(_LABELS[token.string])
    x = np.frombuffer(b"".join(contexts), "uint8").reshape(-1, BEFORE + 1 + BEHIND)
    return Samples(x, np.array(labels, "int64"))


def place_of(path: str) -> float:
    """Where a file falls between 0 and 1, which decides what its samples are for.

    It is a hash of the path, so it does not depend on what other files there are.

    Args:
        path: Path below the root of the library, with slashes.

    Examples:
        >>> round(place_of("asyncio/base_events.py"), 3)
        0.044
    """
    digest = hashlib.sha256(f"{_PREFIX}{path}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


@dataclasses.dataclass(kw_only=True)
class KeywordsConfig(tfds.core.BuilderConfig):
    """A variant of the set: the files from which place on are trained on."""

    trained_from: float


class PythonKeywords(tfds.core.GeneratorBasedBuilder):
    """The keywords of the standard library of the running Python, registered as `python_keywords`.

    `python_keywords/full` trains on 60 % of the files (180,000 samples in Python 3.11), `python_keywords/small` on 12 %
    (35,000). Both have the same test set, with 40 samples per class from 20 % of the files, and the same 40 samples per
    class, from another 20 %, for meta and validation sets. A class with fewer samples makes these sets smaller.

    All Python files below the root of the library are read, in the order of their paths, its own tests too. Those of
    other packages (`site-packages`) and those that cannot be decoded or tokenized are left out. Some distributions,
    such as container images, come without the tests of the library. There `nonlocal` has few samples, and the balanced
    sets have no more than four per class.

    The version is Python's. As distributions differ, a manifest also has the first digits of a hash of the samples.
    Once prepared, they stay as they are: another distribution of the same version reads those that are there.
    """

    VERSION = tfds.core.Version(".".join(map(str, sys.version_info[:3])))
    RELEASE_NOTES = {str(VERSION): "As in this version of Python."}
    BUILDER_CONFIGS = [
        KeywordsConfig(name="full", trained_from=_HELD_OUT),
        KeywordsConfig(name="small", trained_from=_SMALL),
    ]
    ROOT = pathlib.Path(sysconfig.get_path("stdlib"))

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Tensor(shape=(BEFORE + 1 + BEHIND,), dtype=np.uint8, encoding="bytes")
        return tfds.core.DatasetInfo(
            builder=self,
            description="The keywords of Python's standard library, and the text around them.",
            features=tfds.features.FeaturesDict(
                {"text": text, "label": tfds.features.ClassLabel(names=keyword.kwlist)}
            ),
            supervised_keys=("text", "label"),
            disable_shuffling=True,  # ids follow the files
            homepage="https://docs.python.org/3/library/",
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        files, first = _read(self.ROOT), self.builder_config.trained_from
        parts = {
            "train": _joined([own for path, own in files.items() if place_of(path) >= first]),
            "held_out": _joined([own for path, own in files.items() if _TEST <= place_of(path) < _HELD_OUT]),
            "test": _joined([own for path, own in files.items() if place_of(path) < _TEST]),
        }
        _check_complete(parts, self.ROOT)
        parts |= {name: _balanced(parts[name]) for name in ("held_out", "test")}
        digest = hashlib.sha256(b"".join(part.x.tobytes() + part.labels.tobytes() for part in parts.values()))
        self.info.metadata.update(python=platform.python_version(), sha256=digest.hexdigest())
        return {name: self._generate_examples(part) for name, part in parts.items()}

    def _generate_examples(self, part: Samples) -> Iterator[tuple[int, dict[str, Any]]]:
        for i, (x, label) in enumerate(zip(*part)):
            yield i, {"text": x, "label": int(label)}


@functools.lru_cache(maxsize=1)  # a process that prepares both variants reads the files once
def _read(root: pathlib.Path) -> dict[str, Samples]:
    """The samples of every file below a folder that can be read as Python."""
    from tensorflow_datasets.core.utils import tqdm_utils

    found, paths = {}, {file.relative_to(root).as_posix(): file for file in root.rglob("*.py")}
    own = sorted(path for path in paths if not _OTHER_PEOPLES & set(pathlib.PurePosixPath(path).parts))
    for path in tqdm_utils.tqdm(own, desc="Reading the standard library...", unit=" files", leave=False):
        try:
            with tokenize.open(paths[path]) as file:
                found[path] = samples_of(file.read())
        except (SyntaxError, UnicodeError, tokenize.TokenError):
            continue
    return found


def _joined(parts: list[Samples]) -> Samples:
    empty = samples_of("")
    return Samples(*(np.concatenate(arrays) for arrays in zip(empty, *parts)))


def _balanced(part: Samples) -> Samples:
    """The same number of samples of every class, spread over the files."""
    counts = np.bincount(part.labels, minlength=len(_LABELS))
    per_class = min(_PER_CLASS, counts.min())
    ids = [np.flatnonzero(part.labels == label) for label in range(len(counts))]
    chosen = np.sort(np.concatenate([own[np.arange(per_class) * len(own) // per_class] for own in ids]))
    return Samples(part.x[chosen], part.labels[chosen])


def _check_complete(parts: dict[str, Samples], root: pathlib.Path) -> None:
    for name, part in parts.items():
        if missing := [own for own, label in _LABELS.items() if label not in part.labels]:
            raise ValueError(
                f"`python_keywords` needs every keyword in its files for training, for the test and for what is held "
                f"out. The files for {name!r} below {str(root)!r} lack {missing}. Is the standard library of this "
                "Python incomplete?"
            )
