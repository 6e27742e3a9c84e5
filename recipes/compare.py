"""All methods side by side: same data, same network, same budget, one table.

    python recipes/compare.py digits-noise                          # imbalance 10, 50, 100; six seeds
    python recipes/compare.py glyphs/g100 glyphs/h                  # their own imbalance; three seeds
    python recipes/compare.py keywords                              # text with its natural counts; six seeds
    python recipes/compare.py digits-noise --methods CE KD BiKD --imbalance-factors 50 --seeds 0 1
    python recipes/compare.py digits-noise --study inner-steps --imbalance-factors 50 --folder runs/inner_steps
    python recipes/compare.py glyphs/g100-wrong-labels --study wrong-labels --folder runs/wrong_labels
    python recipes/compare.py --study safe-default                  # what is lost if nothing is tuned
    python recipes/compare.py --paper                               # Table 1: CIFAR-10 and CIFAR-100; wants a GPU

Every training (data set, imbalance, method, seed) is written to `runs/compare/` when it is done and skipped afterwards:
a killed run resumes where it stopped, and a failed training is reported and run again the next time, as is one whose
method has been changed. A folder whose setting has been changed is refused. The results are in `results.md`,
`results.csv` and a plot per data set and imbalance.

`--workers 2` runs two trainings at a time, each on one core, on a Dask cluster that starts and ends with the command.
`--scheduler tcp://host:8786` runs them on one of yours. Both want the extra `cluster`.

There is one protocol for all. The teacher is in inference mode; it was trained on the same long-tailed data. Accuracy
is balanced accuracy on test samples that are not augmented, after the last step. The table also has that of the epoch
which was best on the un-augmented meta set. The test set is used after each training, and chooses nothing. `+meta` also
trains on the meta samples, the teacher too: BiKD sees them, so the others should.
"""

import argparse
import pathlib

from compare_methods import METHODS
from compare_protocol import PAPER, SETTINGS, SITUATIONS, table_of
from compare_studies import CONSTANTS, LEARNED_FIRST, STUDIES, draw_inner_steps
from compare_tables import regret_tables, report, rows_of
from keras_bikd import plots

ALL_METHODS = METHODS | {label: method for study in STUDIES.values() for label, method in study.items()}


def main(settings, *, methods=None, study=None, imbalance_factors=None, seeds=None, folder="runs/compare", **how):
    plots.require_matplotlib()  # the figures come at the very end
    methods, quick = methods or list(STUDIES[study] if study else METHODS), how.get("quick", False)
    unknown = [name for name in methods if name not in ALL_METHODS]
    if unknown:
        raise SystemExit(f"There is no method {unknown[0]!r}. Known: {', '.join(ALL_METHODS)}")
    chosen, tables = {name: ALL_METHODS[name] for name in methods}, []
    for name in settings:
        for factor in imbalance_factors or SETTINGS[name].imbalance_factors:
            table = table_of(name, factor, chosen, seeds or SETTINGS[name].seeds, folder, quick)
            print(table, flush=True)
            table.comparison.train(table.comparison.methods, how.get("scheduler") or how.get("workers", 1))
            for failure in table.comparison.failures:
                print(f"FAILED: {table}, {failure.method}, seed {failure.seed}\n{failure.error}", flush=True)
            tables.append(table)
    rows = report(tables, folder, LEARNED_FIRST if study == "wrong-labels" else "balanced softmax")
    if study == "safe-default" and {*methods} >= {*CONSTANTS}:
        text = regret_tables(rows, CONSTANTS)
        pathlib.Path(folder, "regret.md").write_text(text + "\n")
        print(f"\n{text}")
    if study == "inner-steps" and {*methods} >= {*STUDIES[study]}:
        draw(tables)
    return rows


def draw(tables):
    """A figure of inner steps for every table that is complete."""
    for table in tables:
        rows, missing = rows_of(table)
        if not missing:
            draw_inner_steps(rows).savefig(table.comparison.store.folder / "inner_steps.png", dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="data", help=f"one or more of {', '.join(SETTINGS)}")
    parser.add_argument("--paper", action="store_true", help="Table 1 of the paper: cifar10 and cifar100")
    parser.add_argument("--study", choices=list(STUDIES), help="instead of the methods")
    parser.add_argument("--methods", nargs="+", help=f"of: {'; '.join(METHODS)}".replace("%", "%%"))
    parser.add_argument("--imbalance-factors", type=float, nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--folder", default="runs/compare")
    parser.add_argument("--workers", type=int, default=1, help="processes on this machine")
    parser.add_argument("--scheduler", help="address of a Dask scheduler, in the place of --workers")
    parser.add_argument("--quick", action="store_true", help="a hundredth of the steps")
    given = vars(parser.parse_args())
    if given.pop("paper"):
        given["settings"] = list(PAPER)
    if given["study"] == "safe-default":
        given["settings"] = given["settings"] or list(SITUATIONS)
    if not given["settings"]:
        parser.error("name the data to compare on, or pass --paper")
    main(given.pop("settings"), **given)
