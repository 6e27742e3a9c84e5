"""Which samples are trained on, guide the weight network or are held out: a split, chosen from the labels alone."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
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
            held out (5,000); a class that cannot provide its count any more, as here the largest, keeps what is left.
        class_order: Which classes are large: `"index"`, where class 0 is the largest and the last class the smallest,
            or `"shuffled"`, an order that the seed decides.
        wrong_labels: Share of the training samples, at least 0 and below 1, that get the label of another class, drawn
            in proportion to the class counts (Wei et al., arXiv 2108.11569), as in images collected from the web. The
            class counts are then those of the changed labels. Meta, validation and test samples keep their labels, and
            so do meta samples that are trained on.
        confusable: Groups of names of classes that are mistaken for each other, such as `[("cat", "dog"), ("car",
            "truck")]`. A wrong label is then that of another class of the same group, the share is that of the samples
            of these classes, and the other classes keep their labels. By default, any class is mistaken for any other.
        meta_in_train: Whether to train on the meta samples as well; the class counts then include them. A number
            between 0 and 1 is the probability that a training sample is drawn from the meta set; the class counts are
            then what one pass holds on average.
        sampling: `"instance"`, where every training sample is drawn once per pass; or `"class_balanced"`, where a pass
            has the same length, every class is equally likely, and the decoded samples are kept in memory.

    Raises:
        ValueError: If an argument is none of these.

    Examples:
        >>> LongTailCut(profile="step").class_order
        'index'
    """

    profile: str = "exponential"
    head: str = "after_meta"
    class_order: str = "index"
    wrong_labels: float = 0.0
    confusable: Sequence[Sequence[str]] | None = None
    meta_in_train: bool | float = False
    sampling: str = "instance"

    def __post_init__(self) -> None:
        owner = "LongTailCut"
        checks.one_of(owner, "profile", self.profile, tuple(PROFILES))
        checks.one_of(owner, "head", self.head, ("after_meta", "full"))
        checks.one_of(owner, "class_order", self.class_order, ("index", "shuffled"))
        checks.one_of(owner, "sampling", self.sampling, ("instance", "class_balanced"))
        if self.wrong_labels != 0:
            checks.between_zero_and_one(owner, "wrong_labels", self.wrong_labels)
        if self.confusable is not None:
            # As tuples, cuts can be compared, also with those that JSON has turned into lists.
            object.__setattr__(self, "confusable", _checked_groups(owner, self.confusable, self.wrong_labels))
        is_probability = checks.is_number(self.meta_in_train) and 0 < self.meta_in_train < 1
        if not (isinstance(self.meta_in_train, bool) or is_probability):
            raise ValueError(
                f"`{owner}(meta_in_train=...)` takes True, False, or the probability between 0 and 1 that a training "
                f"sample is drawn from the meta set. Received: meta_in_train={self.meta_in_train!r}"
            )


def _checked_groups(owner: str, groups: Any, wrong_labels: float) -> tuple[tuple[str, ...], ...]:
    """Groups of two or more names, none of them named twice."""
    is_listed = isinstance(groups, Sequence) and all(isinstance(group, Sequence) for group in groups)
    names = [name for group in groups for name in group] if is_listed and not isinstance(groups, str) else []
    are_names = bool(names) and all(isinstance(name, str) for name in names)
    if not are_names or len(set(names)) < len(names) or min(map(len, groups)) < 2:
        raise ValueError(
            f"`{owner}(confusable=...)` takes groups of two or more class names, each name once, such as "
            f'`[("cat", "dog"), ("car", "truck")]`. Received: confusable={groups!r}'
        )
    if not wrong_labels:
        raise ValueError(
            f"`{owner}(confusable=...)` says which wrong labels are given, and there are none. Received: "
            f"wrong_labels={wrong_labels!r}. Pass their share as well, such as `wrong_labels=0.4`."
        )
    return tuple(tuple(group) for group in groups)


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
        labels: The label of every id, wrong labels included; integer array.
        train: Ids of the training samples. Meta samples are among them only if `cut.meta_in_train` is `True`.
        meta: Ids of the meta samples.
        validation: Ids of the validation samples; `None` if there are none.
        test: Ids of the test samples; `None` if the data set has a test split of its own.
        test_size: Number of test samples.
        class_counts: Training samples per class, integer array of shape `(num_classes,)`.
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
    class_counts: np.ndarray

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
    generator = np.random.default_rng(seed)
    pool, trainable = _pools(source, _shuffled_ids(source, generator))
    num_test, test, validation = source.test_size, None, None
    if num_test is None:
        test, pool = _take_balanced(pool, test_size, "test_size")
        num_test = len(test)
    if validation_size is not None:
        validation, pool = _take_balanced(pool, validation_size, "validation_size")
    before_meta = min(len(ids) for ids in trainable or pool)
    meta, pool = _take_balanced(pool, meta_size, "meta_size")
    train = _trained_on(trainable or pool, before_meta, imbalance_factor, cut, generator)
    labels = _partly_wrong(source, train, cut, generator)
    train, counts = _with_meta(train, meta, np.bincount(labels[train], minlength=source.num_classes), cut.meta_in_train)
    return Split(
        data_set=source.name,
        version=source.version,
        class_names=source.class_names,
        imbalance_factor=imbalance_factor,
        cut=cut,
        seed=seed,
        labels=labels,
        train=train,
        meta=meta,
        validation=validation,
        test=test,
        test_size=num_test,
        class_counts=counts,
    )


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
    """What balanced sets are taken from, and what is trained on whatever they take: nothing for most sources."""
    first = source.num_trainable
    if first is None:
        return ids_by_class, []
    return [ids[ids >= first] for ids in ids_by_class], [ids[ids < first] for ids in ids_by_class]


