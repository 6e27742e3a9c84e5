"""The data of a comparison: samples by position, batches of them, and rounds of what trains, guides and judges."""

import dataclasses
import hashlib
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, cast

import keras
import numpy as np
from keras import tree

from keras_bikd.batches.adapters import batches, check_arrays, is_dataset
from keras_bikd.data import Arrays, Folder, LongTailedData, Tfds
from keras_bikd.losses import class_ids
from keras_bikd.types import Batch

Augmentation: TypeAlias = Callable[[Any, Any], Any]
"""Function `(inputs, seed) -> inputs` of a batch, such as `keras_bikd.data.pad_crop_flip()`."""

META_PER_CLASS = 10
"""Meta samples of every class. One already guides nearly as well as ten (results, "Studies")."""


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """What `compare` needs, made from data as users have them: a folder of images, a table, a set of tfds.

    Attributes:
        samples: The samples to train on, for `compare(data=...)`.
        student: Function that makes an untrained student.
        teacher: Function that makes an untrained teacher.
        like: Function from a path to `Samples` with the same classes and columns, for `compare(validation_data=...)`,
            `test_data` and `meta_data`.
        augment: For `Protocol(augment=...)`.
        test: Test samples that came with the data, or `None`.
    """

    samples: Samples
    student: Callable[[], keras.Model]
    teacher: Callable[[], keras.Model]
    like: Callable[[str | os.PathLike[str]], Samples]
    augment: Augmentation | None = None
    test: Samples | None = None


def with_classes(samples: Samples, class_names: Sequence[str], where: str) -> Samples:
    """The same samples with their classes numbered as in `class_names`, of which some may be missing.

    Raises:
        ValueError: If a class is not among them; `where` says of what.

    Examples:
        >>> samples = Samples(
        ...     np.arange(3).__getitem__, np.array([0, 0, 1]), ["cat", "fox"]
        ... )
        >>> with_classes(samples, ["cat", "dog", "fox"], "animals").labels.tolist()
        [0, 0, 2]
    """
    if unknown := [name for name in samples.class_names if name not in class_names]:
        raise ValueError(
            f"{where!r} has classes that the training data lack: {', '.join(unknown[:10])}. The training data have "
            f"{', '.join(class_names[:10])}{', ...' if len(class_names) > 10 else ''}."
        )
    places = np.array([class_names.index(name) for name in samples.class_names], int)
    return Samples(
        samples.inputs,
        places[samples.labels],
        class_names,
        names=samples.names,
        content=samples.sha256.encode(),
        export=samples.export,
    )


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

    @property
    def sha256(self) -> str:
        """What tells these samples from others, in this order."""
        return hashlib.sha256(self.samples.sha256.encode() + self.ids.astype("<i8").tobytes()).hexdigest()

    def together(self, other: "Subset") -> "Subset":
        """Both subsets as one."""
        if other.samples is self.samples:
            return Subset(self.samples, np.concatenate([self.ids, other.ids]))
        return Subset(_joined(self.samples, other.samples), np.concatenate([self.ids, other.ids + len(self.samples)]))


