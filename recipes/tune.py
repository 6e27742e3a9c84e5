"""Search inner steps, temperature and meta learning rate of BiKD; then compare the best with the defaults.

    python recipes/tune.py                                       # digits with noise, 12 trials, about three minutes
    python recipes/tune.py --data glyphs/g100 --steps 800
    python recipes/tune.py --tuner hyperband
    python recipes/tune.py --data cifar100 --steps 14880 --trials 30     # needs a GPU; not run here

The search chooses by balanced accuracy on a validation split that is neither the meta nor the test set. A killed search
resumes when it is started again; finished trials are not repeated. Every search writes `trials.md`, `search.png`,
`best.json` and `results.md` to its own folder in `runs/tune/`. `results.md` holds the test accuracy of the best
configuration and of the defaults, each trained again with three seeds on three splits.

With several workers, here a chief and two workers on one machine:

    python recipes/tune.py --workers 2

The recipe then starts itself with Keras Tuner's variables: `KERASTUNER_TUNER_ID=chief` or `worker0`, ..., and for all
processes `KERASTUNER_ORACLE_IP` and `KERASTUNER_ORACLE_PORT`. On several machines, set them by hand and share the
folder. A worker that was killed is started again under the same id, and gets its trial back.
"""

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time

import glyphs  # noqa: F401 (registers `glyphs`)
import keras
from figures import parallel_coordinates

import keras_bikd as bikd
from keras_bikd.files import atomic_write

DEFAULTS = {"inner_steps": 5, "temperature": 4.0, "meta_learning_rate": 1e-3}


def main(data="digits-noise", *, tuner="bayesian", trials=12, steps=2000, folder="runs/tune", seeds=(0, 1, 2)):
    bikd.plots.require_matplotlib()  # now, because the figure is drawn at the very end
    folder = pathlib.Path(folder) / f"{data.replace('/', '_')}_{steps}"
    split = load(data, seed=0)
    teacher = trained_teacher(data, split, steps, folder / "teacher.keras", seed=0)
    search = tuner_of(tuner, data, split, bikd.TeacherReference(teacher), steps, trials, folder)
    epochs = {} if tuner == "hyperband" else {"epochs": 10}
    search.search(
        split.train.repeat(),
        shuffle=False,
        steps_per_epoch=steps // 10,
        meta_data=split.meta,
        validation_data=split.validation,
        verbose=0,
        **epochs,
    )
    if is_worker():
        return None
    rows = trial_rows(search)
    write_trials(rows, folder)
    best = {name: search.get_best_hyperparameters()[0].values[name] for name in DEFAULTS}
    (folder / "best.json").write_text(json.dumps(best, indent=1) + "\n")
    return compare(data, best, steps, seeds, folder)


