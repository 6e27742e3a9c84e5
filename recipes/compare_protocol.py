"""The protocol of `compare.py`: settings, the rounds and teachers that they make, and one comparison per table."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import glyphs  # noqa: F401 (registers `glyphs`)
import keras
import keywords_data  # noqa: F401 (registers `python_keywords`)
import numpy as np
from wrong_labels import WrongLabels

import keras_bikd as bikd
from compare_networks import ByteConvNet, CifarResNet, Perceptron
from keras_bikd import comparison

WITH_META, BALANCED, EXPERTS = "teacher +meta", "balanced softmax teacher", "experts"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A data set with its protocol. The length of every training is given by `steps` or by `passes`, one of the two.

    Attributes:
        name: Name of the data set, as in `keras_bikd.data.load`.
        imbalance_factors: Largest class count over smallest; there is one table for each. `None` keeps all training
            samples, for data that are long-tailed already.
        seeds: Seeds of split, teacher and student.
        meta_size: As in `keras_bikd.data.load`.
        student: Function `(input_shape, num_classes) -> keras.Model`, such as `Perceptron((12,))`.
        teacher: Likewise.
        test_size: As in `keras_bikd.data.load`.
        batch_size: Training samples per step, and meta samples per step.
        steps: Number of training steps.
        passes: Number of passes over the long-tailed training set.
        learning_rate: Learning rate of SGD with momentum 0.9; divided by ten after two thirds of the steps, and again
            after five sixths.
        augment: Augmentation of training and meta samples, or `None`.
        alter: Function `(data, batch_size) -> data` of what `keras_bikd.data.load` returns, such as `WrongLabels(0.4)`.
        taught: Setting in which the teacher was trained, if not in this one: on data of another imbalance or with other
            wrong labels, for longer or shorter. It has one imbalance factor, and the same test and meta samples.
    """

    name: str
    imbalance_factors: tuple
    seeds: tuple
    meta_size: int
    student: Callable
    teacher: Callable
    test_size: int | None = None
    batch_size: int = 64
    steps: int | None = None
    passes: int | None = None
    learning_rate: float = 0.1
    augment: Callable | None = None
    alter: Callable | None = None
    taught: "Setting | None" = None

    def __post_init__(self):
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

    def load(self, imbalance_factor, seed):
        """The data of a table and a seed."""
        keras.utils.set_random_seed(seed)
        sizes = {"meta_size": self.meta_size, "test_size": self.test_size, "batch_size": self.batch_size}
        data = bikd.data.load(self.name, imbalance_factor, **sizes, seed=seed)
        return data if self.alter is None else self.alter(data, self.batch_size)

    def steps_of(self, samples, quick):
        """Number of training steps, the same for every method: a multiple of ten."""
        steps = self.steps or int(self.passes * -(-samples // self.batch_size))
        return max((steps // 100 if quick else steps) // 10, 1) * 10


@dataclasses.dataclass(frozen=True)
class Sgd:
    """SGD with momentum, its rate divided by ten after two thirds of the steps, and again after five sixths."""

    learning_rate: float

    def __call__(self, steps):
        rates = [self.learning_rate, self.learning_rate / 10, self.learning_rate / 100]
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay([steps * 4 // 6, steps * 5 // 6], rates)
        return keras.optimizers.SGD(schedule, momentum=0.9)


@dataclasses.dataclass(frozen=True)
class TaughtElsewhere:
    """A teacher that is trained in another setting than its students."""

    setting: Setting
    meta_in_train: bool
    quick: bool

    def __call__(self, task, round_, *watchers):
        (factor,) = self.setting.imbalance_factors
        data = self.setting.load(factor, round_.seed)
        elsewhere = round_of(self.setting, data, round_.seed)
        steps = self.setting.steps_of(len(elsewhere.train.ids), self.quick)
        protocol = dataclasses.replace(task.protocol, optimizer=Sgd(self.setting.learning_rate))
        task = dataclasses.replace(task, steps=steps, protocol=protocol)
        build = functools.partial(self.setting.teacher, data.sample_shape, data.num_classes)
        return comparison.Teaching(build, meta_in_train=self.meta_in_train)(task, elsewhere, *watchers)


@dataclasses.dataclass(frozen=True)
class Experts:
    """The teachers of LFME: one for each third of the classes, trained on these alone, for a third of the steps."""

    network: Callable
    input_shape: tuple

    def __call__(self, task, round_, *watchers):
        counts = round_.train.class_counts.tolist()
        groups = bikd.long_tail.class_groups(counts)
        task = dataclasses.replace(task, steps=task.steps // len(groups))
        experts = []
        for group in groups:
            part = dataclasses.replace(round_, train=of_classes(round_.train, group), checked=None)
            teach = comparison.Teaching(functools.partial(self.network, self.input_shape, len(group)))
            experts.append(teach(task, part, *watchers)[0])
        return bikd.Experts(experts, groups), counts


def of_classes(subset, classes):
    """The samples of some classes, renumbered in the order given."""
    samples, classes = subset.samples, np.asarray(classes)
    places = np.zeros(len(samples.class_names), int)
    places[classes] = np.arange(len(classes))
    names = [samples.class_names[label] for label in classes]
    renumbered = comparison.Samples(samples.inputs, places[samples.labels], names)
    return comparison.Subset(renumbered, subset.ids[np.isin(subset.labels, classes)])


def round_of(setting, data, seed, quick=False):
    """Training and test samples of a seed. The meta set guides, and says which epoch was best."""
    given, shape, num_classes = comparison.read_data(data), data.sample_shape, data.num_classes
    build = functools.partial(setting.teacher, shape, num_classes)
    teachers = {
        name: comparison.Teaching(build, meta_in_train=with_meta)
        if setting.taught is None
        else TaughtElsewhere(setting.taught, with_meta, quick)
        for name, with_meta in {comparison.TEACHER: False, WITH_META: True}.items()
    }
    teachers[BALANCED] = comparison.Teaching(build, bikd.losses.BalancedSoftmaxLoss, meta_in_train=False)
    teachers[EXPERTS] = Experts(setting.teacher, shape)
    return comparison.Round(
        seed,
        given.train.all(),
        meta=given.meta,
        validation=given.meta,
        test=given.test,
        checked=given.meta,
        teachers=teachers,
    )


def folder_of(folder, name, imbalance_factor, quick=False):
    """The folder of a table."""
    counts = "natural" if imbalance_factor is None else f"{imbalance_factor:g}"
    return pathlib.Path(folder) / f"{name.replace('/', '_')}_{counts}{'_quick' if quick else ''}"


class Table(NamedTuple):
    """A table: the trainings of a setting and an imbalance.

    Attributes:
        name: Name of the setting.
        imbalance_factor: Largest class count over smallest; `None` where all training samples are kept.
        comparison: The `keras_bikd.comparison.Comparison`.
        orders: Seed to the classes in the order of their training samples, wrong labels set right.
    """

    name: str
    imbalance_factor: float | None
    comparison: comparison.Comparison
    orders: dict

    def __str__(self):
        counts = "natural counts" if self.imbalance_factor is None else f"imbalance {self.imbalance_factor:g}"
        return f"{self.name}, {counts}"


def largest_first(data):
    """The classes in the order of their training samples, wrong labels set right."""
    return np.argsort(-np.bincount(data.source.labels[data.split.train], minlength=data.num_classes), kind="stable")


def table_of(name, imbalance_factor, methods, seeds, folder, quick=False):
    """A table in which nothing has been trained yet."""
    setting = SETTINGS[name]
    data = {seed: setting.load(imbalance_factor, seed) for seed in seeds}
    rounds = {seed: round_of(setting, own, seed, quick) for seed, own in data.items()}
    first = next(iter(data.values()))
    protocol = comparison.Protocol(
        methods=methods,
        steps=setting.steps_of(first.class_counts.sum(), quick),
        batch_size=setting.batch_size,
        optimizer=Sgd(setting.learning_rate),
        augment=setting.augment,
    )
    trainings = comparison.Comparison(
        functools.partial(setting.student, first.sample_shape, first.num_classes),
        rounds,
        protocol,
        folder=folder_of(folder, name, imbalance_factor, quick),
        identity={"setting": described(setting), "imbalance_factor": imbalance_factor},
    )
    return Table(name, imbalance_factor, trainings, {seed: largest_first(own) for seed, own in data.items()})


def described(setting):
    """What a result depends on; the other imbalance factors and seeds of a setting are left out."""
    fields = {field.name: getattr(setting, field.name) for field in dataclasses.fields(Setting)}
    taught = None if setting.taught is None else described(setting.taught) | {"of": setting.taught.imbalance_factors}
    own = {key: value for key, value in fields.items() if key not in ("imbalance_factors", "seeds", "taught")}
    return comparison.described(own) | {"taught": taught}


# The numbers are those of studies on these sets, or the paper's for CIFAR.
SETTINGS = {
    "digits-noise": Setting(
        name="sklearn_digits",
        imbalance_factors=(10.0, 50.0, 100.0),
        seeds=(0, 1, 2, 3, 4, 5),
        meta_size=100,
        test_size=500,
        steps=2000,
        learning_rate=0.05,
        student=Perceptron((12,)),
        teacher=Perceptron((128,)),
        augment=bikd.data.gaussian_noise(0.7),
    ),
    "glyphs/g100": Setting(
        name="glyphs/g100",
        imbalance_factors=(50.0,),
        seeds=(0, 1, 2),
        meta_size=500,
        passes=10,
        student=CifarResNet(8, (16, 16, 32, 64), stem_stride=2),
        teacher=CifarResNet(8, (32, 32, 64, 128), stem_stride=2),
        augment=bikd.data.pad_crop_flip(1, flip=False),
    ),
    "glyphs/h": Setting(
        name="glyphs/h",
        imbalance_factors=(100.0,),
        seeds=(0, 1, 2),
        meta_size=400,
        passes=12,
        student=CifarResNet(8, (8, 8, 16, 32), stem_stride=2),
        teacher=CifarResNet(8, (32, 32, 64, 128), stem_stride=2),
        augment=bikd.data.pad_crop_flip(1, flip=False),
    ),
    "keywords": Setting(
        name="python_keywords/small",
        imbalance_factors=(None,),
        seeds=(1, 2, 3, 4, 5, 6),  # the teacher was chosen on seed 0
        meta_size=350,
        batch_size=128,
        steps=1500,
        student=ByteConvNet(16, (16, 16)),
        teacher=ByteConvNet(16, (64, 64), dropout=0.1),
    ),
}
# As collected from the web: four labels of ten are wrong; five checked images per class. Seeds that chose nothing.
SETTINGS["glyphs/g100-wrong-labels"] = dataclasses.replace(
    SETTINGS["glyphs/g100"], alter=WrongLabels(0.4), seeds=tuple(range(100, 112))
)
# Characters that look alike, grouped by eye before any training; a wrong label is one of the same group.
LOOK_ALIKES = (
    "0CDGQθΘσ@",
    "38B&β",
    "εξζΞΣE",
    "17IJijTtτ!",
    "2Z?",
    "5S$§",
    "69bgqρPR¶",
    "dδ∂ea",
    "4AΔΛ",
    "HNMWmΠ",
    "nηhπΩω",
    "UVYγμ",
    "KkXχ*",
    "rfFΓ∫L√",
    "φΦψΨ%",
    "+±÷=≠#",
    "<>λ",
    "α∞",
)
SETTINGS["glyphs/g100-confusable-labels"] = dataclasses.replace(
    SETTINGS["glyphs/g100-wrong-labels"], alter=WrongLabels(0.4, LOOK_ALIKES), seeds=tuple(range(124, 130))
)
SETTINGS["digits"] = dataclasses.replace(
    SETTINGS["digits-noise"], augment=bikd.data.gaussian_noise(0.15), imbalance_factors=(50.0,)
)
PAPER = {
    name: Setting(
        name=name,
        imbalance_factors=(10.0, 50.0, 100.0),
        seeds=(0, 1, 2),
        meta_size=1000,
        batch_size=100,
        passes=120,
        student=CifarResNet(8, (32, 64, 128, 256)),
        teacher=CifarResNet(32, (32, 64, 128, 256)),
        augment=bikd.data.pad_crop_flip(4),
    )
    for name in ("cifar10", "cifar100")
}


def situations(kind, base, imbalance_factor, *, weak_steps, seeds):
    """What a user may have: a teacher that is good or bad, and labels that are right or wrong."""

    def at(factor, **changes):
        return dataclasses.replace(base, imbalance_factors=(factor,), seeds=seeds, **changes)

    as_it_is = at(imbalance_factor)
    yield f"{kind}/base", as_it_is
    short = {"steps": weak_steps, "passes": None}
    yield f"{kind}/weak-teacher", at(imbalance_factor, taught=dataclasses.replace(as_it_is, **short))
    misled = dataclasses.replace(as_it_is, alter=WrongLabels(0.5))
    yield f"{kind}/misled-teacher", at(imbalance_factor, taught=misled)
    yield f"{kind}/wrong-labels", at(imbalance_factor, alter=WrongLabels(0.3))
    if imbalance_factor is not None:
        balanced = at(1.0)
        yield f"{kind}/imbalance-10", at(10.0)
        yield f"{kind}/strong-teacher", at(imbalance_factor, taught=balanced)
        yield f"{kind}/wrong-labels-strong-teacher", at(imbalance_factor, taught=balanced, alter=WrongLabels(0.3))


# Seeds on which nothing was chosen.
FRESH = tuple(range(40, 46))
DIGITS = SETTINGS["digits-noise"]
SITUATIONS = {
    **dict(situations("digits", DIGITS, 50.0, weak_steps=60, seeds=FRESH)),
    "digits/imbalance-100": dataclasses.replace(DIGITS, imbalance_factors=(100.0,), seeds=FRESH),
    "digits/imbalance-10-wrong-labels": dataclasses.replace(
        DIGITS, imbalance_factors=(10.0,), seeds=FRESH, alter=WrongLabels(0.5)
    ),
    "digits/little-noise": dataclasses.replace(SETTINGS["digits"], seeds=FRESH),
    **dict(situations("glyphs", SETTINGS["glyphs/h"], 100.0, weak_steps=60, seeds=FRESH)),
    **dict(situations("keywords", SETTINGS["keywords"], None, weak_steps=100, seeds=FRESH)),
}
SETTINGS |= PAPER | SITUATIONS
