"""Long-tailed training data, with a balanced meta set and a balanced test set."""

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_bikd import checks
from keras_bikd.data.augment import Augmentation, Augmentations
from keras_bikd.data.installed import has_tensorflow
from keras_bikd.data.sources import Source, Tfds
from keras_bikd.data.split import LongTailCut, Split, make_split
from keras_bikd.keras_private import is_tf_dataset


@dataclasses.dataclass(frozen=True, eq=False)
class LongTailedData:
    """What `load` returns.

    The sets are `tf.data.Dataset`s where TensorFlow is installed, and Grain data sets where it is not; the samples
    in them are the same.

    Attributes:
        train: Long-tailed data set of batches `(samples, labels)`, in another order on every pass.
        meta: Balanced set for the weight network. It shares no sample with the test set, and none with the training
            set unless `LongTailCut(meta_in_train=...)` says so.
        validation: Balanced set for choosing, in fixed order, never augmented; `None` unless it was asked for.
        test: Test set, in fixed order, never augmented.
        class_counts: Training samples per class, integer array of shape `(num_classes,)`.
        class_names: Names of the classes, a list of strings.
        split: The `Split` that all this was made from.
        source: Where the samples come from. `source.rows(split.train, split.labels)` finds them by position, for
            loaders of your own.
        augment: The functions for training and meta samples, each perhaps `None`.
    """

    train: Any
    meta: Any
    validation: Any
    test: Any
    class_counts: np.ndarray
    class_names: list[str]
    split: Split
    source: Source
    augment: tuple[Augmentation | None, Augmentation | None]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of a sample: of an image, of a text in tokens, or of a row of a table."""
        return tuple(self.source.image_shape)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_counts)

    @property
    def manifest(self) -> dict[str, Any]:
        """Where the split came from, as a dict that JSON can hold; see `save_manifest`."""
        return self.split.manifest

    def __str__(self) -> str:
        split, counts = self.split, self.class_counts
        also = " (also trained on)" if split.cut.meta_in_train else ""
        return (
            f"{split.data_set} {split.version}: {counts.sum()} training samples in {self.num_classes} classes of "
            f"{counts.max()} to {counts.min()}, {len(split.meta)} meta samples{also}, {split.test_size} test samples"
        )


def load(
    source: str | Source,
    imbalance_factor: float | None = None,
    *,
    meta_size: int,
    validation_size: int | None = None,
    test_size: int | None = None,
    batch_size: int | tuple[int, int] = 100,
    seed: int = 0,
    augment: Augmentations = None,
    cut: LongTailCut = LongTailCut(),  # noqa: B008 (frozen)
) -> LongTailedData:
    """Load a data set and cut it to a long tail, next to balanced meta, validation and test sets.

    The balanced sets are held out first. Then class `c` of `C` keeps `n_max * imbalance_factor ** (-c / (C - 1))`
    samples, where `n_max` is what the smallest class has left; `cut` changes this rule. Images come as float32 in 0..1,
    all other samples as they are.

    The same seed gives the same split, and a larger factor gives a subset of the training samples of a smaller one. The
    order of the batches depends on TensorFlow's global seed too, so call `keras.utils.set_random_seed` first. Every
    pass over `train` has its own order, and an endless stream (`train.repeat()`) reads ahead. To train a second time on
    the same batches, set the seed and load again.

    Without TensorFlow the sets are Grain's, with the same samples and another order, which depends on `seed` alone.

    Args:
        source: Name of a tfds data set, such as `"cifar100"`, `"sklearn_digits"` or `"python_keywords"`; or a `Tfds`,
            `Arrays` or `Folder`.
        imbalance_factor: Largest class count over smallest, at least 1. `None` keeps all training samples, for data
            that are long-tailed already (`"python_keywords"`, `"imagenet_lt"`, most folders).
        meta_size: Samples of the meta set, a multiple of the number of classes.
        validation_size: Samples of a balanced validation set, a multiple of the number of classes: for early stopping
            and for choosing hyper-parameters, which neither the meta set nor the test set is for. `None` for none.
        test_size: Samples of the test set, a multiple of the number of classes. Only for sources without a labelled
            test split of their own: arrays, folders and some tfds sets.
        batch_size: Samples per batch, in all sets. A pair is one number for all other sets and one for the meta set,
            of which a quarter makes a step cheaper: `(100, 25)`.
        seed: Seed of the split, of the order and of the augmentation; an integer of at least 0.
        augment: Function `(images, seed) -> images` of a batch, for the training and the meta samples, such as
            `pad_crop_flip()`. A pair is one function for each, of which either may be `None`. Without TensorFlow it is
            called for each sample, as a batch of one.
        cut: A `LongTailCut`: how the class counts fall, and how training samples are drawn.

    Returns:
        A `LongTailedData`, which is also reported in one line.

    Raises:
        ValueError: If the source is unknown, a size does not fit it, or a class would be left without a sample.

    Examples:
        >>> data = load(
        ...     "sklearn_digits", imbalance_factor=50, meta_size=100, test_size=500
        ... )
        sklearn_digits 1.0.0: 314 training samples in 10 classes of 114 to 2, ...
        >>> data.class_counts.tolist()
        [114, 73, 47, 30, 20, 12, 8, 5, 3, 2]

        >>> from keras_bikd.data import Arrays
        >>> x, y = np.zeros((300, 8, 8, 1), "uint8"), np.arange(300) % 3
        >>> data = load(Arrays(x, y), imbalance_factor=10, meta_size=30, test_size=60)
        arrays 1: 99 training samples in 3 classes of 70 to 7, ...
    """
    opened = _opened(source)
    batch_sizes = _batch_sizes(batch_size)
    seed = checks.non_negative_integer("load", "seed", seed)
    augments = _augmentations(augment)
    if not isinstance(cut, LongTailCut):
        raise ValueError(f"`load(cut=...)` takes a `LongTailCut`. Received: cut={cut!r}")
    _check_test_size(opened, test_size)
    split = make_split(
        opened,
        imbalance_factor,
        meta_size=meta_size,
        validation_size=validation_size,
        test_size=test_size,
        seed=seed,
        cut=cut,
    )
    data = _data_sets(opened, split, batch_sizes, augments)
    if keras.config.is_interactive_logging_enabled():
        print(data)
    return data


def only_classes(data: LongTailedData, classes: Sequence[int] | np.ndarray, batch_size: int) -> LongTailedData:
    """Training data of some classes alone, renumbered in the order given: what an expert learns from.

    Args:
        data: A `LongTailedData`.
        classes: Class ids, none twice.
        batch_size: Samples per batch.

    Returns:
        A `LongTailedData` with `train`, `class_counts`, `class_names` and `num_classes` of these classes; the other
        sets are unchanged.

    Raises:
        ValueError: If `classes` are not ids of classes of `data`.

    Examples:
        >>> from keras_bikd.data import Arrays
        >>> x, y = np.zeros((300, 2), "float32"), np.arange(300) % 3
        >>> data = load(
        ...     Arrays(x, y),
        ...     imbalance_factor=10,
        ...     meta_size=30,
        ...     test_size=60,
        ...     batch_size=50,
        ... )
        arrays 1: 99 training samples in 3 classes of 70 to 7, ...
        >>> part = only_classes(data, [2, 1], batch_size=50)
        >>> [
        ...     np.bincount(labels).tolist()
        ...     for _, labels in part.train.as_numpy_iterator()
        ... ]
        [[7, 22]]
    """
    chosen = list(classes)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(data.num_classes)):
        raise ValueError(
            f"`only_classes(classes=...)` takes different class ids from 0 to {data.num_classes - 1}, at least one. "
            f"Received: classes={classes!r}"
        )
    batch_size = checks.positive_integer("only_classes", "batch_size", batch_size)
    places = np.full(data.num_classes, -1)
    places[chosen] = np.arange(len(chosen))
    return dataclasses.replace(
        data,
        train=_form(is_tf_dataset(data.train)).of_classes(data, places, batch_size),
        class_counts=data.class_counts[chosen],
        class_names=[data.class_names[label] for label in chosen],
    )


def _form(tf_data: bool) -> Any:
    """The module that makes `tf.data` pipelines, or the one that makes Grain data sets."""
    return importlib.import_module(f"keras_bikd.data.{'pipeline' if tf_data else 'indexed'}")


def _opened(source: Any) -> Source:
    if isinstance(source, str):
        return Tfds(source)
    if isinstance(source, Source):
        return source
    raise ValueError(
        "`load(source=...)` takes the name of a tfds data set, `Tfds(name)`, `Arrays(x, y)` or "
        f"`Folder(path, image_size)`. Received: an object of type {type(source).__name__}"
    )


def _augmentations(augment: Any) -> tuple[Augmentation | None, Augmentation | None]:
    """The functions for the training and for the meta samples."""
    pair = augment if isinstance(augment, tuple) else (augment, augment)
    if len(pair) != 2 or not all(own is None or callable(own) for own in pair):
        raise ValueError(
            "`load(augment=...)` takes a function `(images, seed) -> images`, or a pair of them for training and meta "
            f"samples. Received: augment={augment!r}"
        )
    return pair


def _batch_sizes(batch_size: Any) -> tuple[int, int]:
    """Batch sizes of the training and of the meta set."""
    pair = batch_size if isinstance(batch_size, tuple) and len(batch_size) == 2 else (batch_size, batch_size)
    return (
        checks.positive_integer("load", "batch_size", pair[0]),
        checks.positive_integer("load", "batch_size", pair[1]),
    )


def _check_test_size(source: Source, test_size: int | None) -> None:
    if source.test_size is None and test_size is None:
        raise ValueError(
            f"{source.name!r} has no labelled test split. Say with `load(test_size=...)` how many samples to hold out."
        )
    if source.test_size is not None and test_size is not None:
        raise ValueError(
            f"{source.name!r} has a test split of its own, of {source.test_size} samples. Leave out "
            f"`load(test_size=...)`. Received: test_size={test_size!r}"
        )


def _data_sets(
    source: Source,
    split: Split,
    batch_sizes: tuple[int, int],
    augment: tuple[Augmentation | None, Augmentation | None],
) -> LongTailedData:
    form, validation = _form(has_tensorflow()), None
    batch_size, meta_batch_size = batch_sizes
    if split.validation is not None:
        validation = form.held_out(source, split, split.validation, batch_size)
    return LongTailedData(
        train=form.training(source, split, batch_size, augment[0]),
        meta=form.held_out(source, split, split.meta, meta_batch_size, seed=split.seed + 1, augment=augment[1]),
        validation=validation,
        # Of the sources, only `Tfds` may have a test split of its own.
        test=form.own_test(source, batch_size)
        if split.test is None
        else form.held_out(source, split, split.test, batch_size),
        class_counts=split.class_counts,
        class_names=split.class_names,
        split=split,
        source=source,
        augment=augment,
    )
