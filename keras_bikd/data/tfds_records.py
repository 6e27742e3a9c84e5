"""The records of prepared tfds sets, in a fixed order, with their images still encoded."""

import dataclasses
import difflib
import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["Records", "prepared_builder", "train_labels"]


@dataclasses.dataclass(frozen=True)
class Records:
    """The records of a set. Two are equal if they read the same files in the same way.

    Attributes:
        builder: The tfds builder.
        folder: Where the files are.
        read: What reads them; `tfds.testing.mock_data` puts another function in its place.
    """

    builder: Any = dataclasses.field(compare=False)
    folder: str
    read: Callable[..., Any]

    @property
    def image_key(self) -> str:
        return self.builder.info.supervised_keys[0]

    @property
    def label_key(self) -> str:
        return self.builder.info.supervised_keys[1]

    def split(self, split: str) -> tf.data.Dataset:
        """Stream a split."""
        import tensorflow_datasets as tfds

        return self.builder.as_dataset(
            split=split,
            shuffle_files=False,
            read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
            decoders={self.image_key: tfds.decode.SkipDecoding()},
        )

    def has_labels(self, split: str) -> bool:
        """Whether there is such a split, with labels: tfds writes -1 where the test labels are not published."""
        try:
            records = self.split(split)
        except ValueError:  # no such split
            return False
        return int(next(iter(records.take(1)))[self.label_key]) >= 0


@functools.lru_cache(maxsize=16)
def train_labels(records: Records) -> np.ndarray:
    """The label of every training record, read once in a process; the array is read-only."""
    labels = records.split("train").map(lambda record: record[records.label_key])
    array = np.concatenate(list(labels.batch(1024).as_numpy_iterator()))
    array.setflags(write=False)
    return array


def prepared_builder(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    """The builder of a classification set, downloaded and prepared.

    Args:
        name: As in `Tfds`.
        data_dir: As in `Tfds`.

    Returns:
        A `tfds.core.DatasetBuilder`.

    Raises:
        ValueError: If there is no such set, or if it is not for classification.
    """
    import tensorflow_datasets as tfds

    import keras_bikd.data.sets  # noqa: F401 (registers the offline sets)

    tfds.disable_progress_bar()
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError:
        nearest = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=3)
        hint = f" Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
        raise ValueError(
            f"`load(source)` and `Tfds(name)` take the name of a tfds data set. Received: {name!r}.{hint} "
            "Images in a folder are `Folder(path, image_size)`."
        ) from None
    try:
        builder.download_and_prepare()
    except OSError:  # of two processes that prepare a set, one cannot move its files into place
        builder = tfds.builder(name, data_dir=data_dir)
        if not builder.is_prepared():
            raise
    if builder.info.supervised_keys is None:
        raise ValueError(f"`Tfds(name=...)` takes a classification set with supervised keys. Received: name={name!r}")
    return builder
