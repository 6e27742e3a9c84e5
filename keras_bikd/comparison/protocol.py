"""One protocol for every method: same data, same network, same budget; the test set is read once, at the end."""

import contextlib
import pathlib
import random
import time
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_bikd import data as long_tailed
from keras_bikd import results
from keras_bikd.callbacks import HypergradientMonitor
from keras_bikd.comparison.setting import EPOCHS, Parts, config_of, load_data, network, sgd, steps_of
from keras_bikd.comparison.teachers import teacher_of
from keras_bikd.deprecated import LFMEModel
from keras_bikd.feed import batched, batches
from keras_bikd.losses import hard_loss
from keras_bikd.models.bikd import BiKDModel
from keras_bikd.models.rwkd import RWKDModel


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
    data = load_data(setting, cell, **options)
    clean = load_data(setting, cell, augmented=False, **options)
    teacher, teacher_counts = teacher_of(cell, setting, method, data, folder)
    keras.utils.set_random_seed(cell.seed)
    student = network(setting.student, setting.student_widths, data)
    model = method.make(Parts(student, teacher, data.class_counts.tolist(), teacher_counts, clean.meta), *before)
    steps = steps_of(setting, data, cell) * method.budget
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
    optimizers = {"optimizer": sgd(setting.learning_rate, steps)}
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
    x, y = (ops.convert_to_numpy(ops.concatenate(column)) for column in zip(*batches(clean.meta)))
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
    return batched((x, y), batch_size, shuffle=True)


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


def _predictions(student, data):
    pairs = [(ops.argmax(student.predict_on_batch(x), axis=-1), y) for x, y in batches(data)]
    return (ops.convert_to_numpy(ops.concatenate(column)) for column in zip(*pairs))


def _group_accuracies(student, data, num_classes):
    """Balanced accuracy in per cent: of all classes, of the largest 30 %, of the smallest 30 %, of those between."""
    predicted, labels = _predictions(student, data.test)
    per_class = [100 * float((predicted[labels == c] == c).mean()) for c in range(num_classes)]
    cut = round(0.3 * num_classes)
    groups = {"overall": per_class, "many": per_class[:cut], "medium": per_class[cut:-cut], "few": per_class[-cut:]}
    # Of two classes none is between.
    return {name: sum(values) / len(values) if values else None for name, values in groups.items()}


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
