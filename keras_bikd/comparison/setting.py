"""A data set with its protocol, which all methods of a table share, and the cells of that table."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import keras

from keras_bikd import data as long_tailed
from keras_bikd.comparison.calls import Call, config_of, make
from keras_bikd.comparison.method import Method

EPOCHS = 10
"""Epochs of every training; the student is evaluated on the meta set after each."""

Network: TypeAlias = Callable[[Any, int], keras.Model]
"""What makes an untrained network for the shape of a sample and a number of classes, such as `Perceptron`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A data set with its protocol.

    The length of every training is given by `steps` or by `passes`, one of the two.

    Args:
        name: Name of the data set, as in `keras_bikd.data.load`.
        imbalance_factors: Largest class count over smallest; there is one table for each. `None` keeps all training
            samples, for data that are long-tailed already.
        seeds: Seeds of split, teacher and student.
        meta_size: As in `keras_bikd.data.load`.
        student: Callable `(input_shape, num_classes) -> keras.Model`, such as `Perceptron((12,))`.
        teacher: Likewise.
        test_size: As in `keras_bikd.data.load`.
        batch_size: Training samples per step, and meta samples per step.
        steps: Number of training steps.
        passes: Number of passes over the long-tailed training set.
        learning_rate: Learning rate of SGD with momentum 0.9; divided by ten after two thirds of the steps, and again
            after five sixths.
        augment: `Call` that makes the augmentation of training and meta samples, or `None`.
        alter: Function `(data, batch_size) -> data` of what `keras_bikd.data.load` returns, such as one that makes some
            labels wrong: at the top level of a module, or a frozen dataclass.
        taught: Setting in which the teacher was trained, if not in this one: on data of another imbalance or with other
            wrong labels, for longer or shorter. It has one imbalance factor, and the same test and meta samples.

    Raises:
        ValueError: If the length of a training is not given, or given twice, or if `taught` has several imbalances.

    Examples:
        >>> from keras_bikd.comparison import Perceptron
        >>> networks = {"student": Perceptron((12,)), "teacher": Perceptron((128,))}
        >>> setting = Setting(
        ...     name="sklearn_digits",
        ...     imbalance_factors=(50,),
        ...     seeds=(0,),
        ...     meta_size=100,
        ...     steps=2000,
        ...     **networks,
        ... )
        >>> setting.config()["student"]["arguments"]
        {'units': [12], 'l2': 0.00025}
    """

    name: str
    imbalance_factors: tuple[float | None, ...]
    seeds: tuple[int, ...]
    meta_size: int
    student: Network
    teacher: Network
    test_size: int | None = None
    batch_size: int = 64
    steps: int | None = None
    passes: int | None = None
    learning_rate: float = 0.1
    augment: Call | None = None
    alter: Callable[[long_tailed.LongTailedData, tuple[int, int]], long_tailed.LongTailedData] | None = None
    taught: "Setting | None" = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.passes is None):
            raise ValueError(
                f"`Setting` takes `steps` or `passes`, one of the two. Received: steps={self.steps!r} and "
                f"passes={self.passes!r}"
            )
        if self.taught is not None and len(self.taught.imbalance_factors) != 1:
            raise ValueError(
                "`Setting(taught=...)` takes the setting of a single table. Received: a setting with "
                f"imbalance_factors={self.taught.imbalance_factors!r}"
            )

    def config(self) -> dict[str, Any]:
        """Describe what a result depends on; the other imbalance factors and seeds of a comparison are left out."""
        shared = [field.name for field in dataclasses.fields(self) if field.name not in ("imbalance_factors", "seeds")]
        return config_of({name: getattr(self, name) for name in shared})


class Cell(NamedTuple):
    """One training: a setting, an imbalance, a method and a seed.

    Attributes:
        setting: Name of the setting.
        imbalance_factor: Largest class count over smallest; `None` where all training samples are kept.
        method: Name of the method.
        seed: Seed of split, teacher and student.
        quick: Whether to take a hundredth of the steps, to see that everything runs.

    Examples:
        >>> Cell("glyphs/h", 100.0, "BiKD, k=1", 0).path("runs").as_posix()
        'runs/glyphs_h_100/BiKD__k_1_0.json'
    """

    setting: str
    imbalance_factor: float | None
    method: str
    seed: int
    quick: bool = False

    def folder(self, folder: str | pathlib.Path) -> pathlib.Path:
        """Return the folder of all cells of the same table and of their teachers."""
        counts = "natural" if self.imbalance_factor is None else f"{self.imbalance_factor:g}"
        return pathlib.Path(folder) / f"{self.setting.replace('/', '_')}_{counts}"

    def path(self, folder: str | pathlib.Path) -> pathlib.Path:
        """Return the file of this cell."""
        name = "".join(c if c.isalnum() else "_" for c in self.method)
        return self.folder(folder) / f"{name}_{self.seed}{'_quick' if self.quick else ''}.json"

    def config(self, setting: Setting, method: Method) -> dict[str, Any]:
        """Describe all that a result of this cell depends on. A stored row counts only if it has the same description.

        Args:
            setting: What the name of the setting stands for.
            method: What the name of the method stands for.

        Returns:
            What JSON can hold.
        """
        own = {"imbalance_factor": self.imbalance_factor, "seed": self.seed, "quick": self.quick}
        return config_of(own | {"setting": setting.config(), "method": method})


def counts_name(imbalance_factor: float | None) -> str:
    """Say in words how long-tailed the data of a table are.

    Args:
        imbalance_factor: As in `Cell`.

    Examples:
        >>> counts_name(50.0), counts_name(None)
        ('imbalance 50', 'natural counts')
    """
    return "natural counts" if imbalance_factor is None else f"imbalance {imbalance_factor:g}"


Lookup: TypeAlias = Callable[[Cell], tuple[Setting, Method]]
"""Returns what the names in a cell stand for."""


def load_data(
    setting: Setting,
    cell: Cell,
    *,
    sampling: str = "instance",
    meta_in_train: bool | float = False,
    augmented: bool = True,
    meta_share: float = 1.0,
) -> long_tailed.LongTailedData:
    """Load the data of a cell. Sets the global seed.

    Args:
        setting: The `Setting`.
        cell: The `Cell`.
        sampling: As in `keras_bikd.data.load`.
        meta_in_train: As in `keras_bikd.data.load`.
        augmented: Whether training and meta samples are augmented.
        meta_share: Size of a meta batch, as a share of `setting.batch_size`.
    """
    # The order of a tf.data pipeline depends on the global seed as well, at the time when it is made.
    keras.utils.set_random_seed(cell.seed)
    batch_size = (setting.batch_size, max(round(meta_share * setting.batch_size), 1))
    data = long_tailed.load(
        setting.name,
        cell.imbalance_factor,
        meta_size=setting.meta_size,
        test_size=setting.test_size,
        batch_size=batch_size,
        seed=cell.seed,
        augment=make(setting.augment) if augmented else None,
        cut=long_tailed.LongTailCut(meta_in_train=meta_in_train, sampling=sampling),
    )
    return data if setting.alter is None else setting.alter(data, batch_size)


def steps_of(setting: Setting, data: long_tailed.LongTailedData, cell: Cell, budget: float = 1) -> int:
    """Number of training steps, the same for every method of a cell with the same budget: a multiple of `EPOCHS`.

    Args:
        setting: The `Setting`.
        data: Training samples, of which there may be `passes`.
        cell: The `Cell`.
        budget: As in `Method`.
    """
    merged = data.split.cut.meta_in_train is not False
    samples = data.class_counts.sum() - (setting.meta_size if merged else 0)
    steps = setting.steps or int(setting.passes * -(-samples // setting.batch_size))
    if cell.quick:
        steps //= 100
    return max(round(max(steps // EPOCHS, 1) * budget), 1) * EPOCHS


def network(builder: Network, data: long_tailed.LongTailedData) -> keras.Model:
    """Make an untrained network for the samples and classes of `data`."""
    return builder(data.sample_shape, data.num_classes)


def sgd(learning_rate: float, steps: int) -> keras.optimizers.Optimizer:
    """SGD with momentum, its rate divided by ten after two thirds of the steps, and again after five sixths."""
    rates = [learning_rate, learning_rate / 10, learning_rate / 100]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([steps * 4 // 6, steps * 5 // 6], rates)
    return keras.optimizers.SGD(schedule, momentum=0.9)
