"""Sources of samples: a tfds set, arrays, or a folder. Each knows its labels and gives the samples of chosen ids.

All three have the attributes `name`, `version`, `labels` (the label of every id, not to be written to), `num_classes`,
`class_names`, `sample_shape`, `test_size` (samples of a labelled test split of its own; `None` if there is none) and
`num_trainable` (ids from there on are for meta and validation sets alone; `None` if there are none). `rows(ids,
labels)` finds samples by position, without TensorFlow; `tf_pipeline` streams them in `tf.data`. Samples of uint8 are
images; all others, such as text and the rows of a table, stay as they are.
"""

import functools
import io
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_bikd.data.image_files import check_readable, checked_size, decoded, image_files, is_hidden, readable_part
from keras_bikd.data.tfds_records import IndexedRecords, StreamedRecords, prepared_builder, usable_labels

_CACHE_BYTES = 2**30  # a chosen set of at most this size is decoded once and kept in memory


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


class Tfds:
    """A classification set of TensorFlow Datasets, which is downloaded and prepared if need be.

    The ids number the records of the split `train`. A labelled split `test`, or else `validation`, is the test set. Of
    a split `held_out`, whose ids follow those of `train`, meta and validation sets are made, and of it alone.

    Inputs that are not images are left as they are, but for uint8, which becomes int32: it is not taken for an image.

    Args:
        name: Name of the set: `"cifar100"`, ...; or `"sklearn_digits"`, which needs no download.
        image_size: `(height, width)` to resize to; needed where the images differ in size.
        data_dir: Folder of the prepared sets; by default that of tfds.

    Raises:
        ValueError: If there is no such set, if it is not for classification, if its images differ in size and
            `image_size` is not given, or if it is given and they are no images.

    Examples:
        >>> Tfds("sklearn_digits").num_classes
        10
    """

    def __init__(
        self, name: str, *, image_size: Sequence[int] | None = None, data_dir: str | os.PathLike[str] | None = None
    ) -> None:
        self.image_size = None if image_size is None else checked_size("Tfds", image_size)
        self._asked = name, data_dir
        records = self.streamed if keras.backend.backend() == "tensorflow" else self.indexed
        info, shape = records.builder.info, records.feature.shape
        self.name, self.version = _name_and_version(info)
        self._check_size(shape, records.has_images)
        self.sample_shape = shape if self.image_size is None else (*self.image_size, shape[-1])
        classes = info.features[records.label_key]
        self.num_classes, self.class_names = classes.num_classes, list(classes.names)
        self.labels, self.num_trainable = usable_labels(records), records.num_trainable
        # iNaturalist and the like publish the labels of their validation split alone.
        self.test_split = next((split for split in ("test", "validation") if records.has_labels(split)), "")
        self.test_size = len(records.split(self.test_split)) if self.test_split else None

    def _check_size(self, shape: tuple[int | None, ...], has_images: bool) -> None:
        if self.image_size is not None and not has_images:
            raise ValueError(
                f"`Tfds(image_size=...)` is for images, and the inputs of {self.name!r} are none. "
                f"Received: image_size={self.image_size!r}"
            )
        if self.image_size is None and None in shape:
            hint = f" Pass `Tfds({self._asked[0]!r}, image_size=(height, width))`." if has_images else ""
            raise ValueError(
                f"The {'images' if has_images else 'inputs'} of {self.name!r} differ in size: {shape}.{hint}"
            )

    @functools.cached_property
    def streamed(self) -> StreamedRecords:
        """The records as `tf.data` reads them."""
        builder = prepared_builder(*self._asked, indexed=False)
        return StreamedRecords(builder, str(builder.data_path))

    @functools.cached_property
    def indexed(self) -> IndexedRecords:
        """The records by their index; files that can be read so are prepared if need be."""
        builder = prepared_builder(*self._asked, indexed=True)
        return IndexedRecords(builder, str(builder.data_path))

    def rows(self, ids: np.ndarray, labels: np.ndarray) -> Rows:
        """The records of `ids` by position."""
        return self._rows(self.indexed.usable, ids, labels)

    def test_rows(self) -> Rows:
        """The set's own test split by position, in its own order."""
        labels = self.indexed.labels(self.test_split)
        return self._rows(self.test_split, np.arange(len(labels)), labels)

    def _rows(self, split: str, ids: np.ndarray, labels: np.ndarray) -> Rows:
        records, key, has_images = self.indexed.split(split), self.indexed.input_key, self.indexed.has_images

        def sample(i: int) -> np.ndarray:
            if has_images:
                return decoded(io.BytesIO(records[i][key]), self.sample_shape[-1], self.image_size)
            given = np.asarray(records[i][key])
            return given.astype("int32") if given.dtype == "uint8" else given  # uint8 is for images

        return Rows(sample, ids, labels, keep=fits_in_memory(len(ids), self.sample_shape))