def _joined(first: Samples, second: Samples) -> Samples:
    """Two sets of samples as one; the ids of the second continue those of the first."""

    def inputs(ids: np.ndarray) -> Any:
        is_second = ids >= len(first)
        parts = (first, ids[~is_second]), (second, ids[is_second] - len(first))
        read = [samples.inputs(own) for samples, own in parts if len(own)]
        # Where each sample of the batch stands in the two parts, one after the other.
        places = np.argsort(np.argsort(is_second, kind="stable"))
        return tree.map_structure(lambda *arrays: np.concatenate(arrays)[places], *read)

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
        self.order = np.arange(size)
        if steps is not None:
            random, passes = np.random.default_rng(seed), math.ceil(steps * batch_size / size)
            self.order = np.concatenate([random.permutation(size) for _ in range(passes)])[: steps * batch_size]

    def __len__(self) -> int:
        return math.ceil(len(self.order) / self.batch_size)

    def __getitem__(self, index: int) -> Batch:
        chosen = self._chosen(index)
        inputs, labels = self.subset.samples.inputs(chosen), self.subset.samples.labels[chosen]
        if self.augment is not None:
            inputs = keras.ops.convert_to_numpy(self.augment(inputs, np.array([self.seed, index])))
        return tree.map_structure(_readable, inputs), labels

    def filled(self, index: int) -> Any:
        """Inputs of a batch that is never smaller than the others: the last one repeats its samples."""
        chosen = np.resize(self._chosen(index), self.batch_size)
        return tree.map_structure(_readable, self.subset.samples.inputs(chosen))

    def _chosen(self, index: int) -> np.ndarray:
        return self.subset.ids[self.order[index * self.batch_size : (index + 1) * self.batch_size]]


def _readable(array: Any) -> Any:
    """An array that Keras reads from a `PyDataset`; strings, which it does not, as a tensor."""
    is_text = isinstance(array, np.ndarray) and array.dtype == object
    return keras.ops.convert_to_tensor(array, dtype="string") if is_text else array


@dataclasses.dataclass(frozen=True)
class Round:
    """What one round of trainings is trained on, guided by and judged by.

    Attributes:
        seed: Seed of the trainings.
        train: Training samples.
        meta: Class-balanced samples that guide the weight network; those of small classes are repeated.
        validation: Samples that no student of the round is trained on. A class of a single sample has none.
        test: Samples that are looked at once, after each training, and that choose nothing; or `None`.
        checked: The meta samples that were given. `None` if `meta` was drawn from `train`: rare classes can spare none.
        teachers: Name to a trained teacher with the class counts of its training, `(model, class_counts)`, or to a
            function that trains one; see `keras_bikd.comparison.training.train_teacher`. Methods use `"teacher"`.
    """

    seed: int
    train: Subset
    meta: Subset
    validation: Subset
    test: Subset | None = None
    checked: Subset | None = None
    teachers: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def trained_on(self, meta_in_train: bool | float) -> Subset:
        """The training samples of a method.

        Args:
            meta_in_train: Whether it trains on the checked meta samples as well; a number between 0 and 1 is their
                share of what it sees.
        """
        if self.checked is None or meta_in_train is False:
            return self.train
        more = self.checked
        if meta_in_train is not True:
            wanted = round(meta_in_train / (1 - meta_in_train) * len(self.train.ids))
            more = Subset(more.samples, np.resize(more.ids, wanted))
        return self.train.together(more)

    def hashes(self) -> dict[str, str | None]:
        """What tells the samples of this round from others."""
        return _hashes(self, ("train", "meta", "validation", "test", "checked"))


def _hashes(record: Any, names: Sequence[str]) -> dict[str, str | None]:
    parts = {name: getattr(record, name) for name in names}
    return {name: None if part is None else part.sha256[:16] for name, part in parts.items()}


class Given(NamedTuple):
    """The samples that a comparison was given.

    Attributes:
        train: All that may be trained on.
        validation: Validation samples, or `None`.
        meta: Meta samples, or `None`.
        test: Test samples, or `None`.
    """

    train: Samples
    validation: Subset | None
    meta: Subset | None
    test: Subset | None

    def hashes(self) -> dict[str, str | None]:
        """What tells these data from others."""
        return _hashes(self, self._fields)

    def rounds(self, seeds: Sequence[int], share: float, teachers: Mapping[str, Any]) -> dict[int, Round]:
        """A round for every seed, each with another part of the training samples held out.

        Args:
            seeds: Seeds of the trainings.
            share: Share of each class that is held out, if there are no validation samples.
            teachers: As in `Round`.
        """
        return {
            seed: hold_out(self, min(seeds), seed=seed, fold=fold, share=share, teachers=teachers)
            for fold, seed in enumerate(seeds)
        }


