"""The data of a comparison by position: any sample can be trained on, guide, or be held out."""

import hashlib
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
from keras import tree

from keras_bikd.batches.adapters import batches, check_arrays, is_dataset
from keras_bikd.losses import class_ids
from keras_bikd.types import Batch

Augmentation: TypeAlias = Callable[[Any, Any], Any]
"""Function `(inputs, seed) -> inputs` of a batch, such as `keras_bikd.data.pad_crop_flip()`."""


class Export(NamedTuple):
    """How a student is handed to others, who have inputs as they were before they were read as samples.

    Attributes:
        wrap: Function from a student to a model that takes such inputs and outputs the student's logits.
        example: Lines of Python that make `inputs` for that model.
    """

    wrap: Callable[[keras.Model], keras.Model]
    example: str


class Samples:
    """Inputs and labels that can be read by position.

    Args:
        inputs: Function from an integer array of ids to a batch of inputs.
        labels: Class of every id, integer array.
        class_names: Names of the classes.
        names: Name of every id, such as a file, for lists of samples; by default the ids.
        content: What the inputs are, as bytes for a hash: other bytes are other data.
        export: How a student of these samples is handed to others, an `Export`; by default as it is.

    Examples:
        >>> x = np.arange(6.0).reshape(3, 2)
        >>> samples = Samples(
        ...     x.__getitem__, np.array([0, 1, 0]), ["a", "b"], content=x.tobytes()
        ... )
        >>> samples.class_counts.tolist()
        [2, 1]
    """

    def __init__(
        self,
        inputs: Callable[[np.ndarray], Any],
        labels: np.ndarray,
        class_names: Sequence[str],
        *,
        names: Sequence[str] | None = None,
        content: bytes = b"",
        export: Export | None = None,
    ) -> None:
        self.inputs, self.labels, self.class_names = inputs, np.asarray(labels), list(class_names)
        self.names, self.export = names, export
        self.sha256 = hashlib.sha256(content + np.asarray(self.labels, "<i8").tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def class_counts(self) -> np.ndarray:
        """Samples per class, integer array of shape `(num_classes,)`."""
        return np.bincount(self.labels, minlength=len(self.class_names))

    def name(self, position: int) -> str:
        """Name of a sample: its file, or its row."""
        return str(position) if self.names is None else str(self.names[position])

    def all(self) -> "Subset":
        """Every sample once."""
        return Subset(self, np.arange(len(self)))


class Subset(NamedTuple):
    """Chosen samples.

    Attributes:
        samples: The `Samples` they are chosen from.
        ids: Their ids, integer array; an id may be there more than once.
    """

    samples: Samples
    ids: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """Class of every chosen sample."""
        return self.samples.labels[self.ids]

    @property
    def class_counts(self) -> np.ndarray:
        """Chosen samples per class, integer array of shape `(num_classes,)`."""
        return np.bincount(self.labels, minlength=len(self.samples.class_names))

    def together(self, other: "Subset") -> "Subset":
        """Both subsets as one."""
        if other.samples is self.samples:
            return Subset(self.samples, np.concatenate([self.ids, other.ids]))
        return Subset(_joined(self.samples, other.samples), np.concatenate([self.ids, other.ids + len(self.samples)]))


def _joined(first: Samples, second: Samples) -> Samples:
    """Two sets of samples as one; the ids of the second continue those of the first."""

    def inputs(ids: np.ndarray) -> Any:
        is_first = ids < len(first)
        if is_first.all():
            return first.inputs(ids)
        if not is_first.any():
            return second.inputs(ids - len(first))
        parts = first.inputs(ids[is_first]), second.inputs(ids[~is_first] - len(first))
        # Where each sample of the batch stands in the two parts, one after the other.
        places = np.where(is_first, np.cumsum(is_first) - 1, is_first.sum() + np.cumsum(~is_first) - 1)
        return tree.map_structure(lambda *arrays: np.concatenate(arrays)[places], *parts)

    names = [first.name(i) for i in range(len(first))] + [second.name(i) for i in range(len(second))]
    content = (first.sha256 + second.sha256).encode()
    labels = np.concatenate([first.labels, second.labels])
    return Samples(inputs, labels, first.class_names, names=names, content=content)


class Batches(keras.utils.PyDataset):
    """Batches `(inputs, labels)` of a subset: all in order, or drawn pass after pass for a number of steps.

    Args:
        subset: A `Subset`.
        batch_size: Samples per batch.
        steps: Number of batches to draw, each pass over the subset in a new order. `None` for one pass in order, whose
            last batch may be smaller.
        seed: Seed of the order and of the augmentation.
        augment: Function `(inputs, seed) -> inputs` of a batch, or `None`.

    Examples:
        >>> x = np.arange(5)
        >>> subset = Samples(x.__getitem__, np.array([0, 1, 0, 1, 0]), ["a", "b"]).all()
        >>> [inputs.tolist() for inputs, _ in Batches(subset, 2)]
        [[0, 1], [2, 3], [4]]
        >>> len(Batches(subset, 2, steps=7, seed=0))
        7
    """

    def __init__(
        self,
        subset: Subset,
        batch_size: int,
        *,
        steps: int | None = None,
        seed: int = 0,
        augment: Augmentation | None = None,
    ) -> None:
        super().__init__()
        self.subset, self.batch_size, self.seed, self.augment = subset, batch_size, seed, augment
        size = len(subset.ids)
        if steps is None:
            self.order = np.arange(size)
        else:
            random, passes = np.random.default_rng(seed), -(-steps * batch_size // size)
            self.order = np.concatenate([random.permutation(size) for _ in range(passes)])[: steps * batch_size]

    def __len__(self) -> int:
        return math.ceil(len(self.order) / self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        chosen = self.subset.ids[self.order[index * self.batch_size : (index + 1) * self.batch_size]]
        inputs, labels = self.subset.samples.inputs(chosen), self.subset.samples.labels[chosen]
        if self.augment is not None:
            inputs = keras.ops.convert_to_numpy(self.augment(inputs, np.array([self.seed, index])))
        return tree.map_structure(_readable, inputs), labels

    def filled(self, index: int) -> Any:
        """Inputs of a batch that is never smaller than the others: the last one repeats its samples."""
        chosen = self.subset.ids[self.order[index * self.batch_size : (index + 1) * self.batch_size]]
        return tree.map_structure(_readable, self.subset.samples.inputs(np.resize(chosen, self.batch_size)))


def _readable(array: Any) -> Any:
    """An array that Keras reads from a `PyDataset`; strings, which it does not, as a tensor."""
    is_text = isinstance(array, np.ndarray) and array.dtype == object
    return keras.ops.convert_to_tensor(array, dtype="string") if is_text else array


def samples_of(argument: str, data: Any, class_names: Sequence[str] | None = None) -> Samples:
    """Read what `compare` was given as samples by position.

    Args:
        argument: Name of the argument, for the messages.
        data: `Samples`, a source of `keras_bikd.data` (`Folder`, `Arrays`, `Tfds`), arrays `(x, y)`, or a data set of
            batches `(x, y)` of any kind that `fit` takes, which is read into memory.
        class_names: Names of the classes; by default those of the source, or else the class ids.

    Returns:
        The `Samples`.

    Raises:
        ValueError: If `data` is of none of these kinds, or holds fewer than two classes.
    """
    if isinstance(data, Samples):
        return data
    if type(data).__module__.startswith("keras_bikd.data."):  # which imports TensorFlow or Grain
        return _of_source(data)
    x, y = _arrays(argument, data)
    num_classes = y.shape[-1] if y.ndim == 2 and y.shape[-1] > 1 else int(np.max(y)) + 1
    labels = keras.ops.convert_to_numpy(class_ids(y, num_classes)).astype(int)
    names = class_names or [str(label) for label in range(num_classes)]
    if num_classes > len(names):
        raise ValueError(
            f"`compare({argument}=...)` must have the classes of the training data, {len(names)}. "
            f"Received: labels up to {num_classes - 1}"
        )
    content = b"".join(np.ascontiguousarray(part).tobytes() for part in map(_plain, tree.flatten(x)))
    return Samples(lambda ids: tree.map_structure(lambda part: part[ids], x), labels, names, content=content)


def _plain(array: np.ndarray) -> np.ndarray:
    return array.astype("U") if array.dtype == object else array


def _arrays(argument: str, data: Any) -> tuple[Any, np.ndarray]:
    """Inputs and labels as NumPy arrays."""
    if is_dataset(data):
        read = list(batches(data))
        if not read:
            raise ValueError(f"`compare({argument}=...)` received an empty data set.")
        x, y = (tree.map_structure(lambda *parts: np.concatenate(parts), *part) for part in list(zip(*read))[:2])
        return x, np.asarray(y)
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise ValueError(
            f"`compare({argument}=...)` takes arrays (x, y), a data set of batches (x, y), or a source such as "
            f"`keras_bikd.data.Folder(path, image_size)`. Received: an object of type {type(data).__name__}"
        )
    x, y = check_arrays(f"compare({argument}=...)", tuple(data))
    return tree.map_structure(np.asarray, x), np.asarray(y)


def _of_source(source: Any) -> Samples:
    trainable = len(source.labels) if source.num_trainable is None else source.num_trainable
    return of_rows(source, source.rows(np.arange(trainable), source.labels))


def of_rows(source: Any, rows: Any) -> Samples:
    """Samples of a source of `keras_bikd.data`, by their position in `rows`."""

    def inputs(positions: np.ndarray) -> np.ndarray:
        images = np.stack([rows[int(position)][0] for position in positions])
        return images.astype("float32") / 255 if images.dtype == "uint8" else images

    files = getattr(source, "files", None)
    names = rows.ids if files is None else files[rows.ids]
    content = "\n".join([source.version, str(source.sample_shape), *_contents(source, rows.ids)])
    return Samples(inputs, rows.labels[rows.ids], source.class_names, names=names, content=content.encode())


def _contents(source: Any, ids: np.ndarray) -> list[str]:
    """What tells the chosen inputs of a source from others: hashes of files and arrays, ids in a set with a name."""
    if hasattr(source, "files"):
        return [hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest() for file in source.files[ids]]
    if hasattr(source, "x"):
        return [hashlib.sha256(np.ascontiguousarray(source.x[ids]).tobytes()).hexdigest()]
    return [source.name, *map(str, ids)]


def of_long_tailed(data: Any) -> tuple[Samples, dict[str, Subset | None]]:
    """The training samples of a `LongTailedData`, and its meta, validation and test samples by argument."""
    split, source = data.split, data.source

    def chosen(ids: np.ndarray) -> Samples:
        return of_rows(source, source.rows(ids, split.labels))

    held: dict[str, Subset | None] = {"meta_data": chosen(split.meta).all(), "validation_data": None}
    if split.validation is not None:
        held["validation_data"] = chosen(split.validation).all()
    test = of_rows(source, source.test_rows()) if split.test is None else chosen(split.test)
    return chosen(split.train), held | {"test_data": test.all()}