def _take_balanced(
    ids_by_class: list[np.ndarray], size: int | None, argument: str
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Split off `size` ids, the same number of every class."""
    num_classes = len(ids_by_class)
    smallest = min(len(ids) for ids in ids_by_class)
    per_class, odd = divmod(checks.positive_integer("load", argument, size), num_classes)
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
    """The ids of a long tail of what is left of every class."""
    sizes = np.array([len(ids) for ids in rest])
    counts = sizes if imbalance_factor is None else _long_tail(sizes, before_meta, imbalance_factor, cut, generator)
    return np.concatenate([ids[:count] for ids, count in zip(rest, counts)])


def _long_tail(
    sizes: np.ndarray, before_meta: int, imbalance_factor: float, cut: LongTailCut, generator: Generator
) -> np.ndarray:
    """How many of its `sizes` samples each class keeps; the smallest class had `before_meta` before the meta set."""
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
    return counts


def _partly_wrong(source: Source, train: np.ndarray, cut: LongTailCut, generator: Generator) -> np.ndarray:
    """The labels of all ids, a share of those of the training ids changed to other classes."""
    share = cut.wrong_labels
    if not share:
        return source.labels
    counts = np.bincount(source.labels[train], minlength=source.num_classes)
    mistaken_for = _mistaken_for(source, cut.confusable)
    labels = source.labels.copy()
    drawn_from = train[np.isin(labels[train], np.flatnonzero(mistaken_for.any(axis=1)))]
    for i in generator.choice(drawn_from, round(share * len(drawn_from)), replace=False):
        others = mistaken_for[labels[i]] * counts
        labels[i] = generator.choice(len(counts), p=others / others.sum())
    left = np.bincount(labels[train], minlength=source.num_classes)
    if left.min() < 1:
        raise ValueError(
            f"{(left < 1).sum()} of {len(left)} classes would lose their last training sample to a wrong label. "
            f"Received: wrong_labels={share!r}. Take a smaller share, a smaller imbalance factor, or another seed."
        )
    return labels


def _mistaken_for(source: Source, confusable: Sequence[Sequence[str]] | None) -> np.ndarray:
    """Whether the class of the row can be mistaken for that of the column."""
    num_classes = source.num_classes
    mistaken = np.full((num_classes, num_classes), confusable is None)
    ids = {name: label for label, name in enumerate(source.class_names)}
    if unknown := [name for group in confusable or () for name in group if name not in ids]:
        raise ValueError(
            f"`LongTailCut(confusable=...)` takes names of the {num_classes} classes of {source.name!r}, "
            f"{source.class_names[:10]}{', ...' if num_classes > 10 else ''}. Received, among others: {unknown[:10]}"
        )
    for group in confusable or ():
        members = [ids[name] for name in group]
        mistaken[np.ix_(members, members)] = True
    np.fill_diagonal(mistaken, False)
    return mistaken


def _with_meta(
    train: np.ndarray, meta: np.ndarray, counts: np.ndarray, meta_in_train: bool | float
) -> tuple[np.ndarray, np.ndarray]:
    """Training ids and class counts once the meta samples are trained on as well."""
    if meta_in_train is False:
        return train, counts
    if meta_in_train is True:
        return np.concatenate([train, meta]), counts + len(meta) // len(counts)
    shares = (1 - meta_in_train) * counts / counts.sum() + meta_in_train / len(counts)
    return train, np.maximum(np.round((counts.sum() + len(meta)) * shares).astype(int), 1)
