"""Results folder: a model, arrays and one JSON row per finished training; and what identifies a result."""

import dataclasses
import dis
import functools
import hashlib
import inspect
import json
import os
import pathlib
import sys
import sysconfig
import tempfile
import types
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_bikd import results
from keras_bikd.files import atomic_write

_ONE_LINE = 80  # characters


class Trained(NamedTuple):
    """A finished training.

    Attributes:
        model: The student or the teacher.
        row: Its numbers, which JSON can hold.
        arrays: Logits of the samples that were looked at, and weights of the losses, by name.
    """

    model: keras.Model
    row: results.Row
    arrays: dict[str, np.ndarray]


class Store:
    """The folder of a comparison.

    The row of a training is written last: it says that model and arrays are there.

    Args:
        folder: The folder; created if missing.

    Raises:
        ValueError: If the folder cannot be written to.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = pathlib.Path(folder).resolve()  # a process on a cluster has a working directory of its own
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise ValueError(f"The results need a folder that may be written to: {error}") from None

    def plan(self, identity: dict[str, Any]) -> dict[str, Any] | None:
        """The plan that was stored with the same identity, or `None`.

        Raises:
            ValueError: If another comparison is in the folder; the message says what differs.
        """
        stored = results.load_row(self.folder / "plan.json")
        if stored is None:
            return None
        there, own = stored["identity"], json.loads(json.dumps(identity))
        if differing := [name for name in own if there.get(name) != own[name]]:
            listed = "; ".join(_difference(name, there.get(name), own[name]) for name in differing)
            raise ValueError(
                f"The folder {str(self.folder)!r} holds another comparison. {listed}. Choose another folder, or remove "
                "this one."
            )
        return stored

    def save_plan(self, plan: dict[str, Any]) -> None:
        """Store the plan, whose `"identity"` says which comparison this is."""
        results.save_row(self.folder / "plan.json", plan)

    def row(self, name: str, seed: int, identity: str | None = None) -> results.Row | None:
        """The row of a finished training; `None` without one, and without one of this identity if one is given."""
        row = results.load_row(self._path("rows", name, seed, ".json"))
        return row if row is None or identity in (None, row["identity"]) else None

    def forget(self, name: str, seed: int) -> None:
        """Remove the row of a training that is to be done again."""
        self._path("rows", name, seed, ".json").unlink(missing_ok=True)

    def arrays(self, name: str, seed: int) -> dict[str, np.ndarray]:
        """The arrays of a finished training."""
        with np.load(self._path("arrays", name, seed, ".npz")) as stored:
            return dict(stored)

    def model(self, name: str, seed: int) -> keras.Model:
        """The student of a finished training, or its teacher."""
        return keras.saving.load_model(self._path("models", name, seed, ".keras"), compile=False)

    def save(self, name: str, seed: int, identity: str, trained: Trained) -> None:
        """Keep a finished training."""
        with atomic_write(self._path("models", name, seed, ".keras")) as unfinished:
            trained.model.save(unfinished)
        with atomic_write(self._path("arrays", name, seed, ".npz")) as unfinished, open(unfinished, "wb") as file:
            np.savez_compressed(file, **dict[str, Any](trained.arrays))
        row = {"method": name, "seed": seed, "identity": identity, **trained.row}
        results.save_row(self._path("rows", name, seed, ".json"), row)

    def _path(self, kind: str, name: str, seed: int, suffix: str) -> pathlib.Path:
        return self.folder / kind / f"{file_name(name)}_{seed}{suffix}"


def file_name(name: str) -> str:
    """The name of a method as a part of file names."""
    return "".join(character if character.isalnum() else "_" for character in name)


def _difference(name: str, there: Any, here: Any) -> str:
    """What differs, in one line: values that are short, or the entries that are not the same."""
    if isinstance(there, dict) and isinstance(here, dict):
        return f"{name}: other {', '.join(key for key in here | there if there.get(key) != here.get(key))}"
    values = f"{there!r} there, {here!r} here"
    return f"{name}: {values}" if len(values) < _ONE_LINE else f"other {name}"


def digest(description: Any) -> str:
    """A hash of what JSON can hold; the order of a dict counts, as that of candidate losses does."""
    return hashlib.sha256(json.dumps(description).encode()).hexdigest()[:16]


def described(value: Any, inside: tuple[Any, ...] = ()) -> Any:
    """Describe a value by what JSON can hold, so that two values with the same description do the same.

    A function of the user is described by its source, and by what it uses: variables of the functions around it, global
    variables, other functions. Functions and classes of installed packages, and of this one, are described by name.

    Args:
        value: A function, class or frozen dataclass; numbers, texts, arrays; lists, tuples and dicts of these.
        inside: Functions whose description this value is a part of.

    Returns:
        Dicts, lists, strings, numbers and `None`.

    Raises:
        ValueError: If the value, or something that it uses, is anything else.

    Examples:
        >>> from keras_bikd.objectives import SoftTargets
        >>> described({"soft": SoftTargets(temperature=2.0)})["soft"]["temperature"]
        2.0
    """
    parts = _parts_of(value)
    if parts is not value:
        return described(parts, inside)
    if isinstance(value, (list, tuple)):
        return [described(item, inside) for item in value]
    if isinstance(value, dict):
        return {str(key): described(item, inside) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return _described_code(value, inside)
    raise ValueError(
        "A result must say what it was made with, and this cannot be described: "
        f"{value!r} of type {type(value).__name__}"
        + (f", which `{inside[-1].__qualname__}` uses" if inside else "")
        + ". Make it inside the function, or use numbers, texts, arrays, functions and frozen dataclasses."
    )


def _parts_of(value: Any) -> Any:
    """What stands for a value in its description, or the value itself."""
    if isinstance(value, types.ModuleType):
        return value.__name__
    if isinstance(value, (np.ndarray, np.generic)):
        return [str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).hexdigest()[:16]]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"class": type(value)} | {own.name: getattr(value, own.name) for own in dataclasses.fields(value)}
    return value


def _described_code(code: Any, inside: tuple[Any, ...]) -> Any:
    """A function or a class: its name, its source, and what a function uses."""
    name = f"{code.__module__}.{code.__qualname__}"
    if _is_installed(code.__module__) or code in inside:
        return name
    own = {"name": code.__qualname__, "source": _source(code)}
    if not inspect.isfunction(code):
        return own
    used = inspect.getclosurevars(code)
    loaded = {name: used.globals[name] for name in sorted(_globals_of(code.__code__) & used.globals.keys())}
    return {**own, "uses": described({**used.nonlocals, **loaded}, (*inside, code))}


def _globals_of(code: types.CodeType) -> set[str]:
    names = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return names.union(*(_globals_of(inner) for inner in code.co_consts if inspect.iscode(inner)))


@functools.cache  # the source as it was imported, even if the file is edited meanwhile
def _source(code: Any) -> str:
    try:
        return hashlib.sha256(inspect.getsource(code).encode()).hexdigest()[:16]
    except (OSError, TypeError):
        raise ValueError(
            "A result must say what it was made with, and the source of this cannot be read: "
            f"{code!r}. Define it in a file."
        ) from None


def _is_installed(module: str | None) -> bool:
    package = str(module).partition(".")[0]
    file = getattr(sys.modules.get(str(module)), "__file__", None) or ""
    return package in {*sys.stdlib_module_names, "keras_bikd"} or file.startswith(sysconfig.get_path("purelib"))
