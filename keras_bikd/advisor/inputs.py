"""What `compare` needs, made from data as users have them: a folder of images, a table, a set of tfds."""

import dataclasses
import os
from collections.abc import Callable, Sequence

import numpy as np

from keras_bikd.advisor.samples import Augmentation, Samples
from keras_bikd.advisor.training import Builder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """Samples and the networks for them.

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
    student: Builder
    teacher: Builder
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
