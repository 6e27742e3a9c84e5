"""Where images come from: a tfds set, arrays, or a folder. Each knows its labels and streams the images of given ids.

All three have the attributes `name`, `version`, `labels` (the label of every id, not to be written to), `num_classes`,
`class_names` and `test_size` (images of a labelled test split of its own; `None` if there is none). Their method
`images(ids, labels, seed)` streams `(image, label)` with uint8 or float images; shuffling and batching follow the same
rules for all.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from keras_bikd.data.decoding import checked_size, resized, shuffled_and_decoded
from keras_bikd.data.image_files import check_readable, image_files, is_hidden
from keras_bikd.data.tfds_records import Records, prepared_builder, train_labels
from keras_bikd.types import Batch, Tensor

__all__ = ["Arrays", "Folder", "Source", "Tfds"]

_SHUFFLE_BUFFER = 20_000  # records of a tfds set that is too large to keep in memory


class Tfds:
    """A classification set of TensorFlow Datasets, which is downloaded and prepared if need be.

    The ids number the records of the split `train`. A labelled split `test`, or else `validation`, is the test set.

    Args:
        name: Name of the set (`"cifar100"`, ...), or of one that needs no download: `"sklearn_digits"`, `"glyphs/h"`,
            `"glyphs/g100"`.
        image_size: `(height, width)` to resize to; needed where the images differ in size.
        data_dir: Folder of the prepared sets; by default that of tfds.

    Raises:
        ValueError: If there is no such set, if it is not for classification, or if its images differ in size and
            `image_size` is not given.

    Examples:
        >>> Tfds("sklearn_digits").num_classes
        10
    """

    def __init__(
        self, name: str, *, image_size: Sequence[int] | None = None, data_dir: str | os.PathLike[str] | None = None
    ) -> None:
        self.image_size = None if image_size is None else checked_size("Tfds", image_size)
        builder = prepared_builder(name, data_dir)
        self._records = Records(builder, str(builder.data_path), type(builder).as_dataset)
        self._feature, labels = (builder.info.features[key] for key in builder.info.supervised_keys[:2])
        self.name, self.version = builder.info.full_name.rsplit("/", 1)
        if self.image_size is None and None in self._feature.shape:
            raise ValueError(
                f"The images of {self.name!r} differ in size: {self._feature.shape}. "
                f"Pass `Tfds({name!r}, image_size=(height, width))`."
            )
        self.num_classes, self.class_names = labels.num_classes, list(labels.names)
        self.labels = train_labels(self._records)
        # iNaturalist and the like publish the labels of their validation split alone.
        self._test_split = next((split for split in ("test", "validation") if self._records.has_labels(split)), "")
        self.test_size = len(self._records.split(self._test_split)) if self._test_split else None

    def images(self, ids: np.ndarray, labels: np.ndarray, seed: int | None) -> tf.data.Dataset:
        """Stream the records of `ids`; in random order on every pass unless `seed` is None."""
        mask = np.zeros(len(labels), dtype=bool)
        mask[ids] = True
        chosen, label_of, label_key = tf.constant(mask), tf.constant(labels), self._records.label_key
        records = self._records.split("train").enumerate().filter(lambda i, _: chosen[i])
        records = records.map(lambda i, record: {**record, label_key: label_of[i]})
        return self._stream(records.apply(tf.data.experimental.assert_cardinality(len(ids))), seed)

    def test_images(self) -> tf.data.Dataset:
        """Stream the set's own test split, in its own order."""
        return self._stream(self._records.split(self._test_split), None)

    def _stream(self, records: tf.data.Dataset, seed: int | None) -> tf.data.Dataset:
        image_key, label_key, size = self._records.image_key, self._records.label_key, self.image_size
        shape = self._feature.shape if size is None else (*size, self._feature.shape[-1])

        def decode(record: dict[str, Tensor]) -> Batch:
            image = self._feature.decode_example(record[image_key])
            return (image if size is None else resized(image, size)), record[label_key]

        return shuffled_and_decoded(records, decode, shape=shape, seed=seed, buffer=_SHUFFLE_BUFFER)


class Arrays:
    """Images, or the rows of a table, and their labels in memory. The ids are row numbers.

    Args:
        x: Images (uint8 in 0..255, or floats, which are left as they are) or rows of a table, one per sample.
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
        self.num_classes = len(self.class_names)
        self.name, self.version, self.test_size = name, "1", None

    def images(self, ids: np.ndarray, labels: np.ndarray, seed: int | None) -> tf.data.Dataset:
        """Stream the rows `ids`; in random order on every pass unless `seed` is None."""
        rows = tf.data.Dataset.from_tensor_slices((self.x[ids], labels[ids]))
        return rows if seed is None else rows.shuffle(len(ids), seed=seed)


class Folder:
    """A folder with one sub-folder of images per class. The ids number the files in alphabetical order.

    JPEG, PNG, GIF and BMP files are read. Other files are left out, with a warning; names that begin with a dot are
    ignored. Only names and first bytes are read at first, images when they are needed.

    Args:
        path: The folder.
        image_size: `(height, width)` to resize to.

    Raises:
        ValueError: If there are fewer than two classes, a class without images, or files that are not images although
            their names say so.

    Examples:
        >>> import keras, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp(), "pets")
        >>> for name, count in (("cat", 3), ("dog", 2)):
        ...     (folder / name).mkdir(parents=True)
        ...     for i in range(count):
        ...         keras.utils.save_img(folder / name / f"{i}.png", np.full((9, 9, 3), i))
        >>> Folder(folder, image_size=(8, 8)).class_names
        ['cat', 'dog']
    """

    def __init__(self, path: str | os.PathLike[str], image_size: Sequence[int]) -> None:
        path, self.image_size = pathlib.Path(path), checked_size("Folder", image_size)
        if not path.is_dir():
            raise ValueError(f"`Folder(path=...)` takes a folder that exists. Received: path={str(path)!r}")
        self.class_names = sorted(own.name for own in path.iterdir() if own.is_dir() and not is_hidden(own.name))
        if len(self.class_names) < 2:
            raise ValueError(
                "`Folder(path=...)` takes a folder with one sub-folder per class, at least two. Received: "
                f"{self.class_names} in path={str(path)!r}"
            )
        self.files = image_files(path, self.class_names)
        check_readable(self.files)
        index = {name: label for label, name in enumerate(self.class_names)}
        self.labels = np.array([index[pathlib.Path(file).relative_to(path).parts[0]] for file in self.files])
        self.labels.setflags(write=False)
        if empty := [name for name, label in index.items() if label not in self.labels]:
            raise ValueError(
                f"`Folder(path=...)` found no JPEG, PNG, GIF or BMP image of {empty}. Received: path={str(path)!r}"
            )
        self.num_classes = len(self.class_names)
        self.name, self.version, self.test_size = path.absolute().name, "1", None

    def images(self, ids: np.ndarray, labels: np.ndarray, seed: int | None) -> tf.data.Dataset:
        """Stream the files `ids`; in random order on every pass unless `seed` is None."""
        files = tf.data.Dataset.from_tensor_slices((self.files[ids], labels[ids]))

        def decode(file: Tensor, label: Tensor) -> Batch:
            image = tf.io.decode_image(tf.io.read_file(file), channels=3, expand_animations=False)
            image.set_shape((None, None, 3))
            return resized(image, self.image_size), label

        # Names are small, and stand in the order of the classes: a buffer of a part would train class after class.
        shape = (*self.image_size, 3)
        return shuffled_and_decoded(files, decode, shape=shape, seed=seed, buffer=len(ids))


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
