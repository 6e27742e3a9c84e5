"""Which images are trained on, which guide the weight network, which test: ids, chosen from labels alone."""

import dataclasses
import hashlib

import numpy as np

from keras_bikd import checks
from keras_bikd.long_tail import exponential_counts, step_counts

PROFILES = {"exponential": exponential_counts, "step": step_counts}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut:
    """How a balanced data set is cut to a long tail.

    Args:
        profile: `"exponential"` (CIFAR-LT) or `"step"` (the second half of the classes is small).
        head: Size of the largest class. `"after_meta"`: what the smallest class has left once the meta set is held
            out (CIFAR-10 with 1,000 meta images: 4,900; the paper). `"full"`: what it has before, with the meta
            images taken from those that the tail leaves over where there are any (5,000 for classes that can spare
            them; the head class then has `5,000 - meta`).
        class_order: Which class is the head: `"index"` (class 0) or `"shuffled"` by the seed.
        wrong_labels: Share of the training images that get the label of another class, drawn in proportion to the
            class counts (Wei et al., arXiv 2108.11569), as in images collected from the web. The class counts are
            those of the labels, and a class that would be left without any is an error. All other sets keep their
            labels, as do meta images that are trained on.

    Examples:
        >>> Cut(profile="step").class_order
        'index'
    """

    profile: str = "exponential"
    head: str = "after_meta"
    class_order: str = "index"
    wrong_labels: float = 0.0

    def __post_init__(self):
        checks.one_of("Cut", "profile", self.profile, tuple(PROFILES))
        checks.one_of("Cut", "head", self.head, ("after_meta", "full"))
        checks.one_of("Cut", "class_order", self.class_order, ("index", "shuffled"))
        if self.wrong_labels != 0:
            checks.between_zero_and_one("Cut", "wrong_labels", self.wrong_labels)


@dataclasses.dataclass(frozen=True)
class Split:
    """Ids of the sets, and the label of every id; `test` is `None` where there is a test split elsewhere."""

    labels: np.ndarray
    train: np.ndarray
    meta: np.ndarray
    validation: np.ndarray | None
    test: np.ndarray | None
    class_counts: np.ndarray

    def sha256(self):
        """Hash of the chosen ids, which tells two splits apart."""
        digest = hashlib.sha256()
        held_out = [] if self.validation is None else [self.validation]
        for ids in (self.train, self.meta, np.zeros(0) if self.test is None else self.test, *held_out):
            digest.update(np.sort(np.asarray(ids, dtype="<i8")).tobytes() + b"|")
        return digest.hexdigest()


def make_split(
    labels, num_classes, imbalance_factor, *, meta_size, validation_size, test_size, seed, cut, meta_in_train
):
    """Choose balanced test, validation and meta sets and a long-tailed training set that share no image.

    Args:
        labels: Integer array, the class of every id.
        num_classes: Number of classes.
        imbalance_factor: Largest class count over smallest; `None` keeps every image that is left.
        meta_size: Images of the meta set, a multiple of `num_classes`.
        validation_size: Images of the validation set, likewise; `None` for none.
        test_size: Images of the test set, likewise; `None` if there is a test split elsewhere.
        seed: Seed of the choice.
        cut: A `Cut`.
        meta_in_train: Whether the meta images are trained on as well, or with what probability an image is drawn
            from them; `train` holds them only if it is `True`.

    Returns:
        A `Split`.
    """
    generator = np.random.default_rng(seed)
    rest = [generator.permutation(np.where(labels == label)[0]) for label in range(num_classes)]
    empty = [label for label, ids in enumerate(rest) if not len(ids)]
    if empty:
        raise ValueError(f"{len(empty)} of {num_classes} classes have no image at all: classes {empty[:10]}.")
    test = None
    if test_size is not None:
        test, rest = _take_balanced(rest, test_size, "test_size")
    validation = None
    if validation_size is not None:
        validation, rest = _take_balanced(rest, validation_size, "validation_size")
    before = min(len(ids) for ids in rest)
    meta, rest = _take_balanced(rest, meta_size, "meta_size")
    counts = _long_tail(rest, before, imbalance_factor, cut, generator)
    if counts.min() < 1:
        raise ValueError(
            f"{(counts < 1).sum()} of {num_classes} classes would have no training image. Received: "
            f"imbalance_factor={imbalance_factor!r}, with {counts.max()} images of the largest class. "
            f"Take a factor of at most {counts.max()}."
        )
    train = np.concatenate([ids[:count] for ids, count in zip(rest, counts)])
    if cut.wrong_labels:
        labels, counts = _partly_wrong(labels, train, num_classes, cut.wrong_labels, generator)
    if meta_in_train is True:
        train, counts = np.concatenate([train, meta]), counts + meta_size // num_classes
    elif meta_in_train is not False:
        counts = _expected_counts(counts, meta_size, _probability(meta_in_train))
    return Split(labels, train, meta, validation, test, counts)


def _long_tail(ids_by_class, before, imbalance_factor, cut, generator):
    """How many of its ids each class keeps; `before` is what the smallest class had before the meta set was taken."""
    sizes = np.array([len(ids) for ids in ids_by_class])
    if imbalance_factor is None:
        return sizes
    n_max = sizes.min() if cut.head == "after_meta" else before
    counts = PROFILES[cut.profile](n_max, imbalance_factor, len(sizes))
    if cut.class_order == "shuffled":
        counts = counts[generator.permutation(len(sizes))]
    return np.minimum(counts, sizes)


def _partly_wrong(labels, ids, num_classes, share, generator):
    """The labels, but for a share of `ids` those of other classes; and what each class has of `ids` then."""
    counts = np.bincount(labels[ids], minlength=num_classes)
    labels = labels.copy()
    for i in generator.choice(ids, round(share * len(ids)), replace=False):
        others = np.where(np.arange(num_classes) == labels[i], 0, counts)
        labels[i] = generator.choice(num_classes, p=others / others.sum())
    counts = np.bincount(labels[ids], minlength=num_classes)
    if counts.min() < 1:
        raise ValueError(
            f"{(counts < 1).sum()} of {num_classes} classes would lose their last training image to a wrong label. "
            f"Received: wrong_labels={share!r}. Take a smaller share, a smaller imbalance factor, or another seed."
        )
    return labels, counts


def _expected_counts(counts, meta_size, probability):
    """What one pass holds of every class, when each image is drawn from the meta set with a probability."""
    shares = (1 - probability) * counts / counts.sum() + probability / len(counts)
    return np.maximum(np.round((counts.sum() + meta_size) * shares).astype(int), 1)


def _probability(meta_in_train):
    if isinstance(meta_in_train, float) and 0 < meta_in_train < 1:
        return meta_in_train
    raise ValueError(
        "`meta_in_train` is True, False, or the probability between 0 and 1 that a training image is drawn from the "
        f"meta set. Received: meta_in_train={meta_in_train!r}"
    )


def _take_balanced(ids_by_class, size, argument):
    """Split off `size` ids, the same number of every class."""
    num_classes = len(ids_by_class)
    smallest = min(len(ids) for ids in ids_by_class)
    is_integer = isinstance(size, (int, np.integer)) and not isinstance(size, bool)
    per_class, odd = divmod(size, num_classes) if is_integer else (0, 1)
    if odd or not 0 < per_class < smallest:
        raise ValueError(
            f"`{argument}` must be a multiple of the number of classes ({num_classes}) that leaves images in every "
            f"class (the smallest has {smallest}). Received: {argument}={size!r}"
        )
    taken = np.concatenate([ids[:per_class] for ids in ids_by_class])
    return taken, [ids[per_class:] for ids in ids_by_class]
