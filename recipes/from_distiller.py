"""`keras.distillation.Distiller` and the models of this library, on the digits of `digits_lt.py`. No download.

    python recipes/from_distiller.py

Same images, networks, optimizer and steps as in `digits_lt.py`; temperature 3, labels and teacher half and half. The
accuracy is that of the last step on 500 clean balanced images that are used for nothing else.

Three seeds take about two minutes on two CPU cores. The results are written to `runs/from_distiller/`.
"""

import argparse
import pathlib

import digits_lt
import keras

import keras_bikd as bikd

TEMPERATURE = 3.0
DISTILLER, KL = "Distiller, default loss", "Distiller, loss=KLDivergence()"


def main(seeds=(0, 1, 2), imbalance_factor=50, steps=digits_lt.STEPS, folder="runs/from_distiller"):
    rows = []
    for seed in seeds:
        keras.utils.set_random_seed(seed)
        data = digits_lt.load(imbalance_factor, seed)
        teacher = digits_lt.perceptron(128, seed)
        teacher.compile(digits_lt.sgd(steps), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        digits_lt.announce("teacher", seed)
        digits_lt.fit(teacher, data, steps)
        for method, build in METHODS.items():
            digits_lt.announce(method, seed)
            data = digits_lt.load(imbalance_factor, seed)
            student = digits_lt.perceptron(12, seed)
            model = build(student, teacher, data.class_counts)
            loss = {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
            is_distiller = isinstance(model, keras.distillation.Distiller)
            model.compile(
                digits_lt.sgd(steps),
                steps_per_execution=digits_lt.STEPS_PER_EXECUTION,
                **(loss if is_distiller else {}),
            )
            digits_lt.fit(model, data, steps)
            rows.append({"method": method, "seed": seed, **scores(student, data)})
    columns = {group: group for group in ("overall", "many", "medium", "few")}
    print(f"\nTest accuracy (%), imbalance {imbalance_factor}, mean of seeds {list(seeds)}, last step\n")
    print(bikd.results.markdown_table(rows, columns))
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    bikd.results.write_csv(folder / "results.csv", rows)
    return rows


def distiller(*loss):
    def build(student, teacher, counts):
        return keras.distillation.Distiller(
            teacher,
            student,
            distillation_losses=keras.distillation.LogitsDistillation(TEMPERATURE, *loss),
            student_loss_weight=0.5,
        )

    return build


def distillation(student, teacher, counts):
    objective = bikd.objectives.KnowledgeDistillation(temperature=TEMPERATURE, hard_weight=0.5, soft_weight=0.5)
    return bikd.DistillationModel(student, teacher, objective)


METHODS = {
    DISTILLER: distiller(),
    KL: distiller(keras.losses.KLDivergence()),
    "DistillationModel": distillation,
    "BiKDModel": lambda student, teacher, counts: bikd.BiKDModel(student, teacher, temperature=TEMPERATURE),
    "BiKDModel(class_counts=...)": lambda student, teacher, counts: bikd.BiKDModel(
        student, teacher, temperature=TEMPERATURE, class_counts=counts
    ),
}


def scores(student, data):
    metrics = [
        bikd.metrics.BalancedAccuracy(data.num_classes),
        bikd.metrics.ShotAccuracy(data.class_counts, digits_lt.MANY_ABOVE, digits_lt.FEW_BELOW),
    ]
    student.compile(metrics=metrics)
    accuracy = student.evaluate(data.test, return_dict=True, verbose=0)
    return {group: 100 * accuracy[key] for group, key in digits_lt.GROUPS.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--imbalance-factor", type=float, default=50)
    parser.add_argument("--steps", type=int, default=digits_lt.STEPS)
    parser.add_argument("--folder", default="runs/from_distiller")
    main(**vars(parser.parse_args()))
