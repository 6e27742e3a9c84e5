"""All methods beside each other: same data, same network, same budget, one table.

    python recipes/compare.py digits-noise                          # imbalance 10, 50, 100; six seeds
    python recipes/compare.py glyphs/g100 glyphs/h                  # their own imbalance; three seeds
    python recipes/compare.py digits-noise --methods CE KD BiKD --imbalance-factors 50 --seeds 0 1
    python recipes/compare.py digits-noise --study inner-steps      # see STUDIES
    python recipes/compare.py --paper                               # Table 1: CIFAR-10 and CIFAR-100; wants a GPU

Every cell (data set, imbalance, method, seed) is written to `runs/compare/` when it is done and skipped afterwards:
a killed run goes on where it was, a failed cell is reported and tried again next time. `--workers 2` runs two at a
time, each on one core. Written: `results.md`, `results.csv` and a plot per data set and imbalance.

One protocol for all. The teacher is in inference mode; it was trained on the same long-tailed images. Accuracy is
balanced accuracy on test images that are not augmented, after the last step; beside it, that of the epoch which was
best on the (un-augmented) meta set. The test set is read once per cell, at the end. `+meta` trains on the meta images
as well, the teacher too: BiKD sees them, so the others should.
"""

import argparse
import dataclasses
import multiprocessing
import os
import pathlib
import random
import time
import traceback
from collections.abc import Callable

META_LEARNING_RATE = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A data set with its protocol; the numbers are those of the offline studies, or the paper's for CIFAR."""

    name: str
    imbalance_factors: tuple
    seeds: tuple
    meta_size: int
    test_size: int | None = None
    batch_size: int = 64
    steps: int | None = None  # or
    passes: int | None = None  # over the training set without the meta images
    learning_rate: float = 0.1
    student: str = "resnet8"
    teacher: str = "resnet8"
    student_widths: tuple = ()
    teacher_widths: tuple = ()
    augment: tuple = ("shift", 1)


