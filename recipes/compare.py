"""All methods beside each other: same data, same network, same budget, one table.

    python recipes/compare.py digits-noise                          # imbalance 10, 50, 100; six seeds
    python recipes/compare.py glyphs/g100 glyphs/h                  # their own imbalance; three seeds
    python recipes/compare.py digits-noise --methods CE KD BiKD --imbalance-factors 50 --seeds 0 1
    python recipes/compare.py digits-noise --study inner-steps --imbalance-factors 50 --folder runs/inner_steps
    python recipes/compare.py glyphs/g100-wrong-labels --study wrong-labels --folder runs/wrong_labels
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
import statistics

import keras_bikd as bikd
from keras_bikd import comparison, objectives

META_LEARNING_RATE = 1e-3

# The numbers are those of studies on these sets, or the paper's for CIFAR.
SETTINGS = {
    "digits-noise": comparison.Setting(
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
    "glyphs/g100": comparison.Setting(
        name="glyphs/g100",
        imbalance_factors=(50.0,),
        seeds=(0, 1, 2),
        meta_size=500,
        passes=10,
        student_widths=(16, 16, 32, 64),
        teacher_widths=(32, 32, 64, 128),
    ),
    "glyphs/h": comparison.Setting(
        name="glyphs/h",
        imbalance_factors=(100.0,),
        seeds=(0, 1, 2),
        meta_size=400,
        passes=12,
        student_widths=(8, 8, 16, 32),
        teacher_widths=(32, 32, 64, 128),
    ),
}
# As collected from the web: four labels of ten are wrong; five checked images per class. Seeds that chose nothing.
SETTINGS["glyphs/g100-wrong-labels"] = dataclasses.replace(
    SETTINGS["glyphs/g100"], wrong_labels=0.4, seeds=tuple(range(100, 112))
)
SETTINGS["digits"] = dataclasses.replace(SETTINGS["digits-noise"], augment=("noise", 0.15), imbalance_factors=(50.0,))
PAPER = {
    name: comparison.Setting(
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


def fixed(objective, **arguments):
    """A method that minimises an objective; it is given the parts."""

    def make(parts):
        return bikd.DistillationModel(parts.student, parts.teacher, objective(parts))

    return comparison.Method(make=make, **arguments)


def bikd_model(arguments=lambda parts: {}, **method):
    """A method that is BiKD; `arguments(parts)` are its own."""

    def make(parts):
        return bikd.BiKDModel(parts.student, parts.teacher, **arguments(parts))

    return comparison.Method(make=make, **method)


def rwkd_model(parts):
    return bikd.RWKDModel(parts.student, parts.teacher)


def lfme_model(parts):
    from keras_bikd.deprecated import LFMEModel

    return LFMEModel(parts.student, parts.teacher, parts.counts)


def corrected_teacher(parts):
    return {"hard": objectives.CrossEntropy(), "soft": objectives.SoftTargets(class_counts=parts.teacher_counts)}


def prior_input(parts):
    return {"weight_net": bikd.MetaWeightNet(class_counts=parts.counts)}


def preset(parts):
    """The two losses of `BiKDModel(class_counts=...)`; the teacher may have been trained on other counts."""
    return {"candidate_losses": {**corrected_teacher(parts), "hard": balanced_softmax(parts)}}


def constant(hard, soft):
    """The preset's two losses under constant weights."""

    def objective(parts):
        losses = preset(parts)["candidate_losses"]
        return objectives.WeightedSum(objectives=(losses["hard"], losses["soft"]), weights=(hard, soft))

    return objective


def trusted(objective):
    """Each sample weighted by the teacher's probability of its label."""
    return lambda parts: objectives.TeacherTrust(objective=objective(parts))


twin = constant(0.5, 0.5)


def cckd(parts):
    prior = objectives.teacher_prior_of(parts.teacher, parts.meta)
    return objectives.ClassConditionalDistillation(class_counts=parts.counts, teacher_prior=prior)


def cross_entropy(parts):
    return objectives.CrossEntropy()


def balanced_softmax(parts):
    return objectives.BalancedSoftmax(class_counts=parts.counts)


def kd(parts):
    return objectives.KnowledgeDistillation()


