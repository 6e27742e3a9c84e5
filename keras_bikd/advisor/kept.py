"""The folder of a comparison: everything that is finished is there, whole, and nothing else."""

import json
import os
import pathlib
from typing import Any

import keras
import numpy as np

from keras_bikd import results
from keras_bikd.advisor.training import Trained
from keras_bikd.files import atomic_write

_ONE_LINE = 80  # characters


class Kept:
    """What a comparison has finished.

    A training is kept as a model, arrays and a row; the row is written last and says that the others are there.

    Args:
        folder: The folder; created if missing.

    Raises:
        ValueError: If the folder cannot be written to.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = pathlib.Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(self.folder / "plan.test") as unfinished:
                unfinished.touch()
            (self.folder / "plan.test").unlink()
        except OSError as error:
            raise ValueError(f"`compare(folder=...)` needs a folder that it may write to: {error}") from None

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

    def row(self, name: str, seed: int) -> results.Row | None:
        """The row of a finished training, or `None`."""
        return results.load_row(self._path("rows", name, seed, ".json"))

    def arrays(self, name: str, seed: int) -> dict[str, np.ndarray]:
        """The arrays of a finished training."""
        with np.load(self._path("arrays", name, seed, ".npz")) as stored:
            return dict(stored)

    def model(self, name: str, seed: int) -> keras.Model:
        """The student of a finished training, or its teacher."""
        return keras.saving.load_model(self.model_path(name, seed), compile=False)

    def model_path(self, name: str, seed: int) -> pathlib.Path:
        """The file of that model."""
        return self._path("models", name, seed, ".keras")

    def save(self, name: str, seed: int, trained: Trained) -> results.Row:
        """Keep a finished training and return its row."""
        with atomic_write(self.model_path(name, seed)) as unfinished:
            trained.model.save(unfinished)
        with atomic_write(self._path("arrays", name, seed, ".npz")) as unfinished, open(unfinished, "wb") as file:
            np.savez_compressed(file, **dict[str, Any](trained.arrays))
        row = {"method": name, **trained.row}
        results.save_row(self._path("rows", name, seed, ".json"), row)
        return row

    def _path(self, kind: str, name: str, seed: int, suffix: str) -> pathlib.Path:
        plain = "".join(character if character.isalnum() else "_" for character in name)
        return self.folder / kind / f"{plain}_{seed}{suffix}"


def _difference(name: str, there: Any, here: Any) -> str:
    """What differs, in one line: values that are short, or the entries that are not the same."""
    if isinstance(there, dict) and isinstance(here, dict):
        return f"{name}: other {', '.join(key for key in here | there if there.get(key) != here.get(key))}"
    values = f"{there!r} there, {here!r} here"
    return f"{name}: {values}" if len(values) < _ONE_LINE else f"other {name}"
