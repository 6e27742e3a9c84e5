"""Wrong labels for studies: a share of the training samples gets the label of another class."""

import dataclasses

import numpy as np

import keras_bikd as bikd


def with_wrong_labels(data, share, confusable=None, *, batch_size=100):
    """The same samples, some of them trained on under wrong labels, as in images collected from the web.

    A wrong label is drawn in proportion to the class counts (Wei et al., arXiv 2108.11569). The class counts of what is
    returned are those of the changed labels. Meta, validation and test samples keep their labels, and so do meta
    samples that are trained on. The version in the manifest says that labels are wrong, so that no student learns from
    a teacher of other labels.

    Args:
        data: What `keras_bikd.data.load` returned. The seed of its split decides which labels are wrong.
        share: Share of the training samples that get a wrong label, at least 0 and below 1.
        confusable: Groups of names of classes that are mistaken for each other, such as `[("cat", "dog"), ("car",
            "truck")]`. A wrong label is then that of another class of the same group, the share is that of the samples
            of these classes, and the other classes keep their labels. By default, any class is mistaken for any other.
        batch_size: As in `keras_bikd.data.load`.

    Returns:
        A `LongTailedData`.

    Raises:
        ValueError: If the share is out of range, a name is unknown, or a class would lose its last sample.
    """
    if not 0 <= share < 1:
        raise ValueError(f"`with_wrong_labels(share=...)` takes a number from 0 to below 1. Received: share={share!r}")
    if share == 0:
        return data
    groups = _checked_groups(confusable, data.class_names)
    split = data.split
    # Meta samples that are trained on stand behind the others.
    train = split.train[: -len(split.meta)] if split.cut.meta_in_train is True else split.train
    labels, counts = split.labels.copy(), np.bincount(split.labels[train], minlength=data.num_classes)
    mistaken_for = _mistaken_for(data.class_names, groups)
    drawn_from = train[np.isin(labels[train], np.flatnonzero(mistaken_for.any(axis=1)))]
    generator = _generator_after(split)
    for i in generator.choice(drawn_from, round(share * len(drawn_from)), replace=False):
        others = mistaken_for[labels[i]] * counts
        labels[i] = generator.choice(len(counts), p=others / others.sum())
    left = np.bincount(labels[train], minlength=data.num_classes)
    if left.min() < 1:
        raise ValueError(
            f"{(left < 1).sum()} of {len(left)} classes would lose their last training sample to a wrong label. "
            f"Received: share={share!r}. Take a smaller share, a smaller imbalance factor, or another seed."
        )
    among = "" if groups is None else f" among {' '.join(map('/'.join, groups))}"
    split = dataclasses.replace(split, labels=labels, version=f"{split.version}+{share:g} wrong labels{among}")
    return bikd.data.load_split(data.source, split, batch_size=batch_size, augment=data.augment)


@dataclasses.dataclass(frozen=True)
class WrongLabels:
    """`with_wrong_labels` for the settings of a comparison: a function of the data and the batch size."""

    share: float
    confusable: tuple | None = None

    def __call__(self, data, batch_size):
        return with_wrong_labels(data, self.share, self.confusable, batch_size=batch_size)


def _checked_groups(groups, class_names):
    """Groups of two or more names of classes, none of them named twice."""
    if groups is None:
        return None
    names = [name for group in groups for name in group]
    if len({*names}) < len(names) or min(map(len, groups), default=0) < 2:
        raise ValueError(
            "`with_wrong_labels(confusable=...)` takes groups of two or more class names, each name once, such as "
            f'`[("cat", "dog"), ("car", "truck")]`. Received: confusable={groups!r}'
        )
    if unknown := [name for name in names if name not in class_names]:
        raise ValueError(
            f"`with_wrong_labels(confusable=...)` takes names of the {len(class_names)} classes, {class_names[:10]}"
            f"{', ...' if len(class_names) > 10 else ''}. Received, among others: {unknown[:10]}"
        )
    return groups


def _mistaken_for(class_names, groups):
    """Whether the class of the row can be mistaken for that of the column."""
    mistaken = np.full((len(class_names), len(class_names)), groups is None)
    for group in groups or ():
        members = [class_names.index(name) for name in group]
        mistaken[np.ix_(members, members)] = True
    np.fill_diagonal(mistaken, False)
    return mistaken


def _generator_after(split):
    """The generator that has chosen a split, as far as it then was: the wrong labels do not depend on that choice."""
    generator, num_classes = np.random.default_rng(split.seed), len(split.class_names)
    for label in range(num_classes):
        generator.permutation(np.flatnonzero(split.labels == label))
    if split.imbalance_factor is not None and split.cut.class_order == "shuffled":
        generator.permutation(num_classes)
    return generator
