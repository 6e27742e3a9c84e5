"""The records of prepared tfds sets, in a fixed order, images still encoded: for `tf.data`, and by index."""

import dataclasses
import difflib
import functools
import os
import urllib.parse
from typing import Any

import keras
import numpy as np

HELD_OUT = "held_out"
"""The split of samples for meta and validation sets alone."""

_LABELS = 256  # records that are read at a time where their labels are needed


@dataclasses.dataclass(frozen=True)
class _Records:
    """The records of a set. Two are equal if they read the same files in the same way.

    Attributes:
        builder: The tfds builder.
        folder: Where the files are.
    """

    builder: Any = dataclasses.field(compare=False)
    folder: str

    @property
    def input_key(self) -> str:
        return self.builder.info.supervised_keys[0]

    @property
    def label_key(self) -> str:
        return self.builder.info.supervised_keys[1]

    @property
    def feature(self) -> Any:
        return self.builder.info.features[self.input_key]

    @property
    def has_images(self) -> bool:
        import tensorflow_datasets as tfds

        return isinstance(self.feature, tfds.features.Image)

    @property
    def usable(self) -> str:
        """Name of the split that the ids number, as tfds takes it."""
        return f"train+{HELD_OUT}" if HELD_OUT in self.builder.info.splits else "train"

    @property
    def num_trainable(self) -> int | None:
        """How many of the ids may be trained on; `None` if all may."""
        splits = self.builder.info.splits
        return int(splits["train"].num_examples) if HELD_OUT in splits else None

    def split(self, split: str) -> Any:
        """The records of a split, dicts."""
        raise NotImplementedError(f"{type(self).__name__} must define `split`.")

    def has_labels(self, split: str) -> bool:
        """Whether there is such a split, with labels: tfds writes -1 where the test labels are not published."""
        return split in self.builder.info.splits and int(next(iter(self.split(split)))[self.label_key]) >= 0

    def _encoded(self) -> dict[str, Any] | None:
        import tensorflow_datasets as tfds

        return {self.input_key: tfds.decode.SkipDecoding()} if self.has_images else None


class StreamedRecords(_Records):
    """The records as `tf.data` reads them."""

    def split(self, split: str) -> Any:
        """Stream a split, a `tf.data.Dataset`."""
        import tensorflow_datasets as tfds

        config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        return self.builder.as_dataset(split=split, shuffle_files=False, read_config=config, decoders=self._encoded())

    def labels(self, split: str) -> np.ndarray:
        """The label of every record of a split."""
        labels = self.split(split).map(lambda record: record[self.label_key])
        return np.concatenate(list(labels.batch(1024).as_numpy_iterator()))


class IndexedRecords(_Records):
    """The records by their index, in the order of `StreamedRecords`; no TensorFlow is needed."""

    def split(self, split: str) -> Any:
        """The records of a split, a sequence of dicts."""
        return self.builder.as_data_source(split=split, decoders=self._encoded())

    def labels(self, split: str) -> np.ndarray:
        """The label of every record of a split."""
        records = self.split(split)
        # Many at a time, which takes a quarter of the time of one by one.
        parts = (range(i, min(i + _LABELS, len(records))) for i in range(0, len(records), _LABELS))
        return np.array([own[self.label_key] for part in parts for own in records.__getitems__(list(part))], "int64")


@functools.lru_cache(maxsize=16)
def usable_labels(records: StreamedRecords | IndexedRecords) -> np.ndarray:
    """The label of every record that is not of the test set, read once in a process; the array is read-only."""
    labels = records.labels(records.usable)
    labels.setflags(write=False)
    return labels


def prepared_builder(name: str, data_dir: str | os.PathLike[str] | None, *, indexed: bool) -> Any:
    """The builder of a classification set, downloaded and prepared.

    The files of a builder have one format, and no format serves both `tf.data` and access by index without TensorFlow.
    Indexed files that are made here therefore go to the sub-folder `array_record` of the data folder.

    Args:
        name: As in `Tfds`.
        data_dir: As in `Tfds`.
        indexed: Whether the records are to be read by index.

    Returns:
        A `tfds.core.DatasetBuilder`.

    Raises:
        ValueError: If there is no such set, or if it is not for classification.
        ImportError: If tfds is missing, or if it needs TensorFlow to prepare the set.
        ConnectionError: If the set is not prepared and cannot be downloaded.
    """
    builder = _builder(name, data_dir)
    if indexed and builder.info.file_format.value not in ("array_record", "parquet"):
        builder = _builder(name, builder.data_dir_root / "array_record", file_format="array_record")
    if not builder.is_prepared():
        _check_reachable(builder)
    try:
        _prepare(builder)
    except OSError:  # of two processes that prepare a set, one cannot move its files into place
        builder = _builder(name, builder.data_dir_root, file_format=builder.info.file_format)
        if not builder.is_prepared():
            raise
    if builder.info.supervised_keys is None:
        raise ValueError(f"`Tfds(name=...)` takes a classification set with supervised keys. Received: name={name!r}")
    return builder


def _check_reachable(builder: Any) -> None:
    """Raise at once if what a set is made of cannot be downloaded: tfds tries for seven minutes."""
    import requests  # which tfds requires

    url = next(iter(builder.url_infos or ()), "")
    folder = builder.data_dir_root
    if not url.startswith("http") or [*folder.glob("downloads/*.INFO"), *folder.glob("downloads/*/*.INFO")]:
        return
    try:
        requests.head(url, timeout=10)
    except requests.RequestException:
        host = urllib.parse.urlsplit(url).netloc
        raise ConnectionError(
            f"{builder.name!r} is not prepared in {str(folder)!r}, and {host} cannot be reached to download it. Run "
            f"`tfds build {builder.name}` on a machine with a network, and copy the folder it has made to this one, or "
            "name its place in the environment variable TFDS_DATA_DIR. One folder of images per class will do as well: "
            "`Folder(path, image_size)`."
        ) from None


def _prepare(builder: Any) -> None:
    try:
        builder.download_and_prepare()
    except ImportError as error:
        if "No module named 'tensorflow'" not in str(error):  # tfds raises it again, without its `name`
            raise
        # tfds encodes the arrays of most sets as images with TensorFlow. The offline sets hand it Pillow images.
        raise ImportError(
            f"tfds needs TensorFlow to prepare {builder.name!r}, once; to read it, it does not. On a machine with "
            f"TensorFlow, run `tfds build {builder.info.full_name.rpartition('/')[0]} --file_format=array_record "
            f"--data_dir={builder.data_dir_root}`, and copy the folder here."
        ) from None


def _builder(name: str, data_dir: str | os.PathLike[str] | None, **options: Any) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            "`Tfds` needs TensorFlow Datasets. Install it with `pip install keras_bikd[tensorflow]`, or without "
            "TensorFlow with `pip install keras_bikd[grain]`."
        ) from error

    import keras_bikd.data.sklearn_digits  # noqa: F401 (registers the set with tfds)

    if not keras.config.is_interactive_logging_enabled():
        tfds.disable_progress_bar()
    try:
        return tfds.builder(name, data_dir=data_dir, **options)
    except tfds.core.registered.DatasetNotFoundError:
        nearest = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=3)
        hint = f" Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
        raise ValueError(
            f"`load(source)` and `Tfds(name)` take the name of a tfds data set. Received: {name!r}.{hint} "
            "Images in a folder are `Folder(path, image_size)`."
        ) from None