def hold_out(
    given: Given,
    seed_of_folds: int = 0,
    *,
    seed: int = 0,
    fold: int = 0,
    share: float = 0.2,
    teachers: Mapping[str, Any] | None = None,
) -> Round:
    """Choose the samples of one round.

    The folds take turns: with a share of a fifth, five folds hold out every sample once. From each class a fold holds
    out its share, at least one sample where there are two.

    Args:
        given: The samples.
        seed_of_folds: Seed of the choice; the same for all folds.
        seed: Seed of the trainings.
        fold: Which part is held out.
        share: Share of each class that is held out, if no validation samples are given.
        teachers: As in `Round`.

    Returns:
        A `Round`.

    Examples:
        >>> labels = np.repeat([0, 1, 2], [10, 3, 1])
        >>> samples = Samples(np.arange(14).__getitem__, labels, ["a", "b", "c"])
        >>> one = hold_out(Given(samples, None, None, None))
        >>> one.validation.class_counts.tolist(), one.train.class_counts.tolist()
        ([2, 1, 0], [8, 2, 1])
        >>> one.meta.class_counts.tolist()
        [10, 10, 10]
    """
    train, validation = given.train.all(), given.validation
    if validation is None:
        held_out = _held_out(given.train, np.random.default_rng(seed_of_folds), fold, round(1 / share))
        train = Subset(given.train, np.flatnonzero(~held_out))
        validation = Subset(given.train, np.flatnonzero(held_out))
    drawn = balanced(train if given.meta is None else given.meta, np.random.default_rng([seed_of_folds, fold]))
    return Round(seed, train, drawn, validation, test=given.test, checked=given.meta, teachers=teachers or {})


def _held_out(samples: Samples, random: np.random.Generator, fold: int, folds: int) -> np.ndarray:
    """Whether each sample is held out."""
    chosen = np.zeros(len(samples), bool)
    for label in range(len(samples.class_names)):
        own = random.permutation(np.flatnonzero(samples.labels == label))
        if len(own) > 1:
            parts = min(folds, len(own))
            chosen[own[fold % parts :: parts]] = True
    return chosen