def corrected_kd(parts):
    return objectives.WeightedSum(objectives=tuple(corrected_teacher(parts).values()), weights=(0.5, 0.5))


def dive(parts):
    return objectives.DistillingVirtualExamples(class_counts=parts.counts, temperature=4.0)


METHODS = {
    "CE": fixed(cross_entropy),
    "balanced softmax": fixed(balanced_softmax),
    "KD": fixed(kd),
    "WSL": fixed(lambda parts: objectives.WeightedSoftLabels()),
    "RW-KD": comparison.Method(make=rwkd_model),
    "BKD": fixed(lambda parts: objectives.BalancedKnowledgeDistillation(class_counts=parts.counts)),
    "CCKD (training_prior)": fixed(cckd),
    "DiVE": fixed(dive),
    "DiVE (balanced teacher)": fixed(dive, teacher="balanced_softmax"),
    "LFME": comparison.Method(make=lfme_model, teacher="experts", sampling="class_balanced"),
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
    "balanced softmax + KD, corrected teacher +meta, weighted by teacher": fixed(trusted(twin), meta_in_train=True),
    "BiKD +meta": bikd_model(meta_in_train=True),
    "BiKD, class counts +meta": bikd_model(preset, meta_in_train=True),
    "BiKD, class counts +meta, half": bikd_model(preset, meta_in_train=0.5),
}


INNER_STEPS = (1, 2, 5, 10, 20)


def inner_steps_study():
    for k in INNER_STEPS:
        for rate in (META_LEARNING_RATE, META_LEARNING_RATE * k / 5):
            yield f"k={k}, rate {rate:.1g}", bikd_model(lambda parts, k=k: {"inner_steps": k}, meta_learning_rate=rate)


def fixed_weights_study():
    def mix(hard, soft):
        def objective(parts):
            return objectives.KnowledgeDistillation(hard_weight=hard, soft_weight=soft)

        return objective

    for soft in (0.0, 0.25, 0.5, 0.75, 1.0):
        yield f"constant {1 - soft:g}/{soft:g}", fixed(mix(1 - soft, soft))
        yield f"constant {1 - soft:g}/{soft:g}, class counts", fixed(constant(1 - soft, soft))
    for k in (1, 5):
        rate = META_LEARNING_RATE * k / 5
        yield f"BiKD k={k}", bikd_model(lambda parts, k=k: {"inner_steps": k}, meta_learning_rate=rate)
        learned = bikd_model(lambda parts, k=k: {"inner_steps": k, **preset(parts)}, meta_learning_rate=rate)
        yield f"BiKD k={k}, class counts", learned


def meta_study(field, values, name):
    for value in values:
        yield f"BiKD, {name(value)}", bikd_model(**{field: value})
        yield f"BiKD, class counts, {name(value)}", bikd_model(preset, **{field: value})


LEARNED_FIRST = "BiKD, class counts, weights learned first, then +meta, half"


def wrong_labels_study():
    """All have the same checked images. The constants and the share of meta images were tuned on seeds 10 and 11."""
    both = constant(2.0, 2.0)
    half = {"meta_in_train": 0.5}

    def twice(parts):
        losses = preset(parts)["candidate_losses"]
        return {name: objectives.WeightedSum(objectives=(loss,), weights=(2.0,)) for name, loss in losses.items()}

    def trusted_labels(parts):
        soft = preset(parts)["candidate_losses"]["soft"]
        return objectives.WeightedSum(objectives=(trusted(balanced_softmax)(parts), soft), weights=(2.0, 2.0))

    def under_learned_weights(parts, model):
        objective = bikd.LearnedWeights(model.weight_net, twice(parts))
        return bikd.DistillationModel(parts.student, parts.teacher, objective)

    learned = bikd_model(lambda parts: preset(parts) | prior_input(parts), meta_shift="none")
    with_meta = bikd_model(
        lambda parts: {"candidate_losses": twice(parts)} | prior_input(parts), meta_shift="none", **half
    )
    yield "constant 2/0 +meta, half", fixed(constant(2.0, 0.0), **half)
    yield "constant 2/2 +meta, half", fixed(both, **half)
    yield "constant 2/2 +meta, half, twice the steps", fixed(both, **half, budget=2)
    yield "constant 2/2 +meta, half, three times the steps", fixed(both, **half, budget=3)
    yield "constant 2/2 +meta, half, last layer retrained on meta", fixed(both, **half, retrain_last_layer=True)
    yield "constant 2/2 +meta, half, weighted by teacher", fixed(trusted(both), **half)
    yield "constant 2/2 +meta, half, labels weighted by teacher", fixed(trusted_labels, **half)
    yield "constant 2/2, meta images only", fixed(both, train_on="meta", meta_in_train=True)
    yield "BiKD, class counts, log prior", learned
    yield "BiKD, class counts, log prior +meta, half", with_meta
    two_runs = comparison.Method(make=under_learned_weights, before=learned, **half)
    yield LEARNED_FIRST, two_runs
    yield f"{LEARNED_FIRST}, twice the steps", dataclasses.replace(two_runs, budget=2)