class Arrays:
    """Images, or the rows of a table, and their labels in memory. The ids are row numbers.

    Args:
        x: Images, rows of a table, or texts in tokens, one per sample. uint8 is taken for images, which are scaled to
            0..1; all else stays as it is, so tokens have another integer dtype, such as int32.
        y: Class ids from 0, integers of shape `(samples,)` or `(samples, 1)`.
        name: Name of the data set in the manifest.
        class_names: Names of the classes; by default their ids as strings.

    Raises:
        ValueError: If `x` and `y` do not belong together or `y` holds no class ids.

    Examples:
        >>> Arrays(np.zeros((4, 8, 8, 1), "uint8"), [0, 1, 2, 1]).class_names
        ['0', '1', '2']
    """

    def __init__(self, x: Any, y: Any, *, name: str = "arrays", class_names: Sequence[str] | None = None) -> None:
        self.x, self.labels = np.asarray(x), _class_ids(y)
        if np.shape(self.x)[:1] != self.labels.shape or not len(self.labels):
            raise ValueError(
                "`Arrays(x, y)` takes as many samples as labels, at least one of each. "
                f"Received: x of shape {np.shape(x)}, y of shape {np.shape(y)}"
            )
        names = range(self.labels.max() + 1) if class_names is None else class_names
        if np.ndim(names) != 1 or len(names) <= self.labels.max():
            raise ValueError(
                f"`Arrays(class_names=...)` takes one name for each of the {self.labels.max() + 1} classes. "
                f"Received: class_names={class_names!r}"
            )
        self.class_names = [str(own) for own in names]
        self.num_classes, self.sample_shape = len(self.class_names), self.x.shape[1:]
        self.name, self.version, self.test_size, self.num_trainable = name, "1", None, None

    def rows(self, ids: np.ndarray, labels: np.ndarray) -> Rows:
        """The rows `ids` by position."""
        return Rows(self.x.__getitem__, ids, labels, keep=True)


class Folder:
    """A folder with one sub-folder of images per class. The ids number the files in alphabetical order.

    JPEG, PNG, GIF and BMP files are read. Other files are left out, with a warning; names that begin with a dot are
    ignored. Only names and first bytes are read at first, images when they are needed.

    Args:
        path: The folder.
        image_size: `(height, width)` to resize to.
        skip_unreadable: Whether to decode all images at once, and to leave out those that cannot be decoded to the end,
            such as JPEG files that were cut off, and class folders without images, with a warning that names them.

    Raises:
        ValueError: If there are fewer than two classes; or, unless they are skipped, a class without images or files
            that are not images although their names say so.

    Examples:
        >>> import keras, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp(), "pets")
        >>> for name, count in (("cat", 3), ("dog", 2)):
        ...     (folder / name).mkdir(parents=True)
        ...     for i in range(count):
        ...         keras.utils.save_img(
        ...             folder / name / f"{i}.png", np.full((9, 9, 3), i)
        ...         )
        >>> Folder(folder, image_size=(8, 8)).class_names
        ['cat', 'dog']
    """

    def __init__(
        self, path: str | os.PathLike[str], image_size: Sequence[int], *, skip_unreadable: bool = False
    ) -> None:
        path, self.image_size = pathlib.Path(path), checked_size("Folder", image_size)
        if not path.is_dir():
            raise ValueError(f"`Folder(path=...)` takes a folder that exists. Received: path={str(path)!r}")
        self.class_names = sorted(own.name for own in path.iterdir() if own.is_dir() and not is_hidden(own.name))
        self.files = image_files(path, self.class_names)
        if skip_unreadable:
            self.files, self.class_names = readable_part(path, self.files, self.class_names)
        if len(self.class_names) < 2:
            raise ValueError(
                "`Folder(path=...)` takes a folder with one sub-folder per class, at least two. Received: "
                f"{self.class_names} in path={str(path)!r}"
            )
        check_readable(self.files)
        index = {name: label for label, name in enumerate(self.class_names)}
        self.labels = np.array([index[pathlib.Path(file).relative_to(path).parts[0]] for file in self.files])
        self.labels.setflags(write=False)
        if empty := [name for name, label in index.items() if label not in self.labels]:
            raise ValueError(
                f"`Folder(path=...)` found no JPEG, PNG, GIF or BMP image of {empty}. Received: path={str(path)!r}"
            )
        self.num_classes, self.sample_shape = len(self.class_names), (*self.image_size, 3)
        self.name, self.version, self.test_size, self.num_trainable = path.absolute().name, "1", None, None

    def rows(self, ids: np.ndarray, labels: np.ndarray) -> Rows:
        """The files `ids` by position."""

        def image(i: int) -> np.ndarray:
            try:
                return decoded(self.files[i], 3, self.image_size)
            except Exception as error:  # Pillow's decoders raise many kinds
                raise ValueError(
                    f"The image {self.files[i]!r} cannot be decoded: {error}. Remove or replace it, or pass "
                    "`Folder(skip_unreadable=True)`."
                ) from error

        return Rows(image, ids, labels, keep=fits_in_memory(len(ids), self.sample_shape))


def _name_and_version(info: Any) -> tuple[str, str]:
    """Name and version of a tfds set; with the hash of its content if its metadata have one."""
    name, version = info.full_name.rsplit("/", 1)
    digest = (info.metadata or {}).get("sha256")
    return name, version if digest is None else f"{version}+{digest[:12]}"


def _class_ids(y: Any) -> np.ndarray:
    """Class ids as a read-only integer array of shape `(samples,)`."""
    given = np.asarray(y)
    flat = given.reshape(-1)
    if given.shape[1:] not in ((), (1,)) or given.dtype.kind not in "biuf":
        raise ValueError(
            "`Arrays(y=...)` takes class ids, integers of shape (samples,) or (samples, 1). "
            f"Received: y of shape {given.shape} and dtype {given.dtype}"
        )
    if len(flat) and (flat.min() < 0 or (flat % 1).any()):
        raise ValueError(
            f"`Arrays(y=...)` takes class ids, integers from 0. Received: y from {flat.min()} to {flat.max()}"
        )
    ids = flat.astype("int64")
    ids.setflags(write=False)
    return ids


Source: TypeAlias = Tfds | Arrays | Folder
"""Any of the three."""