SETTINGS = {
    "digits-noise": Setting(
        name="sklearn_digits",
        imbalance_factors=(10.0, 50.0, 100.0),
        seeds=(0, 1, 2, 3, 4, 5),
        meta_size=100,
        test_size=500,
        steps=2000,
        learning_rate=0.05,
        student="perceptron",
        teacher="perceptron",
        student_widths=(12,),
        teacher_widths=(128,),
        augment=("noise", 0.7),
    ),
    "glyphs/g100": Setting(
        name="glyphs/g100",
        imbalance_factors=(50.0,),
        seeds=(0, 1, 2),
        meta_size=500,
        passes=10,
        student_widths=(16, 16, 32, 64),
        teacher_widths=(32, 32, 64, 128),
    ),
    "glyphs/h": Setting(
        name="glyphs/h",
        imbalance_factors=(100.0,),
        seeds=(0, 1, 2),
        meta_size=400,
        passes=12,
        student_widths=(8, 8, 16, 32),
        teacher_widths=(32, 32, 64, 128),
    ),
}
SETTINGS["digits"] = dataclasses.replace(SETTINGS["digits-noise"], augment=("noise", 0.15), imbalance_factors=(50.0,))
PAPER = {
    name: Setting(
        name=name,
        imbalance_factors=(10.0, 50.0, 100.0),
        seeds=(0, 1, 2),
        meta_size=1000,
        batch_size=100,
        passes=120,
        student_widths=(32, 64, 128, 256),
        teacher="resnet32",
        teacher_widths=(32, 64, 128, 256),
        augment=("flip", 4),
    )
    for name in ("cifar10", "cifar100")
}
SETTINGS |= PAPER


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """How a row of the table is trained."""

    make: Callable  # (Parts) -> model
    teacher: str = "ce"  # or "balanced_softmax", "experts"
    sampling: str = "instance"
    meta_in_train: bool | float = False
    train_on: str = "train"  # or "meta"
    meta_learning_rate: float = META_LEARNING_RATE
    meta_images: int | None = None  # per class, of an un-augmented meta set, or
    meta_labels_wrong: float = 0.0  # share of wrong labels in one, or
    meta_shift: str | None = None  # one that differs from the test images
    retrain_last_layer: bool = False  # on the meta images, at the end
    compile_arguments: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a model is made of."""

    student: object
    teacher: object
    counts: list
    meta: object  # un-augmented


def fixed(objective, **arguments):
    """A method that minimises an objective; it is given the parts."""

    def make(parts):
        import keras_bikd as bikd

        return bikd.DistillationModel(parts.student, parts.teacher, objective(bikd.objectives, parts))

    return Method(make=make, **arguments)


def bikd_model(arguments=lambda parts: {}, **method):
    """A method that is BiKD; `arguments(parts)` are its own."""

    def make(parts):
        import keras_bikd as bikd

        return bikd.BiKDModel(parts.student, parts.teacher, **arguments(parts))

    return Method(make=make, **method)


def rwkd_model(parts):
    import keras_bikd as bikd

    return bikd.RWKDModel(parts.student, parts.teacher)


def lfme_model(parts):
    import keras_bikd as bikd

    return bikd.LFMEModel(parts.student, parts.teacher, parts.counts)


def corrected_teacher(parts):
    from keras_bikd import objectives

    return {"hard": objectives.CrossEntropy(), "soft": objectives.SoftTargets(class_counts=parts.counts)}


def prior_input(parts):
    import keras_bikd as bikd

    return {"weight_net": bikd.MetaWeightNet(class_counts=parts.counts)}


def preset(parts):
    return {"class_counts": parts.counts}


def twin(o, parts):
    """The recommended preset's two losses under constant weights."""
    losses = (o.BalancedSoftmax(class_counts=parts.counts), o.SoftTargets(class_counts=parts.counts))
    return o.WeightedSum(objectives=losses, weights=(0.5, 0.5))


def trusted(o, parts):
    """The twin, each sample weighted by the teacher's probability of its label."""
    return o.TeacherTrust(objective=twin(o, parts))


def cckd(o, parts):
    prior = o.teacher_prior_of(parts.teacher, parts.meta)
    return o.ClassConditionalDistillation(class_counts=parts.counts, teacher_prior=prior)


def cross_entropy(o, parts):
    return o.CrossEntropy()


def balanced_softmax(o, parts):
    return o.BalancedSoftmax(class_counts=parts.counts)


def kd(o, parts):
    return o.KnowledgeDistillation()


def corrected_kd(o, parts):
    return o.WeightedSum(objectives=tuple(corrected_teacher(parts).values()), weights=(0.5, 0.5))


def dive(o, parts):
    return o.DistillingVirtualExamples(class_counts=parts.counts, temperature=4.0)