STUDIES = {
    "wrong-labels": dict(wrong_labels_study()),
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


def lookup(cell):
    """Setting and method of a cell."""
    return SETTINGS[cell.setting], ALL_METHODS[cell.method]


def main(settings, *, methods=None, study=None, imbalance_factors=None, seeds=None, folder="runs/compare", **how):
    methods = methods or list(STUDIES[study] if study else METHODS)
    unknown = [name for name in methods if name not in ALL_METHODS]
    if unknown:
        raise SystemExit(f"There is no method {unknown[0]!r}. Known: {', '.join(ALL_METHODS)}")
    quick, workers = how.get("quick", False), how.get("workers", 1)
    cells = [
        comparison.Cell(name, factor, method, seed, quick)
        for name in settings
        for factor in imbalance_factors or SETTINGS[name].imbalance_factors
        for seed in seeds or SETTINGS[name].seeds
        for method in methods
    ]
    comparison.run_cells(cells, lookup, folder, workers)
    reference = LEARNED_FIRST if study == "wrong-labels" else "balanced softmax"
    rows = comparison.report(cells, lookup, folder, reference)
    if study == "inner-steps":
        for table in dict.fromkeys((cell.setting, cell.imbalance_factor) for cell in cells):
            own = [row for row in rows if (row["data"], row["imbalance_factor"]) == table]
            cells_of_table = [cell for cell in cells if (cell.setting, cell.imbalance_factor) == table]
            if len(own) == len(cells_of_table) and {*methods} >= {*STUDIES[study]}:
                figure = draw_inner_steps(own)
                figure.savefig(cells_of_table[0].folder(folder) / "inner_steps.png", dpi=150)
    return rows


def draw_inner_steps(rows):
    """Accuracy over k, at one learning rate of the weight network and at one that grows with k."""
    scores = {}
    for row in rows:
        scores.setdefault(row["method"], []).append(row["overall"])
    labels = {
        f"rate {META_LEARNING_RATE:.0e}": [f"k={k}, rate {META_LEARNING_RATE:.1g}" for k in INNER_STEPS],
        "rate 2e-04 x k": [f"k={k}, rate {META_LEARNING_RATE * k / 5:.1g}" for k in INNER_STEPS],
    }
    means = {label: [statistics.mean(scores[name]) for name in names] for label, names in labels.items()}
    spreads = {
        label: [statistics.stdev(scores[name]) if len(scores[name]) > 1 else 0.0 for name in names]
        for label, names in labels.items()
    }
    return bikd.plots.inner_steps_curve(INNER_STEPS, means, spreads)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="data", help=f"one or more of {', '.join(SETTINGS)}")
    parser.add_argument("--paper", action="store_true", help="Table 1 of the paper: cifar10 and cifar100")
    parser.add_argument("--study", choices=list(STUDIES), help="instead of the methods")
    parser.add_argument("--methods", nargs="+", help=f"of: {'; '.join(METHODS)}".replace("%", "%%"))
    parser.add_argument("--imbalance-factors", type=float, nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--folder", default="runs/compare")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the steps")
    given = vars(parser.parse_args())
    if given.pop("paper"):
        given["settings"] = list(PAPER)
    if not given["settings"]:
        parser.error("name the data to compare on, or pass --paper")
    main(given.pop("settings"), **given)
