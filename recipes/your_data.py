"""Which method for your own images: a folder with one sub-folder per class, as long-tailed as it is.

    python recipes/your_data.py my_images --image-size 96 96 --minutes 30

The same as the command `bikd compare my_images --out runs/your_data`, to begin with where that command ends. All
methods train the same student on the same images, and the recommended one is written with a report and a model card.
For a table, `keras_bikd.comparison.from_csv.read_table("table.csv", label="fraud")` takes the place of `read_images`.
"""

import argparse
import pathlib

import keras_bikd as bikd


def main(folder, image_size=(64, 64), minutes=None, steps=None, seeds=3, methods=None, out="runs/your_data"):
    images = bikd.comparison.read_images(folder, image_size)
    protocol = bikd.Protocol(
        methods=methods,
        seeds=tuple(range(seeds)),
        minutes=minutes,
        steps=steps,
        batch_size=32,
        augment=images.augment,
    )
    findings = bikd.compare(images.samples, images.student, images.teacher, folder=out, protocol=protocol)
    print(findings.recommendation)
    findings.report(pathlib.Path(out) / "report.html")
    findings.export(pathlib.Path(out) / "student")
    return findings


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--image-size", type=int, nargs=2, default=[64, 64])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="runs/your_data")
    main(**vars(parser.parse_args()))