def balanced(subset: Subset, random: np.random.Generator) -> Subset:
    """`META_PER_CLASS` samples of every class, none twice before all of its class were taken."""
    chosen = []
    for label in range(len(subset.samples.class_names)):
        own = subset.ids[subset.labels == label]
        if len(own):
            passes = -(-META_PER_CLASS // len(own))
            chosen.append(np.concatenate([random.permutation(own) for _ in range(passes)])[:META_PER_CLASS])
    return Subset(subset.samples, np.concatenate(chosen))


def read_data(data: Any, validation_data: Any = None, meta_data: Any = None, test_data: Any = None) -> Given:
    """Read and check the data of `compare`, which has the same arguments.

    Raises:
        ValueError: If a class is empty, there are fewer than two, or the classes differ.
    """
    train, held = samples_of("training", data), dict[str, Subset]()
    if isinstance(data, LongTailedData):
        split, source = data.split, cast(Any, data.source)
        ids = {"meta": split.meta, "validation": split.validation, "test": split.test}
        rows = {role: source.rows(own, split.labels) for role, own in ids.items() if own is not None}
        if "test" not in rows:
            rows["test"] = source.test_rows()
        held = {role: of_rows(source, own).all() for role, own in rows.items()}
    for role, part in {"validation": validation_data, "meta": meta_data, "test": test_data}.items():
        if part is not None:
            held[role] = samples_of(role, part, train.class_names).all()
    given = Given(train, *(held.get(role) for role in ("validation", "meta", "test")))
    _check_classes(given)
    return given


def _check_classes(given: Given) -> None:
    train, counts = given.train, given.train.class_counts
    if len(counts) < 2:
        raise ValueError(f"The training data need at least two classes. Received: class counts {counts.tolist()}")
    if empty := [name for name, count in zip(train.class_names, counts) if not count]:
        raise ValueError(f"The training data have no sample of {', '.join(empty[:10])}. Leave these classes out.")
    for role in ("validation", "meta", "test"):
        part = getattr(given, role)
        if part is not None and part.samples.class_names != train.class_names:
            raise ValueError(
                f"The {role} data must have the classes of the training data, {train.class_names}. "
                f"Received: {part.samples.class_names}"
            )


def samples_of(role: str, data: Any, class_names: Sequence[str] | None = None) -> Samples:
    """Read what `compare` was given as samples by position.

    Args:
        role: Role of the data, for the messages.
        data: `Samples`, a source of `keras_bikd.data` (`Folder`, `Arrays`, `Tfds`), arrays `(x, y)`, or a data set of
            batches `(x, y)` of any kind that `fit` takes, which is read into memory.
        class_names: Names of the classes of arrays and batches, unless they have more; by default the class ids.

    Returns:
        The `Samples`.

    Raises:
        ValueError: If `data` is of none of these kinds.
    """
    if isinstance(data, Samples):
        return data
    if isinstance(data, LongTailedData):
        return of_rows(data.source, data.source.rows(data.split.train, data.split.labels))
    if isinstance(data, (Arrays, Folder, Tfds)):
        trainable = len(data.labels) if data.num_trainable is None else data.num_trainable
        return of_rows(data, data.rows(np.arange(trainable), data.labels))
    x, y = _arrays(role, data)
    num_classes = y.shape[-1] if y.ndim == 2 and y.shape[-1] > 1 else int(np.max(y)) + 1
    labels = keras.ops.convert_to_numpy(class_ids(y, num_classes)).astype(int)
    names = class_names if class_names and num_classes <= len(class_names) else list(map(str, range(num_classes)))
    plain = [part.astype("U") if part.dtype == object else part for part in tree.flatten(x)]
    content = b"".join(np.ascontiguousarray(part).tobytes() for part in plain)
    return Samples(lambda ids: tree.map_structure(lambda part: part[ids], x), labels, names, content=content)


def _arrays(role: str, data: Any) -> tuple[Any, np.ndarray]:
    """Inputs and labels as NumPy arrays."""
    if is_dataset(data):
        batches_read = list(batches(data))
        if not batches_read:
            raise ValueError(f"The {role} data are an empty data set.")
        columns = list(zip(*batches_read))[:2]
        x, y = (tree.map_structure(lambda *parts: np.concatenate(parts), *part) for part in columns)
        return x, np.asarray(y)
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise ValueError(
            f"The {role} data are arrays (x, y), a data set of batches (x, y), or a source such as "
            f"`keras_bikd.data.Folder(path, image_size)`. Received: an object of type {type(data).__name__}"
        )
    x, y = check_arrays(f"{role}_data", tuple(data))
    return tree.map_structure(np.asarray, x), np.asarray(y)


def of_rows(source: Any, rows: Any) -> Samples:
    """Samples of a source of `keras_bikd.data`, by their position in `rows`."""

    def inputs(positions: np.ndarray) -> np.ndarray:
        images = np.stack([rows[int(position)][0] for position in positions])
        return images.astype("float32") / 255 if images.dtype == "uint8" else images

    names, content = rows.ids, f"{source.name} {source.version} {rows.ids.tolist()}"
    if isinstance(source, Folder):
        names = source.files[rows.ids]
        content = " ".join(hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest() for file in names)
    elif isinstance(source, Arrays):
        content = hashlib.sha256(np.ascontiguousarray(source.x[rows.ids]).tobytes()).hexdigest()
    content = f"{source.sample_shape} {content}"
    return Samples(inputs, rows.labels[rows.ids], source.class_names, names=names, content=content.encode())
