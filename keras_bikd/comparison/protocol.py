"""One protocol for every method: same data, same network, same budget; the test set is read once, at the end."""

import contextlib
import dataclasses
import pathlib
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_bikd import data as long_tailed
from keras_bikd import networks, results
from keras_bikd.bikd_model import BiKDModel
from keras_bikd.callbacks import HypergradientMonitor
from keras_bikd.data.pairing import shuffled_batches
from keras_bikd.lfme_model import Experts, LFMEModel, class_groups
from keras_bikd.losses import BalancedSoftmaxLoss, hard_loss
from keras_bikd.rwkd_model import RWKDModel

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
        wrong_labels: As in `keras_bikd.data.Cut`.
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
        """What decides a result, ready for JSON; which others are run beside it does not."""
        own = {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}
        return {key: value for key, value in own.items() if key not in ("imbalance_factors", "seeds")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """How a row of the table is trained.

    Args:
        make: Function from `Parts` to a model with a `student`; with `before`, of that method's trained model too.
        before: Another method, which is trained first, with all that its own row would have.
        budget: Steps, as a multiple of the setting's.
        teacher: `"ce"`, `"balanced_softmax"`, or `"experts"`.
        sampling: As in `keras_bikd.data.load`.
        meta_in_train: As in `keras_bikd.data.load`; the teacher then sees the meta images too.
        train_on: `"train"`, or `"meta"`: the meta images alone.
        meta_learning_rate: Of the weight network.
        meta_images: Images per class of an un-augmented meta set; by default all, augmented as the training images.
        meta_labels_wrong: Share of wrong labels in an un-augmented meta set.
        meta_shift: `"none"`, `"darker"`, `"moved"` or `"noisier"`: how an un-augmented meta set differs from the test.
        retrain_last_layer: Whether to retrain the last layer on the meta images at the end.
        compile_arguments: Further arguments of `compile`.
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

    def config(self):
        """All of it but `make`, ready for JSON."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "make"}
        return own | {"before": self.before and self.before.config()}


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


class _BestOnMeta(keras.callbacks.Callback):
    """Keeps the weights of the epoch that is best on the un-augmented meta set."""

    def __init__(self, meta):
        super().__init__()
        self.meta, self.best, self.weights = meta, -1.0, None

    def on_epoch_end(self, epoch, logs=None):
        predicted, labels = _predictions(self.model.student, self.meta)
        accuracy = float((predicted == labels).mean())
        if accuracy > self.best:
            self.best, self.weights = accuracy, self.model.student.get_weights()


def train(cell, setting, method, folder):
    """Train one cell, its teacher too if it is not there yet, and test it.

    Args:
        cell: A `Cell`.
        setting: Its `Setting`.
        method: Its `Method`.
        folder: Where the teacher is kept, a `pathlib.Path`.

    Returns:
        The row of the cell, a dict.
    """
    before = None if method.before is None else _run(cell, setting, method.before, folder)
    run = _run(cell, setting, method, folder, *([] if before is None else [before.model]))
    runs = [run] if before is None else [before, run]
    student, num_classes = run.model.student, run.data.num_classes
    scores = _group_accuracies(student, run.data, num_classes)
    student.set_weights(run.best)
    return {
        "data": cell.setting,
        "imbalance_factor": cell.imbalance_factor,
        "method": cell.method,
        "seed": cell.seed,
        **scores,
        "best_on_meta": _group_accuracies(student, run.data, num_classes)["overall"],
        "seconds": sum(part.seconds for part in runs),
        "memory": None if run.memory is None else max(part.memory for part in runs),
        "history": {k: v for part in runs for k, v in part.history.items() if "weight" in k or "hypergradient" in k},
        "hyper_parameters": run.hyper_parameters | ({} if before is None else {"before": before.hyper_parameters}),
        "manifest": run.data.manifest["ids_sha256"],
        "versions": results.versions(),
        "config": config_of(cell, setting, method),
    }


def config_of(cell, setting, method):
    """What a row must have been trained under to count as that of a cell; what `method.make` does cannot be told."""
    return setting.config() | {"quick": cell.quick, "method": method.config()}


class _Run(NamedTuple):
    """A training: the model, its data, and what is told of it; `best` are the student's weights of another epoch."""

    model: keras.Model
    data: long_tailed.LongTailedData
    history: dict
    best: Any
    seconds: float
    memory: float | None
    hyper_parameters: dict


def _run(cell, setting, method, folder, *before):
    """Train a method from the start; `before` is the model of the training before it, where there is one."""
    options = {"meta_in_train": method.meta_in_train, "sampling": method.sampling}
    data = _load(setting, cell, **options)
    clean = _load(setting, cell, augmented=False, **options)
    teacher, teacher_counts = _teacher_of(cell, setting, method, data, folder)
    keras.utils.set_random_seed(cell.seed)
    student = _network(setting.student, setting.student_widths, data)
    model = method.make(Parts(student, teacher, data.class_counts.tolist(), teacher_counts, clean.meta), *before)
    steps = _steps_of(setting, data, cell) * method.budget
    best = _BestOnMeta(clean.meta)
    guide = _guide(method, data, clean, cell.seed, setting.batch_size)
    _reset_peak_memory()
    start = time.perf_counter()
    history = _fit(model, setting, method, data, guide, steps, best)
    if method.retrain_last_layer:
        _retrain_last_layer(student, clean.meta)
    seconds, memory = time.perf_counter() - start, _peak_memory()
    return _Run(model, data, history, best.weights, seconds, memory, _hyper_parameters(model, method, steps))


def _fit(model, setting, method, data, guide, steps, *callbacks):
    """Compile and train a model of any kind; return its history."""
    optimizers = {"optimizer": _sgd(setting.learning_rate, steps)}
    if isinstance(model, BiKDModel):
        optimizers["meta_optimizer"] = keras.optimizers.Adam(method.meta_learning_rate)
        callbacks = (HypergradientMonitor(), *callbacks)
    epochs = min(EPOCHS, steps)
    per_execution = max(d for d in (1, 2, 5, 10, 20, 25, 50) if (steps // epochs) % d == 0)
    model.compile(**optimizers, steps_per_execution=per_execution, **method.compile_arguments)
    guided = isinstance(model, (BiKDModel, RWKDModel, LFMEModel))
    return model.fit(
        (data.meta if method.train_on == "meta" else data.train).repeat(),
        shuffle=False,
        epochs=epochs,
        steps_per_epoch=steps // epochs,
        callbacks=callbacks,
        verbose=0,
        **({"meta_data": guide} if guided else {}),
    ).history


def _retrain_last_layer(student, meta):
    """Four hundred steps of Adam on the un-augmented meta images, with all other layers frozen."""
    for layer in student.layers[:-1]:
        layer.trainable = False
    student.compile(keras.optimizers.Adam(1e-3), hard_loss)
    student.fit(meta.repeat(), shuffle=False, steps_per_epoch=400, verbose=0)
    for layer in student.layers:
        layer.trainable = True


def _guide(method, data, clean, seed, batch_size):
    """The meta set that a method learns its weights on: as it is, or with what a study does to it."""
    if method.meta_images is None and not method.meta_labels_wrong and method.meta_shift is None:
        return data.meta
    x, y = (ops.convert_to_numpy(ops.concatenate(column)) for column in zip(*clean.meta))
    generator = random.Random(seed)  # noqa: S311
    if method.meta_images is not None:
        rows = [i for c in range(data.num_classes) for i in (y == c).nonzero()[0][: method.meta_images]]
        x, y = x[rows], y[rows]
    wrong = generator.sample(range(len(y)), round(method.meta_labels_wrong * len(y)))
    y[wrong] = (y[wrong] + [generator.randrange(1, data.num_classes) for _ in wrong]) % data.num_classes
    x = {
        None: lambda: x,
        "none": lambda: x,
        "darker": lambda: 0.5 * x,
        "moved": lambda: ops.convert_to_numpy(ops.roll(x, 1, axis=2)),
        "noisier": lambda: x + 0.7 * ops.convert_to_numpy(keras.random.normal(x.shape, seed=seed)),
    }[method.meta_shift]()
    return shuffled_batches((x, y), batch_size)


def _load(setting, cell, *, augmented=True, **options):
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
        cut=long_tailed.Cut(wrong_labels=setting.wrong_labels),
        **options,
    )


def _teacher_of(cell, setting, method, data, folder):
    """The teacher for a cell, trained once and kept, and its class counts. It sees the images that its students see."""
    in_train = bool(method.meta_in_train)
    if method.meta_in_train != in_train:  # the student draws more of the meta images
        data = _load(setting, cell, meta_in_train=in_train)
    counts = data.class_counts.tolist()
    name = f"teacher_{method.teacher}{'_meta' if in_train else ''}_{cell.seed}{'_quick' if cell.quick else ''}"
    path = folder / f"{name}.keras"
    protocol = path.with_suffix(".setting.json")
    if path.with_suffix(".json").exists() and results.load_row(protocol) == setting.config():  # written last
        long_tailed.check_manifest(path.with_suffix(".json"), data)
        return keras.saving.load_model(path), counts
    if method.teacher == "experts":
        teacher = _train_experts(cell, setting, counts)
    else:
        losses = {"ce": hard_loss, "balanced_softmax": BalancedSoftmaxLoss(counts)}
        own = _load(setting, cell, meta_in_train=in_train)  # nobody may have drawn from the student's own stream
        teacher = _train_teacher(cell, setting, own, losses[method.teacher], _steps_of(setting, own, cell))
    path.parent.mkdir(parents=True, exist_ok=True)
    teacher.save(path)
    results.save_row(protocol, setting.config())
    long_tailed.save_manifest(path.with_suffix(".json"), data)
    return teacher, counts


def _train_teacher(cell, setting, data, loss, steps):
    keras.utils.set_random_seed(cell.seed + 500)
    teacher = _network(setting.teacher, setting.teacher_widths, data)
    teacher.compile(_sgd(setting.learning_rate, steps), loss)
    teacher.fit(data.train.repeat(), shuffle=False, epochs=1, steps_per_epoch=steps, verbose=0)
    return teacher


def _train_experts(cell, setting, class_counts):
    """Three experts on the images of their own classes, each with a third of the steps of one teacher."""
    groups = class_groups(class_counts)
    experts = []
    for group in groups:
        data = _load(setting, cell)
        part = long_tailed.only_classes(data, group, setting.batch_size)
        steps = _steps_of(setting, data, cell) // len(groups)
        experts.append(_train_teacher(cell, setting, part, hard_loss, steps))
    return Experts(experts, groups)


def _steps_of(setting, data, cell):
    """The same number of steps for every method of a cell, a multiple of the ten epochs."""
    merged = data.manifest["meta_in_train"] is not False
    images = data.class_counts.sum() - (setting.meta_size if merged else 0)
    steps = setting.steps or int(setting.passes * -(-images // setting.batch_size))
    return max(steps // 100, 4) if cell.quick else steps // 10 * 10


def _network(kind, widths, data):
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


def _sgd(learning_rate, steps):
    rates = [learning_rate, learning_rate / 10, learning_rate / 100]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([steps * 4 // 6, steps * 5 // 6], rates)
    return keras.optimizers.SGD(schedule, momentum=0.9)


def _predictions(student, data):
    pairs = [(ops.argmax(student.predict_on_batch(x), axis=-1), y) for x, y in data]
    return (ops.convert_to_numpy(ops.concatenate(column)) for column in zip(*pairs))


def _group_accuracies(student, data, num_classes):
    """Balanced accuracy in per cent: of all classes, of the largest 30 %, of the smallest 30 %, of those between."""
    predicted, labels = _predictions(student, data.test)
    per_class = [100 * float((predicted[labels == c] == c).mean()) for c in range(num_classes)]
    cut = round(0.3 * num_classes)
    groups = {"overall": per_class, "many": per_class[:cut], "medium": per_class[cut:-cut], "few": per_class[-cut:]}
    return {name: sum(values) / len(values) for name, values in groups.items()}


def _hyper_parameters(model, method, steps):
    large = ("student", "teacher", "class_counts", "teacher_prior", "name", "trainable", "dtype", "build_config")

    def small(value):
        if isinstance(value, dict):
            return {k: small(v) for k, v in value.items() if k not in (*large, "module", "registered_name")}
        return [small(v) for v in value] if isinstance(value, (list, tuple)) else value

    config = small(model.get_config())
    optimizer = keras.saving.serialize_keras_object(model.optimizer)["config"]
    compiled = {"steps": steps, "meta_in_train": method.meta_in_train, "train_on": method.train_on}
    meta = {
        key: getattr(method, key) for key in ("meta_images", "meta_labels_wrong", "meta_shift", "sampling", "teacher")
    }
    return {**config, **compiled, **meta, **method.compile_arguments, "optimizer": small(optimizer)}


_STATUS = pathlib.Path("/proc/self/status")  # Linux; elsewhere the memory is not told


def _reset_peak_memory():
    if _STATUS.exists():
        with contextlib.suppress(OSError):  # not everyone may; the peak is then the whole process's
            _STATUS.with_name("clear_refs").write_text("5")


def _peak_memory():
    """Peak resident memory of this process since it was reset, in MiB."""
    if not _STATUS.exists():
        return None
    peak = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024
