"""Splits: the ids of training, meta, validation and test samples, chosen from the labels alone."""

import dataclasses
import functools
import hashlib
import json
from typing import Any

import numpy as np
from numpy.random import Generator

from keras_bikd import checks
from keras_bikd.data.sources import Source
from keras_bikd.long_tail import exponential_counts, step_counts

PROFILES = {"exponential": exponential_counts, "step": step_counts}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongTailCut:
    """How the long-tailed training set is cut out of a data set, and how samples are drawn from it.

    Args:
        profile: How the class counts fall: `"exponential"` (CIFAR-LT), or `"step"`, where the second half of the
            classes is small.
        head: Size of the largest class. `"after_meta"`: what the smallest class has once the meta set is held out
            (4,900 for CIFAR-10 with 1,000 meta images, as in the paper). `"full"`: what it has before the meta set is
            removed (5,000); counts are then capped by what is left.
        class_order: Which classes are large: `"index"`, where class 0 is the largest and the last class the smallest,
            or `"shuffled"`, an order that the seed decides.
        meta_in_train: Whether to train on the meta samples as well; the class counts then include them. A number
            between 0 and 1 is the probability that a training sample is drawn from the meta set; the class counts are
            then what one pass holds on average.
        sampling: `"instance"`, where every training sample is drawn once per pass; or `"class_balanced"`, where a pass
            has the same length and as many samples of every class, give or take one. On the TensorFlow backend, the
            decoded samples are then kept in memory.

    Raises:
        ValueError: If an argument is none of these.

    Examples:
        >>> LongTailCut(profile="step").class_order
        'index'
    """

    profile: str = "exponential"
    head: str = "after_meta"
    class_order: str = "index"
    meta_in_train: bool | float = False
    sampling: str = "instance"

    def __post_init__(self) -> None:
        owner = "LongTailCut"
        checks.one_of(owner, "profile", self.profile, tuple(PROFILES))
        checks.one_of(owner, "head", self.head, ("after_meta", "full"))
        checks.one_of(owner, "class_order", self.class_order, ("index", "shuffled"))
        checks.one_of(owner, "sampling", self.sampling, ("instance", "class_balanced"))
        if not isinstance(self.meta_in_train, bool):  # but a probability
            checks.number(owner, "meta_in_train", self.meta_in_train, above=0, below=1)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """One split of a data set: what it was made from, and the ids that were chosen.

    Attributes:
        data_set: Name of the data set.
        version: Version of the data set.
        class_names: Names of the classes, a list of strings.
        imbalance_factor: As passed to `load`.
        cut: As passed to `load`.
        seed: As passed to `load`.
        labels: The label of every id, integer array.
        train: Ids of the training samples. Meta samples are among them only if `cut.meta_in_train` is `True`.
        meta: Ids of the meta samples.
        validation: Ids of the validation samples; `None` if there are none.
        test: Ids of the test samples; `None` if the data set has a test split of its own.
        test_size: Number of test samples.
    """

    data_set: str
    version: str
    class_names: list[str]
    imbalance_factor: float | None
    cut: LongTailCut
    seed: int
    labels: np.ndarray
    train: np.ndarray
    meta: np.ndarray
    validation: np.ndarray | None
    test: np.ndarray | None
    test_size: int

    @functools.cached_property
    def class_counts(self) -> np.ndarray:
        """Training samples per class, integer array of shape `(num_classes,)`: those of a pass, on average."""
        counts = np.bincount(self.labels[self.train], minlength=len(self.class_names))
        probability = self.cut.meta_in_train
        if isinstance(probability, bool):
            return counts
        shares = (1 - probability) * counts / counts.sum() + probability / len(counts)
        return np.maximum(np.round((counts.sum() + len(self.meta)) * shares).astype(int), 1)

    @functools.cached_property
    def ids_sha256(self) -> str:
        """Hash of the chosen ids, which differs between different splits."""
        digest = hashlib.sha256()
        held_out = [] if self.validation is None else [self.validation]
        for ids in (self.train, self.meta, np.zeros(0) if self.test is None else self.test, *held_out):
            digest.update(np.sort(np.asarray(ids, dtype="<i8")).tobytes() + b"|")
        return digest.hexdigest()

    @property
    def manifest(self) -> dict[str, Any]:
        """The facts without the ids, as a dict that JSON can hold."""
        cut = dataclasses.asdict(self.cut)
        drawn = {name: cut.pop(name) for name in ("meta_in_train", "sampling")}
        facts = {
            "data_set": self.data_set,
            "version": self.version,
            "imbalance_factor": self.imbalance_factor,
            "cut": cut,
            **drawn,
            "class_names": self.class_names,
            "class_counts": self.class_counts.tolist(),
            "meta_size": len(self.meta),
            "validation_size": None if self.validation is None else len(self.validation),
            "test_size": self.test_size,
            "seed": self.seed,
            "ids_sha256": self.ids_sha256,
        }
        return json.loads(json.dumps(facts, default=lambda number: number.item()))


