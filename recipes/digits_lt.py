"""BiKD compared with plain training, KD and balanced softmax, on real long-tailed digits. No download.

    python recipes/digits_lt.py
    KERAS_BACKEND=jax python recipes/digits_lt.py

The data are scikit-learn's handwritten digits, cut to an imbalance of 50 (114 images of "0", two of "9"). Normally
distributed noise of 0.7 is added to every training image, so that the student cannot memorise the images. A perceptron
with 12 hidden units learns from one with 128 that was trained on the same long-tailed images. Every student takes the
same 2,000 steps. The accuracy is that of the last step, on 500 clean balanced images that are used for nothing else.

Three seeds take about two minutes on two CPU cores. The results are written to `runs/digits_lt/`.
"""

import argparse
import pathlib
import time

import keras

import keras_bikd as bikd

METHODS = ("CE", "KD", "BiKD", "balanced softmax")
NOISE, BATCH_SIZE, STEPS, TEMPERATURE = 0.7, 64, 2000, 4.0
# On PyTorch, Keras takes one step at a time.
STEPS_PER_EXECUTION = 1 if keras.backend.backend() == "torch" else 50
MANY_ABOVE, FEW_BELOW = 40, 10  # the usual 100 and 20 are for data sets with thousands of images


def main(seeds=(0, 1, 2), imbalance_factor=50, steps=STEPS, folder="runs/digits_lt"):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in seeds:
        keras.utils.set_random_seed(seed)  # the order of a tf.data pipeline depends on it
        data = load(imbalance_factor, seed)
        teacher = perceptron(128, seed)
        teacher.compile(
            sgd(steps),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            steps_per_execution=STEPS_PER_EXECUTION,
        )
        announce("teacher", seed)
        fit(teacher, data, steps)
        for method in METHODS:
            announce(method, seed)
            data = load(imbalance_factor, seed)  # again, so that every method sees the same batches in the same order
            model = build(method, data.class_counts, teacher, seed)
            looked_at = load(imbalance_factor, seed).train  # a second one: reading it must not affect training
            scores = train(model, method, data, steps, folder / f"seed_{seed}", looked_at)
            rows.append({"method": method, "seed": seed, **scores})
    print(f"\nTest accuracy (%), imbalance {imbalance_factor}, mean of seeds {list(seeds)}, last step\n")
    print(bikd.results.markdown_table(rows, {column: column for column in (*GROUPS, "seconds")}))
    bikd.results.write_csv(folder / "results.csv", rows)
    return rows


def load(imbalance_factor, seed):
    return bikd.data.load(
        "sklearn_digits",
        imbalance_factor,
        meta_size=100,
        test_size=500,
        batch_size=BATCH_SIZE,
        seed=seed,
        augment=bikd.data.gaussian_noise(NOISE),
    )


def build(method, class_counts, teacher, seed):
    student = perceptron(12, seed)
    if method == "BiKD":
        return bikd.BiKDModel(student, teacher, temperature=TEMPERATURE, inner_steps=5)
    objective = {
        "CE": bikd.objectives.CrossEntropy(),
        "KD": bikd.objectives.KnowledgeDistillation(temperature=TEMPERATURE),
        "balanced softmax": bikd.objectives.BalancedSoftmax(class_counts=class_counts),
    }[method]
    return bikd.DistillationModel(student, teacher, objective)


def train(model, method, data, steps, folder, looked_at):
    metrics = [
        bikd.metrics.BalancedAccuracy(data.num_classes),
        bikd.metrics.ShotAccuracy(data.class_counts, MANY_ABOVE, FEW_BELOW),
    ]
    name = method.lower().replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    model.compile(sgd(steps), metrics=metrics, steps_per_execution=STEPS_PER_EXECUTION)
    callbacks = [keras.callbacks.CSVLogger(folder / f"{name}_history.csv")]
    if method == "BiKD":
        (folder / "weights.csv").unlink(missing_ok=True)  # of an earlier run
        groups = {"many_above": MANY_ABOVE, "few_below": FEW_BELOW}
        callbacks = [
            bikd.callbacks.WeightMap(folder, data=looked_at),
            bikd.callbacks.WeightHistory(folder / "weights.csv", data.class_counts, data=looked_at, **groups),
            bikd.callbacks.HypergradientMonitor(),
            *callbacks,  # last, because they record what the others have added to the logs
        ]
    start = time.perf_counter()
    fit(model, data, steps, callbacks)
    seconds = time.perf_counter() - start
    model.student.save(folder / f"{name}_student.keras")
    accuracy = model.evaluate(data.test, return_dict=True, verbose=0)
    scores = {group: 100 * accuracy[key] for group, key in GROUPS.items()}
    return {**scores, "seconds": seconds}


GROUPS = {"overall": "balanced_accuracy", "many": "many", "medium": "medium", "few": "few"}


def fit(model, data, steps, callbacks=()):
    meta = {"meta_data": data.meta} if isinstance(model, bikd.BiKDModel) else {}
    model.fit(
        data.train.repeat(),  # shuffled by `load`
        shuffle=False,
        steps_per_epoch=steps // 4,
        epochs=4,
        callbacks=list(callbacks),
        **meta,
    )


def perceptron(hidden_units, seed):
    keras.utils.set_random_seed(seed)
    decay = {"kernel_regularizer": keras.regularizers.L2(2.5e-4), "bias_regularizer": keras.regularizers.L2(2.5e-4)}
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(hidden_units, activation="relu", kernel_initializer="he_normal", **decay),
            keras.layers.Dense(10, kernel_initializer="he_normal", **decay),
        ]
    )


def sgd(steps):
    boundaries = [int(0.66 * steps), int(0.83 * steps)]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, [0.05, 0.005, 0.0005])
    return keras.optimizers.SGD(schedule, momentum=0.9)


def announce(what, seed):
    print(f"\n{what}, seed {seed}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--imbalance-factor", type=float, default=50)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--folder", default="runs/digits_lt")
    main(**vars(parser.parse_args()))
