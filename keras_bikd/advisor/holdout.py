"""Validation and meta samples of a data set whose classes are as small as they are."""

import dataclasses

import numpy as np

from keras_bikd.advisor.samples import Samples, Subset

META_PER_CLASS = 10
"""Meta samples of every class. One already guides nearly as well as ten (results, "Studies")."""


@dataclasses.dataclass(frozen=True)
class Division:
    """What one round of trainings is trained on, guided by and judged by.

    Attributes:
        train: Training samples.
        meta: Class-balanced samples that guide the weight network; those of small classes are repeated.
        validation: Samples that no student of the round is trained on. A class of a single sample has none.
        checked: The meta samples that were given. `None` if `meta` was drawn from `train`: rare classes can spare none.
    """

    train: Subset
    meta: Subset
    validation: Subset
    checked: Subset | None = None

    def trained_on(self, meta_in_train: bool | float) -> Subset:
        """The training samples of a method.

        Args:
            meta_in_train: Whether it trains on the checked meta samples as well; a number between 0 and 1 is their
                share of what it sees.
        """
        if self.checked is None or meta_in_train is False:
            return self.train
        if meta_in_train is True:
            return self.train.together(self.checked)
        wanted = round(meta_in_train / (1 - meta_in_train) * len(self.train.ids))
        return self.train.together(Subset(self.checked.samples, np.resize(self.checked.ids, wanted)))


def divide(
    train: Samples,
    seed: int,
    *,
    fold: int = 0,
    share: float = 0.2,
    meta: Subset | None = None,
    validation: Subset | None = None,
) -> Division:
    """Choose the samples of one round.

    The folds take turns: with a share of a fifth, five folds hold out every sample once. From each class a fold holds
    out its share, at least one sample where there are two.

    Args:
        train: All samples that may be trained on.
        seed: Seed of the choice; the same for all folds.
        fold: Which part is held out.
        share: Share of each class that is held out, if `validation` is not given.
        meta: Meta samples, if there are checked ones.
        validation: Validation samples, if there are some already.

    Returns:
        A `Division`.

    Examples:
        >>> labels = np.repeat([0, 1, 2], [10, 3, 1])
        >>> samples = Samples(np.arange(14).__getitem__, labels, ["a", "b", "c"])
        >>> division = divide(samples, seed=0)
        >>> (
        ...     division.validation.class_counts.tolist(),
        ...     division.train.class_counts.tolist(),
        ... )
        ([2, 1, 0], [8, 2, 1])
        >>> division.meta.class_counts.tolist()
        [10, 10, 10]
    """
    own = train.all()
    if validation is None:
        held_out = _held_out(train, np.random.default_rng(seed), fold, round(1 / share))
        own, validation = Subset(train, np.flatnonzero(~held_out)), Subset(train, np.flatnonzero(held_out))
    drawn = balanced(own if meta is None else meta, np.random.default_rng([seed, fold]))
    return Division(own, drawn, validation, checked=meta)


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