METHODS = {
    "CE": fixed(cross_entropy),
    "balanced softmax": fixed(balanced_softmax),
    "KD": fixed(kd),
    "WSL": fixed(lambda o, parts: o.WeightedSoftLabels()),
    "RW-KD": Method(make=rwkd_model),
    "BKD": fixed(lambda o, parts: o.BalancedKnowledgeDistillation(class_counts=parts.counts)),
    "CCKD (training_prior)": fixed(cckd),
    "DiVE": fixed(dive),
    "DiVE (balanced teacher)": fixed(dive, teacher="balanced_softmax"),
    "LFME": Method(make=lfme_model, teacher="experts", sampling="class_balanced"),
    "BiKD": bikd_model(),
    "BiKD, k=1, rate/5": bikd_model(lambda parts: {"inner_steps": 1}, meta_learning_rate=META_LEARNING_RATE / 5),
    "BiKD, last layer": bikd_model(compile_arguments={"hypergradient_layers": 1}),
    "BiKD + log prior": bikd_model(prior_input),
    "KD, corrected teacher": fixed(corrected_kd),
    "BiKD, corrected teacher": bikd_model(lambda parts: {"candidate_losses": corrected_teacher(parts)}),
    "balanced softmax + KD, corrected teacher": fixed(twin),
    "BiKD, class counts": bikd_model(preset),
    "BiKD, class counts, last layer": bikd_model(preset, compile_arguments={"hypergradient_layers": 1}),
    "CE, meta images only": fixed(cross_entropy, train_on="meta", meta_in_train=True),
    "KD, meta images only": fixed(kd, train_on="meta", meta_in_train=True),
    "balanced softmax, last layer retrained on meta": fixed(balanced_softmax, retrain_last_layer=True),
    "CE +meta": fixed(cross_entropy, meta_in_train=True),
    "KD +meta": fixed(kd, meta_in_train=True),
    "balanced softmax +meta": fixed(balanced_softmax, meta_in_train=True),
    "balanced softmax + KD, corrected teacher +meta": fixed(twin, meta_in_train=True),
    "balanced softmax + KD, corrected teacher +meta, half": fixed(twin, meta_in_train=0.5),
    "balanced softmax + KD, corrected teacher +meta, weighted by teacher": fixed(trusted, meta_in_train=True),
    "BiKD +meta": bikd_model(meta_in_train=True),
    "BiKD, class counts +meta": bikd_model(preset, meta_in_train=True),
    "BiKD, class counts +meta, half": bikd_model(preset, meta_in_train=0.5),
}


def inner_steps_study():
    for k in (1, 2, 5, 10, 20):
        for rate in (META_LEARNING_RATE, META_LEARNING_RATE * k / 5):
            yield f"k={k}, rate {rate:.1g}", bikd_model(lambda parts, k=k: {"inner_steps": k}, meta_learning_rate=rate)


def fixed_weights_study():
    def mix(hard, soft):
        def objective(o, parts):
            return o.KnowledgeDistillation(hard_weight=hard, soft_weight=soft)

        return objective

    def balanced_mix(hard, soft):
        return lambda o, parts: dataclasses.replace(twin(o, parts), weights=(hard, soft))

    for soft in (0.0, 0.25, 0.5, 0.75, 1.0):
        yield f"constant {1 - soft:g}/{soft:g}", fixed(mix(1 - soft, soft))
        yield f"constant {1 - soft:g}/{soft:g}, class counts", fixed(balanced_mix(1 - soft, soft))
    for k in (1, 5):
        rate = META_LEARNING_RATE * k / 5
        yield f"BiKD k={k}", bikd_model(lambda parts, k=k: {"inner_steps": k}, meta_learning_rate=rate)
        learned = bikd_model(lambda parts, k=k: {"inner_steps": k, **preset(parts)}, meta_learning_rate=rate)
        yield f"BiKD k={k}, class counts", learned


def meta_study(field, values, name):
    for value in values:
        yield f"BiKD, {name(value)}", bikd_model(**{field: value})
        yield f"BiKD, class counts, {name(value)}", bikd_model(preset, **{field: value})


