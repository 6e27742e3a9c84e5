"""What a setting and a method decide: data, networks, optimizer, steps."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import keras

from keras_bikd import data as long_tailed
from keras_bikd import networks

EPOCHS = 10  # after each of which the meta set is looked at


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A data set with its protocol.

    Args:
        name: As in `keras_bikd.data.load`.
        imbalance_factors: Largest class count over smallest, one table for each.
        seeds: Seeds of split, teacher and student.
        meta_size: As in `keras_bikd.data.load`.
        test_size: As in `keras_bikd.data.load`.
        batch_size: Training and meta images per step.
        steps: Steps of every training, or
        passes: passes over the long-tailed training set.
        learning_rate: Of SGD with momentum 0.9; a tenth after two thirds of the steps, and again after five sixths.
        student: `"perceptron"`, or `"resnet8"`, `"resnet32"`, ...
        teacher: Likewise.
        student_widths: Hidden units, or channels as in `keras_bikd.networks.cifar_resnet`.
        teacher_widths: Likewise.
        augment: `("noise", standard deviation)`, `("shift", pixels)` or `("flip", pixels)`: shift and mirror.
        wrong_labels: As in `keras_bikd.data.LongTailCut`.
    """

    name: str
    imbalance_factors: tuple
    seeds: tuple
    meta_size: int
    test_size: int | None = None
    batch_size: int = 64
    steps: int | None = None
    passes: int | None = None
    learning_rate: float = 0.1
    student: str = "resnet8"
    teacher: str = "resnet8"
    student_widths: tuple = ()
    teacher_widths: tuple = ()
    augment: tuple = ("shift", 1)
    wrong_labels: float = 0.0

    def config(self):
        """What decides a result, as it is read from a file; which others are run beside it does not."""
        own = {key: v for key, v in dataclasses.asdict(self).items() if key not in ("imbalance_factors", "seeds")}
        return json.loads(json.dumps(own))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """How a row of the table is trained.

    Args:
        make: Function from `Parts` to a model with a `student`; with `before`, of that method's trained model too.
        before: Another method, which is trained first, with all that its own row would have.
        budget: Steps, as a multiple of the setting's.
        teacher: `"ce"`, `"balanced_softmax"`, or `"experts"`.
        sampling: As in `keras_bikd.data.LongTailCut`.
        meta_in_train: As in `keras_bikd.data.LongTailCut`; the teacher then sees the meta images too.
        train_on: `"train"`, or `"meta"`: the meta images alone.
        meta_learning_rate: Of the weight network.
        meta_images: Images per class of an un-augmented meta set; by default all, augmented as the training images.
        meta_labels_wrong: Share of wrong labels in an un-augmented meta set.
        meta_shift: `"none"`, `"darker"`, `"moved"` or `"noisier"`: how an un-augmented meta set differs from the test.
        retrain_last_layer: Whether to retrain the last layer on the meta images at the end.
        compile_arguments: Further arguments of `compile`, as JSON can hold them: every row tells them.

    Raises:
        ValueError: If JSON cannot hold the arguments of `compile`.
    """

    make: Callable
    before: "Method | None" = None
    budget: int = 1
    teacher: str = "ce"
    sampling: str = "instance"
    meta_in_train: bool | float = False
    train_on: str = "train"
    meta_learning_rate: float = 1e-3
    meta_images: int | None = None
    meta_labels_wrong: float = 0.0
    meta_shift: str | None = None
    retrain_last_layer: bool = False
    compile_arguments: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        try:
            json.dumps(self.compile_arguments)
        except TypeError as error:
            raise ValueError(
                "`Method(compile_arguments=...)` takes what JSON can hold, such as numbers and names, because every "
                f"row tells it. {error}. Received: {self.compile_arguments!r}"
            ) from None

    def config(self):
        """All of it but `make`, as it is read from a file."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "make"}
        return json.loads(json.dumps(own | {"before": self.before and self.before.config()}))


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a model is made of.

    Attributes:
        student: An untrained student.
        teacher: A trained teacher.
        counts: Training images per class.
        teacher_counts: Likewise, of what the teacher was trained on: it sees every image once per pass.
        meta: The meta set, un-augmented.
    """

    student: keras.Model
    teacher: keras.Model
    counts: list
    teacher_counts: list
    meta: Any


def config_of(cell, setting, method):
    """What a row must have been trained under to count as that of a cell; what `method.make` does cannot be told."""
    return setting.config() | {"quick": cell.quick, "method": method.config()}


def load_data(setting, cell, *, augmented=True, **options):
    """The images of a cell; `options` are those of `keras_bikd.data.LongTailCut`. Sets the global seed."""
    # The order of a tf.data pipeline depends on the global seed as well, at the time when it is made.
    keras.utils.set_random_seed(cell.seed)
    kind, strength = setting.augment
    augment = {
        "noise": lambda: long_tailed.gaussian_noise(strength),
        "shift": lambda: long_tailed.pad_crop_flip(strength, flip=False),
        "flip": lambda: long_tailed.pad_crop_flip(strength),
    }[kind]()
    return long_tailed.load(
        setting.name,
        cell.imbalance_factor,
        meta_size=setting.meta_size,
        test_size=setting.test_size,
        batch_size=setting.batch_size,
        seed=cell.seed,
        augment=augment if augmented else None,
        cut=long_tailed.LongTailCut(wrong_labels=setting.wrong_labels, **options),
    )


def steps_of(setting, data, cell):
    """The same number of steps for every method of a cell, a multiple of the epochs."""
    merged = data.manifest["meta_in_train"] is not False
    images = data.class_counts.sum() - (setting.meta_size if merged else 0)
    steps = setting.steps or int(setting.passes * -(-images // setting.batch_size))
    return max(steps // 100, 4) if cell.quick else steps // EPOCHS * EPOCHS


def network(kind, widths, data):
    """An untrained student or teacher for images of this data, with logits as outputs."""
    image_shape = data.train.element_spec[0].shape[1:]
    if kind != "perceptron":
        stem_stride = 2 if image_shape[0] == 16 else 1
        depth = int(kind.removeprefix("resnet"))
        arguments = {"input_shape": image_shape, "stem_stride": stem_stride, "l2": 2.5e-4}
        return networks.cifar_resnet(depth, widths, data.num_classes, **arguments)
    decay = {"kernel_regularizer": keras.regularizers.L2(2.5e-4), "bias_regularizer": keras.regularizers.L2(2.5e-4)}
    hidden = [keras.layers.Dense(n, "relu", kernel_initializer="he_normal", **decay) for n in widths]
    logits = keras.layers.Dense(data.num_classes, kernel_initializer="he_normal", **decay)
    return keras.Sequential([keras.Input(image_shape), keras.layers.Flatten(), *hidden, logits])


def sgd(learning_rate, steps):
    """SGD with momentum, at a tenth of its rate after two thirds of the steps, and again after five sixths."""
    rates = [learning_rate, learning_rate / 10, learning_rate / 100]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([steps * 4 // 6, steps * 5 // 6], rates)
    return keras.optimizers.SGD(schedule, momentum=0.9)
