"""How good are the recommendations of `compare`? They are judged on test data that they have not seen.

    python recipes/judge_recommendations.py
    python recipes/judge_recommendations.py digits-50 glyphs-h --seeds 0 1 2

In every setting and for every seed a training set is drawn, `compare` chooses a method from it alone, and the students
of all methods are tested. The table says how far behind the best student of all methods the recommended one is, in
points of balanced test accuracy, mean over the rounds of a comparison. The comparisons are kept in `runs/judge` and
resumed.
"""

import argparse
import dataclasses
import pathlib
import statistics
from collections.abc import Callable
from typing import Any

import glyphs  # noqa: F401 (registers `glyphs`)
import keras
import keywords_data  # noqa: F401 (registers `python_keywords`)
from wrong_labels import with_wrong_labels

import keras_bikd as bikd
from compare_networks import ByteConvNet, CifarResNet, Perceptron

RECOMMENDED = "as recommended"


@dataclasses.dataclass(frozen=True)
class Situation:
    """A data set, its networks, and what is known of the teacher and the labels."""

    name: str
    imbalance: float | None
    student: Any
    teacher: Any
    steps: int
    augment: Callable | None = None
    sizes: dict = dataclasses.field(default_factory=lambda: {"meta_size": 100, "test_size": 500})
    wrong_labels: float = 0.0
    teacher_is: str = "trained on the same samples"


DIGITS = Situation("sklearn_digits", 50, Perceptron((12,)), Perceptron((128,)), 1000, bikd.data.gaussian_noise(0.7))
CHECKED = {"meta_size": 100, "validation_size": 100, "test_size": 500}
GLYPHS = Situation(
    "glyphs/h",
    100,
    CifarResNet(8, (8, 8, 16, 32), stem_stride=2),
    CifarResNet(8, (16, 16, 32, 64), stem_stride=2),
    600,
    bikd.data.pad_crop_flip(1, flip=False),
    {"meta_size": 400},
)
SITUATIONS = {
    "digits-10": dataclasses.replace(DIGITS, imbalance=10),
    "digits-50": DIGITS,
    "digits-100": dataclasses.replace(DIGITS, imbalance=100),
    "digits-weak-teacher": dataclasses.replace(DIGITS, teacher_is="weak"),
    "digits-strong-teacher": dataclasses.replace(DIGITS, teacher_is="strong"),
    "digits-wrong-labels": dataclasses.replace(DIGITS, wrong_labels=0.3, sizes=CHECKED),
    "keywords": Situation(
        "python_keywords/small",
        None,
        ByteConvNet(16, (16, 16)),
        ByteConvNet(16, (64, 64), dropout=0.1),
        600,
        sizes={"meta_size": 350},
    ),
    "glyphs-h": GLYPHS,
}


def main(names=(), seeds=(0, 1, 2), folder="runs/judge"):
    behind = {}
    for name in names or SITUATIONS:
        for seed in seeds:
            findings = comparison(SITUATIONS[name], seed, pathlib.Path(folder, f"{name}_{seed}"))
            tested = {
                method: statistics.mean(row["test"] for row in findings.rows if row["method"] == method)
                for method in findings.methods
            }
            chosen, best = findings.recommendation.method, max(tested, key=tested.get)
            policies = {RECOMMENDED: chosen, **{f"always {method}": method for method in tested}}
            behind[name, seed] = {policy: tested[best] - tested[method] for policy, method in policies.items()}
            cells = name, str(seed), chosen, f"{tested[chosen]:.1f}", best, f"{tested[best]:.1f}"
            print(f"| {' | '.join(cells)} | {behind[name, seed][RECOMMENDED]:.1f} |", flush=True)
    print(f"\n{summary(list(behind.values()))}")
    return {place: points[RECOMMENDED] for place, points in behind.items()}


def summary(behind):
    """How far behind the best method one is who follows the recommendation, and who always takes the same method."""
    # Two runs were trained only where labels looked wrong: that is no policy.
    everywhere = [policy for policy in behind[0] if all(policy in points for points in behind)]
    lines = []
    for policy in everywhere:
        points = [own[policy] for own in behind]
        within = f"{sum(value <= 1 for value in points)} of {len(points)}"
        lines.append([policy, within, f"{statistics.mean(points):.1f}", f"{max(points):.1f}"])
    return bikd.results.markdown(["policy", "within one point", "mean points behind", "most points behind"], lines)


def comparison(situation, seed, folder):
    keras.utils.set_random_seed(seed)
    data = bikd.data.load(situation.name, situation.imbalance, seed=seed, **situation.sizes)
    data = with_wrong_labels(data, situation.wrong_labels)
    given, checked = bikd.comparison.read_data(data), {}
    if situation.wrong_labels:  # some samples were checked: they guide, and they judge
        checked = {"meta_data": given.meta.samples, "validation_data": given.validation.samples}

    def builder(network):
        return lambda: network(data.sample_shape, data.num_classes)

    protocol = bikd.Protocol(steps=situation.steps, augment=situation.augment, seeds=(seed, seed + 10, seed + 20))
    return bikd.compare(
        given.train,
        builder(situation.student),
        teacher_of(situation, data, builder(situation.teacher)),
        folder=folder,
        test_data=given.test.samples,
        **checked,
        protocol=protocol,
    )


def teacher_of(situation, data, builder):
    """A builder; or a model that was trained for too short, or on as many images of every class."""
    if situation.teacher_is == "trained on the same samples":
        return builder
    counts, steps, train = data.class_counts, 60, data
    if situation.teacher_is == "strong":
        train, steps = bikd.data.load(situation.name, 1, seed=data.split.seed, **situation.sizes), situation.steps
        counts = train.class_counts
    keras.utils.set_random_seed(data.split.seed)
    teacher = builder()
    teacher.compile(keras.optimizers.Adam(2e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    teacher.fit(train.train.repeat(), shuffle=False, steps_per_epoch=steps, verbose=0)
    return teacher, counts.tolist()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="situation", help=f"of: {', '.join(SITUATIONS)}; by default all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", default="runs/judge")
    main(**vars(parser.parse_args()))