STUDIES = {
    "inner-steps": dict(inner_steps_study()),
    "fixed-weights": dict(fixed_weights_study()),
    "meta-size": dict(meta_study("meta_images", (1, 2, 5, 10), lambda n: f"{n} meta images per class")),
    "meta-labels": dict(
        meta_study("meta_labels_wrong", (0.1, 0.2, 0.4), lambda p: f"{100 * p:g} % of meta labels wrong")
    ),
    "meta-shift": dict(
        meta_study("meta_shift", ("none", "darker", "moved", "noisier"), lambda kind: f"meta shift: {kind}")
    ),
}
ALL_METHODS = METHODS | {label: method for study in STUDIES.values() for label, method in study.items()}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training."""

    setting: str
    imbalance_factor: float
    method: str
    seed: int
    quick: bool = False  # a hundredth of the steps, to see that everything runs

    def path(self, folder):
        name = "".join(c if c.isalnum() else "_" for c in self.method)
        return group_folder(folder, self.setting, self.imbalance_factor) / f"{name}_{self.seed}.json"


def group_folder(folder, setting, imbalance_factor):
    return pathlib.Path(folder) / f"{setting.replace('/', '_')}_{imbalance_factor:g}"


def main(
    settings,
    *,
    methods=None,
    study=None,
    imbalance_factors=None,
    seeds=None,
    folder="runs/compare",
    workers=1,
    quick=False,
):
    methods = methods or list(STUDIES[study] if study else METHODS)
    unknown = [name for name in methods if name not in ALL_METHODS]
    if unknown:
        raise SystemExit(f"There is no method {unknown[0]!r}. Known: {', '.join(METHODS)}")
    groups = [
        [Cell(name, factor, method, seed, quick) for method in methods]
        for name in settings
        for factor in imbalance_factors or SETTINGS[name].imbalance_factors
        for seed in seeds or SETTINGS[name].seeds
    ]
    run_groups(groups, folder, workers)
    return report([cell for group in groups for cell in group], folder)


def run_groups(groups, folder, workers):
    """Run each group in a process of its own, which gives its memory back and may crash without harm."""
    context = multiprocessing.get_context("spawn")
    waiting, running = list(groups), []
    while waiting or running:
        while waiting and len(running) < workers:
            group = waiting.pop(0)
            if all(is_done(cell, folder) for cell in group):
                continue
            process = context.Process(target=run_group, args=(group, folder, workers))
            process.start()
            running.append(process)
        for process in running:
            process.join(0.2)
        running = [process for process in running if process.is_alive()]


def is_done(cell, folder):
    from keras_bikd import results

    row = results.load_row(cell.path(folder))
    return row is not None and row["config"] == config_of(cell)


def config_of(cell):
    setting = {
        key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(SETTINGS[cell.setting]).items()
    }
    # Which others are run beside it does not change a cell.
    return {key: value for key, value in setting.items() if key not in ("imbalance_factors", "seeds")} | {
        "quick": cell.quick
    }


def run_group(group, folder, workers):
    if workers > 1:
        os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    import keras

    from keras_bikd import results

    keras.config.disable_interactive_logging()
    for cell in group:
        if is_done(cell, folder):
            continue
        label = f"{cell.setting}, imbalance {cell.imbalance_factor:g}, {cell.method}, seed {cell.seed}"
        try:
            row = run(cell, folder)
        except Exception:  # one cell must not stop the others
            print(f"FAILED: {label}\n{traceback.format_exc()}", flush=True)
            continue
        results.save_row(cell.path(folder), row)
        print(f"{label}: {row['overall']:.1f} ({row['seconds']:.0f} s)", flush=True)
        keras.utils.clear_session()


def run(cell, folder):
    """Train one cell and test it."""
    import keras

    import keras_bikd as bikd

    setting, method = SETTINGS[cell.setting], ALL_METHODS[cell.method]
    options = {"meta_in_train": method.meta_in_train, "sampling": method.sampling}
    data = load(setting, cell, **options)
    clean = load(setting, cell, augmented=False, **options)
    teacher = teacher_of(cell, setting, method, folder)
    keras.utils.set_random_seed(cell.seed)
    student = network(setting.student, setting.student_widths, data)
    counts = data.class_counts.tolist()
    model = method.make(Parts(student, teacher, counts, clean.meta))
    steps = steps_of(setting, data, cell)
    optimizers = {"optimizer": sgd(setting.learning_rate, steps)}
    if isinstance(model, bikd.BiKDModel):
        optimizers["meta_optimizer"] = keras.optimizers.Adam(method.meta_learning_rate)
    epochs = min(10, steps)
    per_execution = max(d for d in (1, 2, 5, 10, 20, 25, 50) if (steps // epochs) % d == 0)
    model.compile(**optimizers, steps_per_execution=per_execution, **method.compile_arguments)
    callbacks = [best := best_on_meta()(clean.meta, data.num_classes)]
    guided = isinstance(model, (bikd.BiKDModel, bikd.RWKDModel, bikd.LFMEModel))
    if isinstance(model, bikd.BiKDModel):
        callbacks = [bikd.callbacks.HypergradientMonitor(), *callbacks]
    train = data.meta if method.train_on == "meta" else data.train
    reset_peak_memory()
    start = time.perf_counter()
    history = model.fit(
        train.repeat(),
        shuffle=False,
        epochs=epochs,
        steps_per_epoch=steps // epochs,
        callbacks=callbacks,
        verbose=0,
        **({"meta_data": guide(method, data, clean, cell.seed)} if guided else {}),
    ).history
    if method.retrain_last_layer:
        retrain_last_layer(student, clean.meta)
    seconds, memory = time.perf_counter() - start, peak_memory()
    scores = group_accuracies(student, data, len(counts))
    student.set_weights(best.weights)
    return {
        "data": cell.setting,
        "imbalance_factor": cell.imbalance_factor,
        "method": cell.method,
        "seed": cell.seed,
        **scores,
        "best_on_meta": group_accuracies(student, data, len(counts))["overall"],
        "seconds": seconds,
        "memory": memory,
        "history": {key: values for key, values in history.items() if "weight" in key or "hypergradient" in key},
        "hyper_parameters": hyper_parameters(model, method, steps),
        "manifest": data.manifest["ids_sha256"],
        "versions": bikd.results.versions(),
        "config": config_of(cell),
    }


def retrain_last_layer(student, meta):
    """Four hundred steps of Adam on the un-augmented meta images, with all other layers frozen."""
    import keras

    from keras_bikd.losses import hard_loss

    for layer in student.layers[:-1]:
        layer.trainable = False
    student.compile(keras.optimizers.Adam(1e-3), hard_loss)
    student.fit(meta.repeat(), shuffle=False, steps_per_epoch=400, verbose=0)
    for layer in student.layers:
        layer.trainable = True


def guide(method, data, clean, seed):
    """The meta set that a method learns its weights on: as it is, or with what a study does to it."""
    from keras import ops

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
        "noisier": lambda: x + 0.7 * ops.convert_to_numpy(keras_normal(x.shape, seed)),
    }[method.meta_shift]()
    return x, y


def keras_normal(shape, seed):
    import keras

    return keras.random.normal(shape, seed=seed)


def load(setting, cell, *, augmented=True, **options):
    import keras_bikd as bikd

    kind, strength = setting.augment
    augment = {
        "noise": lambda: bikd.data.gaussian_noise(strength),
        "shift": lambda: bikd.data.pad_crop_flip(strength, flip=False),
        "flip": lambda: bikd.data.pad_crop_flip(strength),
    }[kind]()
    return bikd.data.load(
        setting.name,
        cell.imbalance_factor,
        meta_size=setting.meta_size,
        test_size=setting.test_size,
        batch_size=setting.batch_size,
        seed=cell.seed,
        augment=augment if augmented else None,
        **options,
    )


def teacher_of(cell, setting, method, folder):
    """The teacher for a cell, trained once and kept. It sees the images that its students see."""
    import keras

    import keras_bikd as bikd

    in_train = bool(method.meta_in_train)
    name = f"teacher_{method.teacher}{'_meta' if in_train else ''}_{cell.seed}{'_quick' if cell.quick else ''}"
    path = group_folder(folder, cell.setting, cell.imbalance_factor) / f"{name}.keras"
    data = load(setting, cell, meta_in_train=in_train)
    if path.with_suffix(".json").exists():  # written last
        bikd.data.check_manifest(path.with_suffix(".json"), data)
        return keras.saving.load_model(path)
    teacher = train_experts(cell, setting, data) if method.teacher == "experts" else None
    if teacher is None:
        losses = {"ce": bikd.losses.hard_loss, "balanced_softmax": bikd.losses.BalancedSoftmaxLoss(data.class_counts)}
        teacher = train_teacher(cell, setting, data, losses[method.teacher])
    path.parent.mkdir(parents=True, exist_ok=True)
    teacher.save(path)
    bikd.data.save_manifest(path.with_suffix(".json"), data)
    return teacher


def train_teacher(cell, setting, data, loss, share=1.0):
    import keras

    keras.utils.set_random_seed(cell.seed + 500)
    teacher = network(setting.teacher, setting.teacher_widths, data)
    steps = int(steps_of(setting, data, cell) * share)
    teacher.compile(sgd(setting.learning_rate, steps), loss)
    teacher.fit(data.train.repeat(), shuffle=False, epochs=1, steps_per_epoch=steps, verbose=0)
    return teacher


def train_experts(cell, setting, data):
    """Three experts on the images of their own classes, each with a third of the steps of one teacher."""
    from keras_bikd.lfme_model import Experts, class_groups
    from keras_bikd.losses import hard_loss

    groups = [sorted(int(label) for label in ids) for ids in class_groups(data.class_counts)]
    experts = []
    for group in groups:
        first, last = group[0], group[-1]  # the counts fall with the class, so a group is a range
        own = data.train.unbatch().filter(lambda x, y, a=first, b=last: (y >= a) & (y <= b))
        train = own.map(lambda x, y, a=first: (x, y - a)).batch(setting.batch_size)
        part = dataclasses.replace(data, train=train, num_classes=len(group))
        experts.append(train_teacher(cell, setting, part, hard_loss, share=1 / len(groups)))
    return Experts(experts, groups)


def steps_of(setting, data, cell):
    """The same number of steps for every method of a cell, a multiple of the ten epochs."""
    merged = data.manifest["meta_in_train"] is not False
    images = data.class_counts.sum() - (setting.meta_size if merged else 0)
    steps = setting.steps or int(setting.passes * -(-images // setting.batch_size))
    return max(steps // 100, 4) if cell.quick else steps // 10 * 10


def network(kind, widths, data):
    import keras

    import keras_bikd as bikd

    image_shape = data.train.element_spec[0].shape[1:]
    if kind != "perceptron":
        stem_stride = 2 if image_shape[0] == 16 else 1
        depth = int(kind.removeprefix("resnet"))
        arguments = {"input_shape": image_shape, "stem_stride": stem_stride, "l2": 2.5e-4}
        return bikd.networks.cifar_resnet(depth, widths, data.num_classes, **arguments)
    decay = {"kernel_regularizer": keras.regularizers.L2(2.5e-4), "bias_regularizer": keras.regularizers.L2(2.5e-4)}
    hidden = [keras.layers.Dense(n, "relu", kernel_initializer="he_normal", **decay) for n in widths]
    logits = keras.layers.Dense(data.num_classes, kernel_initializer="he_normal", **decay)
    return keras.Sequential([keras.Input(image_shape), keras.layers.Flatten(), *hidden, logits])


def sgd(learning_rate, steps):
    import keras

    rates = [learning_rate, learning_rate / 10, learning_rate / 100]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([steps * 4 // 6, steps * 5 // 6], rates)
    return keras.optimizers.SGD(schedule, momentum=0.9)


def best_on_meta():
    import keras

    class BestOnMeta(keras.callbacks.Callback):
        """Keeps the weights of the epoch that is best on the un-augmented meta set."""

        def __init__(self, meta, num_classes):
            super().__init__()
            self.meta, self.best, self.weights = meta, -1.0, None

        def on_epoch_end(self, epoch, logs=None):
            predicted, labels = predictions(self.model.student, self.meta)
            accuracy = float(keras.ops.mean(predicted == labels))
            if accuracy > self.best:
                self.best, self.weights = accuracy, self.model.student.get_weights()

    return BestOnMeta


def predictions(student, data):
    from keras import ops

    pairs = [(ops.argmax(student.predict_on_batch(x), axis=-1), y) for x, y in data]
    return (ops.convert_to_numpy(ops.concatenate(column)) for column in zip(*pairs))


def group_accuracies(student, data, num_classes):
    """Balanced accuracy in per cent: of all classes, of the largest 30 %, of the smallest 30 %, of those between."""
    predicted, labels = predictions(student, data.test)
    per_class = [100 * float((predicted[labels == c] == c).mean()) for c in range(num_classes)]
    cut = round(0.3 * num_classes)
    groups = {"overall": per_class, "many": per_class[:cut], "medium": per_class[cut:-cut], "few": per_class[-cut:]}
    return {name: sum(values) / len(values) for name, values in groups.items()}


def hyper_parameters(model, method, steps):
    import keras

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


def reset_peak_memory():
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def peak_memory():
    """Peak resident memory of this process since it was reset, in MiB."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


