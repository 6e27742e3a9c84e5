"""Class counts of long-tailed data: counts to aim for, log priors, weights, and groups of classes. Plain NumPy."""

import numpy as np

from keras_bikd import checks
from keras_bikd.types import Counts


def exponential_counts(n_max: int, imbalance_factor: float, num_classes: int) -> np.ndarray:
    """Images per class when the counts decrease exponentially from the first class to the last.

    `n_c = floor(n_max * imbalance_factor ** (-c / (num_classes - 1)))`, the rule of the paper and of CIFAR-LT.

    Args:
        n_max: Images of the largest class, class 0.
        imbalance_factor: Largest count over smallest count, at least 1; at 1 all classes are equally large.
        num_classes: Number of classes, at least 2.

    Returns:
        Integer array of shape `(num_classes,)`. A class may be left without images if the factor exceeds `n_max`.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> exponential_counts(4900, 100, 10).tolist()
        [4900, 2937, 1760, 1055, 632, 379, 227, 136, 81, 49]

    Reference: arXiv 2605.17839, section 4.1; Cui et al., arXiv 1901.05555, section 5.1.
    """
    _check_counts(imbalance_factor, num_classes)
    position = np.arange(num_classes) / (num_classes - 1)
    return _floor(n_max * (1 / imbalance_factor) ** position)


def step_counts(n_max: int, imbalance_factor: float, num_classes: int) -> np.ndarray:
    """Images per class when the first half of the classes is large and the second half small.

    Args:
        n_max: Images of each class of the first half.
        imbalance_factor: Largest count over smallest count, at least 1.
        num_classes: Number of classes, at least 2; if it is odd, there is one more small class than large ones.

    Returns:
        Integer array of shape `(num_classes,)`.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> step_counts(500, 100, 5).tolist()
        [500, 500, 5, 5, 5]

    Reference: Buda et al., arXiv 1710.05381, section 2.1; Cao et al., arXiv 1906.07413, section 4.
    """
    _check_counts(imbalance_factor, num_classes)
    small = np.arange(num_classes) >= num_classes // 2
    return np.where(small, _floor(n_max / imbalance_factor), _floor(n_max))


def class_balanced_weights(class_counts: Counts, beta: float = 0.9999) -> np.ndarray:
    """Class weights by the effective number of samples, scaled so that they sum to the number of classes.

    Args:
        class_counts: Training samples per class. A class without images counts as one.
        beta: In (0, 1); the closer to 1, the closer the weights are to inverse frequencies.

    Returns:
        Float array of shape `(num_classes,)`.

    Raises:
        ValueError: If `beta` is not in (0, 1).

    Examples:
        >>> class_balanced_weights([100, 10, 1]).round(4).tolist()
        [0.0272, 0.2704, 2.7025]

    Reference: Cui et al., arXiv 1901.05555, Eq. (8).
    """
    if not 0 < beta < 1:
        raise ValueError(f"`class_balanced_weights(beta=...)` takes a number between 0 and 1. Received: beta={beta!r}")
    effective = (1 - beta ** np.maximum(np.asarray(class_counts, dtype=float), 1)) / (1 - beta)
    return len(effective) / effective / (1 / effective).sum()


def log_priors(class_counts: Counts) -> np.ndarray:
    """Log share of each class, float array of shape `(num_classes,)`; a class without images counts as one.

    Examples:
        >>> log_priors([70, 30, 0]).round(3).tolist()
        [-0.357, -1.204, -4.605]
    """
    counts = np.asarray(class_counts, dtype=float)
    return np.log(np.maximum(counts, 1) / counts.sum())


def shot_groups(class_counts: Counts, many_above: int = 100, few_below: int = 20) -> dict[str, np.ndarray]:
    """Split the classes into many, medium and few by their training counts.

    Args:
        class_counts: Training samples per class.
        many_above: Classes with more images than this are many.
        few_below: Classes with fewer images than this are few.

    Returns:
        Dict of `"many"`, `"medium"`, `"few"` to integer arrays of class ids; a group may be empty.

    Raises:
        ValueError: If `many_above < few_below`.

    Examples:
        >>> {
        ...     name: ids.tolist()
        ...     for name, ids in shot_groups([500, 100, 20, 19]).items()
        ... }
        {'many': [0], 'medium': [1, 2], 'few': [3]}

    Reference: Liu et al., arXiv 1904.05160, section 5.1.
    """
    if many_above < few_below:
        raise ValueError(
            f"`many_above` must not be below `few_below`. Received: many_above={many_above!r}, few_below={few_below!r}"
        )
    counts = np.asarray(class_counts)
    many, few = counts > many_above, counts < few_below
    return {"many": np.where(many)[0], "medium": np.where(~many & ~few)[0], "few": np.where(few)[0]}


def class_groups(class_counts: Counts, num_groups: int = 3) -> list[np.ndarray]:
    """Split the classes into groups of (nearly) as many classes each, largest classes first: one group per LFME expert.

    The thresholds of the paper, 100 and 20 images, would leave groups empty on CIFAR-10.

    Args:
        class_counts: Training samples per class.
        num_groups: Number of groups.

    Returns:
        List of integer arrays of class ids.

    Examples:
        >>> [ids.tolist() for ids in class_groups([5, 100, 20, 50], num_groups=2)]
        [[1, 3], [2, 0]]

    Reference: Xiang et al., arXiv 2001.01536, section 3.1 ("cardinality-adjacent subsets").
    """
    order = np.argsort(-np.asarray(class_counts), kind="stable")
    return np.array_split(order, num_groups)


def _floor(counts: float | np.ndarray) -> np.ndarray:
    return np.floor(counts + 1e-9).astype(int)  # 49 * (1 / 49) is 0.9999999999999999


def _check_counts(imbalance_factor: float, num_classes: int) -> None:
    if not checks.is_number(imbalance_factor) or not imbalance_factor >= 1:
        raise ValueError(
            "`imbalance_factor` is the largest class count divided by the smallest, at least 1. "
            f"Received: imbalance_factor={imbalance_factor!r}. If this is smallest over largest, pass its inverse."
        )
    if num_classes < 2:
        raise ValueError(f"`num_classes` must be at least 2. Received: num_classes={num_classes!r}")