def make_split(
    source: Source,
    imbalance_factor: float | None,
    *,
    meta_size: int,
    validation_size: int | None,
    test_size: int | None,
    seed: int,
    cut: LongTailCut,
) -> Split:
    """Choose balanced test, validation and meta sets and a long-tailed training set that share no sample.

    Args:
        source: A `Tfds`, `Arrays` or `Folder`.
        imbalance_factor: As in `load`.
        meta_size: As in `load`.
        validation_size: As in `load`.
        test_size: As in `load`; `None` if the source has a test split of its own.
        seed: Seed of the choice.
        cut: A `LongTailCut`.

    Returns:
        A `Split`.

    Raises:
        ValueError: If a size does not fit the data set, or a class would be left without a training sample.
    """
    num_test = _test_size(source, test_size)
    generator = np.random.default_rng(seed)
    pool, trainable = _pools(source, _shuffled_ids(source, generator))
    test, pool = _held_out(pool, test_size, "test_size")
    validation, pool = _held_out(pool, validation_size, "validation_size")
    before_meta = min(len(ids) for ids in trainable or pool)
    meta, pool = _take_balanced(pool, meta_size, "meta_size")
    train = _trained_on(trainable or pool, before_meta, imbalance_factor, cut, generator)
    return Split(
        data_set=source.name,
        version=source.version,
        class_names=source.class_names,
        imbalance_factor=imbalance_factor,
        cut=cut,
        seed=seed,
        labels=source.labels,
        train=np.concatenate([train, meta]) if cut.meta_in_train is True else train,
        meta=meta,
        validation=validation,
        test=test,
        test_size=num_test,
    )


def _test_size(source: Source, test_size: int | None) -> int:
    """Number of test samples, which either the source or the caller decides."""
    if source.test_size is None:
        if test_size is None:
            raise ValueError(
                f"{source.name!r} has no labelled test split. Say with `load(test_size=...)` how many samples to hold "
                "out."
            )
        return test_size
    if test_size is not None:
        raise ValueError(
            f"{source.name!r} has a test split of its own, of {source.test_size} samples. Leave out "
            f"`load(test_size=...)`. Received: test_size={test_size!r}"
        )
    return source.test_size


def _shuffled_ids(source: Source, generator: Generator) -> list[np.ndarray]:
    """The ids of every class, in random order."""
    ids = [generator.permutation(np.where(source.labels == label)[0]) for label in range(source.num_classes)]
    if empty := [label for label, own in enumerate(ids) if not len(own)]:
        raise ValueError(
            f"{len(empty)} of the {source.num_classes} classes of {source.name!r} have no sample: classes {empty[:10]}"
            f"{', ...' if len(empty) > 10 else ''}."
        )
    return ids


def _pools(source: Source, ids_by_class: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Ids per class for balanced sets, and those for training alone, which only a set with a `held_out` split has."""
    first = source.num_trainable
    if first is None:
        return ids_by_class, []
    return [ids[ids >= first] for ids in ids_by_class], [ids[ids < first] for ids in ids_by_class]


def _held_out(
    ids_by_class: list[np.ndarray], size: int | None, argument: str
) -> tuple[np.ndarray | None, list[np.ndarray]]:
    """As `_take_balanced`; no ids where no size is given."""
    return (None, ids_by_class) if size is None else _take_balanced(ids_by_class, size, argument)


def _take_balanced(
    ids_by_class: list[np.ndarray], size: int | None, argument: str
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Split off `size` ids, the same number of every class."""
    num_classes = len(ids_by_class)
    smallest = min(len(ids) for ids in ids_by_class)
    per_class, odd = divmod(checks.integer("load", argument, size), num_classes)
    if odd or per_class >= smallest:
        raise ValueError(
            f"`load({argument}=...)` takes a multiple of the number of classes ({num_classes}) that leaves samples in "
            f"every class, of which the smallest has {smallest}. Received: {argument}={size!r}"
        )
    taken = np.concatenate([ids[:per_class] for ids in ids_by_class])
    return taken, [ids[per_class:] for ids in ids_by_class]


def _trained_on(
    rest: list[np.ndarray], before_meta: int, imbalance_factor: float | None, cut: LongTailCut, generator: Generator
) -> np.ndarray:
    """Of what is left of every class, the ids that the long tail keeps.

    The smallest class had `before_meta` samples before the meta set was taken.
    """
    if imbalance_factor is None:
        return np.concatenate(rest)
    sizes = np.array([len(ids) for ids in rest])
    n_max = sizes.min() if cut.head == "after_meta" else before_meta
    counts = PROFILES[cut.profile](n_max, imbalance_factor, len(sizes))
    if cut.class_order == "shuffled":
        counts = counts[generator.permutation(len(sizes))]
    counts = np.minimum(counts, sizes)
    if counts.min() < 1:
        raise ValueError(
            f"{(counts < 1).sum()} of {len(counts)} classes would have no training sample. Received: "
            f"imbalance_factor={imbalance_factor!r}, with {counts.max()} samples of the largest class. "
            f"Take a factor of at most {counts.max()}."
        )
    return np.concatenate([ids[:count] for ids, count in zip(rest, counts)])