def tuner_of(kind, data, split, teacher, steps, trials, folder):
    import keras_tuner

    model = bikd.tuner.BiKDHyperModel(
        lambda hp: student_of(data, split),
        teacher,
        split.num_classes,
        optimizer_builder=lambda rate: sgd(data, steps),
        compile_arguments={"steps_per_execution": max(n for n in (1, 5, 10, 20) if steps // 10 % n == 0)},
    )
    options = {"objective": bikd.tuner.OBJECTIVE, "seed": 0, "directory": folder, "project_name": kind}
    options["max_consecutive_failed_trials"] = 100
    if kind == "hyperband":
        return keras_tuner.Hyperband(model, max_epochs=10, **options)
    classes = {"bayesian": keras_tuner.BayesianOptimization, "random": keras_tuner.RandomSearch}
    return classes[kind](model, max_trials=trials, **options)


def trial_rows(search):
    rows = [
        {
            "trial": trial.trial_id,
            **{name: trial.hyperparameters.values[name] for name in DEFAULTS},
            "score": trial.score,
        }
        for trial in search.oracle.trials.values()
        if trial.status == "COMPLETED"
    ]
    return sorted(rows, key=lambda row: -row["score"])


def write_trials(rows, folder):
    lines = [
        "| trial | k | temperature | meta learning rate | balanced accuracy (validation) |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        numbers = f"{row['inner_steps']} | {row['temperature']:.2f} | {row['meta_learning_rate']:.1e}"
        lines.append(f"| {row['trial']} | {numbers} | {100 * row['score']:.1f} |")
    (folder / "trials.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    figure = parallel_coordinates(rows, [*DEFAULTS, "score"], logarithmic=("meta_learning_rate",))
    figure.savefig(folder / "search.png", dpi=150)


def compare(data, best, steps, seeds, folder):
    """Compare the best configuration with the defaults on test images of fresh splits, each with its own teacher."""
    rows = []
    for seed in seeds:
        split = load(data, seed=seed + 100)  # fresh: the search has chosen on the split of seed 0
        teacher = trained_teacher(data, split, steps, folder / f"teacher_{seed + 100}.keras", seed=seed + 100)
        for method, chosen in (("defaults", DEFAULTS), ("best of the search", best)):
            row = trained_row(folder / f"{method.replace(' ', '_')}_{seed}.json", chosen)
            if row is None:
                accuracy = train(data, split, teacher, chosen, steps, seed)
                row = {"method": method, "seed": seed, "chosen": chosen, "accuracy": accuracy}
                bikd.results.save_row(folder / f"{method.replace(' ', '_')}_{seed}.json", row)
            rows.append(row)
    table = bikd.results.markdown_table(rows, {"balanced accuracy (test)": "accuracy"})
    paired = bikd.results.paired(rows, "best of the search", "defaults", "accuracy")
    won = f"{paired['wins']}/{len(seeds)} wins, p = {paired['p'] or float('nan'):.2g}"
    text = f"{table}\n\nBest minus defaults: {paired['difference']:+.1f} ({won})"
    (folder / "results.md").write_text(text + "\n")
    print(f"\n{json.dumps(best)}\n\n{text}")
    return rows


def trained_row(path, chosen):
    row = bikd.results.load_row(path)
    return row if row and row["chosen"] == chosen else None


def train(data, split, teacher, chosen, steps, seed):
    keras.utils.set_random_seed(seed)
    student = student_of(data, split)
    weigh = {"temperature": chosen["temperature"], "inner_steps": chosen["inner_steps"]}
    model = bikd.BiKDModel(student, keras.saving.load_model(teacher), **weigh)
    model.compile(
        sgd(data, steps),
        meta_optimizer=keras.optimizers.Adam(chosen["meta_learning_rate"]),
        metrics=[bikd.metrics.BalancedAccuracy(split.num_classes)],
    )
    model.fit(split.train.repeat(), shuffle=False, steps_per_epoch=steps, meta_data=split.meta, verbose=0)
    return 100 * model.evaluate(split.test, return_dict=True, verbose=0)["balanced_accuracy"]


def load(data, seed):
    keras.utils.set_random_seed(seed)  # the order of a tf.data pipeline depends on it
    if data == "digits-noise":
        sizes = {"meta_size": 100, "validation_size": 100, "test_size": 500, "batch_size": 64}
        noise = bikd.data.gaussian_noise(0.7)
        return bikd.data.load("sklearn_digits", 50, seed=seed, augment=noise, **sizes)
    classes = 100 if data in ("cifar100", "glyphs/g100") else 10
    sizes = {"meta_size": 5 * classes, "validation_size": 10 * classes}
    augment = bikd.data.pad_crop_flip(4) if data.startswith("cifar") else bikd.data.pad_crop_flip(1, flip=False)
    return bikd.data.load(data, 50, seed=seed, augment=augment, **sizes)


def student_of(data, split):
    return network(data, split, (12,), (8, (16, 16, 32, 64)))


def network(data, split, hidden, resnet):
    shape = split.sample_shape
    if data == "digits-noise":
        decay = {"kernel_regularizer": keras.regularizers.L2(2.5e-4)}
        layers = [keras.layers.Dense(n, "relu", **decay) for n in hidden]
        return keras.Sequential([keras.Input(shape), keras.layers.Flatten(), *layers, keras.layers.Dense(10, **decay)])
    depth, widths = resnet
    stem_stride = 2 if shape[0] == 16 else 1
    return bikd.networks.cifar_resnet(
        depth, widths, split.num_classes, input_shape=shape, stem_stride=stem_stride, l2=2.5e-4
    )


def trained_teacher(data, split, steps, path, seed):
    """Path of a teacher of the same long-tailed images, which is trained if there is no such file."""
    if not path.exists() and not is_worker():
        keras.utils.set_random_seed(seed + 500)
        teacher = network(data, split, (128,), (8, (32, 32, 64, 128)))
        teacher.compile(sgd(data, steps), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        teacher.fit(split.train.repeat(), shuffle=False, steps_per_epoch=steps, verbose=0)
        with atomic_write(path) as unfinished:
            teacher.save(unfinished)
    while not path.exists():  # a worker waits for the chief, which trains it
        time.sleep(1)
    return path


def sgd(data, steps):
    rate = 0.05 if data == "digits-noise" else 0.1
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [steps * 4 // 6, steps * 5 // 6], [rate, rate / 10, rate / 100]
    )
    return keras.optimizers.SGD(schedule, momentum=0.9)


def is_worker():
    return "worker" in os.environ.get("KERASTUNER_TUNER_ID", "")


def with_workers(count, arguments, port):
    """Start a chief and `count` workers of this recipe, and wait for the chief, which writes the results.

    A worker that ends with an error is started again under its id, and gets its trial back.
    """
    here = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(port)}

    def start(name):
        command = [sys.executable, __file__, *arguments]
        return subprocess.Popen(command, env={**os.environ, **here, "KERASTUNER_TUNER_ID": name})  # noqa: S603

    chief, workers = start("chief"), {name: start(name) for name in (f"worker{i}" for i in range(count))}
    try:
        while chief.poll() is None:
            time.sleep(1)
            for name, worker in workers.items():
                if worker.poll() not in (None, 0):
                    workers[name] = start(name)
    finally:
        for process in (chief, *workers.values()):
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    return chief.returncode


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits-noise", help="digits-noise, glyphs/g100, cifar100, ...")
    parser.add_argument("--tuner", choices=["bayesian", "random", "hyperband"], default="bayesian")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--folder", default="runs/tune")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=0, help="number of workers, in addition to the chief")
    parser.add_argument("--port", type=int, default=8000, help="port of the chief")
    given = vars(parser.parse_args())
    workers, port = given.pop("workers"), given.pop("port")
    if workers:
        own = [f"--{name}={value}" for name, value in given.items() if name != "seeds"]
        sys.exit(with_workers(workers, [*own, "--seeds", *map(str, given["seeds"])], port))
    main(**given)
