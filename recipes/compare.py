"""All methods side by side: same data, same network, same budget, one table.

    python recipes/compare.py digits-noise                          # imbalance 10, 50, 100; six seeds
    python recipes/compare.py glyphs/g100 glyphs/h                  # their own imbalance; three seeds
    python recipes/compare.py keywords                              # text with its natural counts; six seeds
    python recipes/compare.py digits-noise --methods CE KD BiKD --imbalance-factors 50 --seeds 0 1
    python recipes/compare.py digits-noise --study inner-steps --imbalance-factors 50 --folder runs/inner_steps
    python recipes/compare.py glyphs/g100-wrong-labels --study wrong-labels --folder runs/wrong_labels
    python recipes/compare.py --paper                               # Table 1: CIFAR-10 and CIFAR-100; wants a GPU

Every cell (data set, imbalance, method, seed) is written to `runs/compare/` when it is done and skipped afterwards: a
killed run resumes where it stopped, a failed cell is reported and run again the next time, and so is one whose setting
or method has been changed. `--workers 2` runs two at a time, each on one core. The results are in `results.md`,
`results.csv` and a plot per data set and imbalance.

There is one protocol for all. The teacher is in inference mode; it was trained on the same long-tailed data. Accuracy
is balanced accuracy on test samples that are not augmented, after the last step. The table also has that of the epoch
which was best on the un-augmented meta set. The test set is used once per cell, at the end. `+meta` also trains on the
meta samples, the teacher too: BiKD sees them, so the others should.
"""

import argparse
import dataclasses

from compare_methods import METHODS
from compare_studies import LEARNED_FIRST, STUDIES, draw_inner_steps
from keras_bikd import comparison, data
from keras_bikd.comparison import ByteConvNet, Call, CifarResNet, Perceptron

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
        student=Perceptron((12,)),
        teacher=Perceptron((128,)),
        augment=Call(data.gaussian_noise, 0.7),
    ),
    "glyphs/g100": comparison.Setting(
        name="glyphs/g100",
        imbalance_factors=(50.0,),
        seeds=(0, 1, 2),
        meta_size=500,
        passes=10,
        student=CifarResNet(8, (16, 16, 32, 64), stem_stride=2),
        teacher=CifarResNet(8, (32, 32, 64, 128), stem_stride=2),
        augment=Call(data.pad_crop_flip, 1, flip=False),
    ),
    "glyphs/h": comparison.Setting(
        name="glyphs/h",
        imbalance_factors=(100.0,),
        seeds=(0, 1, 2),
        meta_size=400,
        passes=12,
        student=CifarResNet(8, (8, 8, 16, 32), stem_stride=2),
        teacher=CifarResNet(8, (32, 32, 64, 128), stem_stride=2),
        augment=Call(data.pad_crop_flip, 1, flip=False),
    ),
    "keywords": comparison.Setting(
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
    SETTINGS["glyphs/g100"], wrong_labels=0.4, seeds=tuple(range(100, 112))
)
SETTINGS["digits"] = dataclasses.replace(
    SETTINGS["digits-noise"], augment=Call(data.gaussian_noise, 0.15), imbalance_factors=(50.0,)
)
PAPER = {
    name: comparison.Setting(
        name=name,
        imbalance_factors=(10.0, 50.0, 100.0),
        seeds=(0, 1, 2),
        meta_size=1000,
        batch_size=100,
        passes=120,
        student=CifarResNet(8, (32, 64, 128, 256)),
        teacher=CifarResNet(32, (32, 64, 128, 256)),
        augment=Call(data.pad_crop_flip, 4),
    )
    for name in ("cifar10", "cifar100")
}
SETTINGS |= PAPER
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