COLUMNS = {
    "overall": "overall",
    "many": "many",
    "medium": "medium",
    "few": "few",
    "best on meta": "best_on_meta",
    "seconds": "seconds",
    "peak MiB": "memory",
}


def report(cells, folder, reference="balanced softmax"):
    """Print and write a table per data set and imbalance; name the cells that are missing."""
    from keras_bikd import plots, results

    done = [cell for cell in cells if is_done(cell, folder)]
    rows = [results.load_row(cell.path(folder)) for cell in done]
    parts = []
    for key in dict.fromkeys((row["data"], row["imbalance_factor"]) for row in rows):
        own = [row for row in rows if (row["data"], row["imbalance_factor"]) == key]
        parts.append(f"## {key[0]}, imbalance {key[1]:g}\n\n{results.markdown_table(own, COLUMNS)}")
        if any(row["method"] == reference for row in own):
            parts.append(f"Paired with {reference}:\n\n{differences(own, reference)}")
        figure = plots.method_bars(own, ("overall", "few"))
        figure.savefig(group_folder(folder, *key) / "methods.png", dpi=150)
    missing = [cell for cell in cells if cell not in done]
    if missing:
        parts.append("Failed or missing:\n\n" + "\n".join(f"- {cell}" for cell in missing))
    text = "\n\n".join(parts)
    print(f"\n{text}")
    if rows:
        (pathlib.Path(folder) / "results.md").write_text(text + "\n")
        results.write_csv(pathlib.Path(folder) / "results.csv", rows)
    return rows


def differences(rows, reference):
    from keras_bikd import results

    lines = ["| method | difference | worst seed | wins | p |", "|---|---:|---:|---:|---:|"]
    for method in dict.fromkeys(row["method"] for row in rows):
        told = None if method == reference else results.paired(rows, method, reference, "overall")
        if told:
            p = "–" if told["p"] is None else f"{told['p']:.2g}"
            wins = f"{told['wins']}/{told['seeds']}"
            lines.append(f"| {method} | {told['difference']:+.1f} | {told['worst']:+.1f} | {wins} | {p} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="data", help=f"one or more of {', '.join(SETTINGS)}")
    parser.add_argument("--paper", action="store_true", help="Table 1 of the paper: cifar10 and cifar100")
    parser.add_argument("--study", choices=list(STUDIES), help="instead of the methods, in digits-noise or another set")
    parser.add_argument("--methods", nargs="+", help=f"of: {'; '.join(METHODS)}".replace("%", "%%"))
    parser.add_argument("--imbalance-factors", type=float, nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--folder", default="runs/compare")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the steps")
    given = vars(parser.parse_args())
    if given.pop("paper"):
        given["settings"] = list(PAPER)
    main(given.pop("settings"), **given)
