"""How many images a second the input pipeline decodes, and how many cores keep a GPU busy.

    python recipes/benchmark_images.py runs/images

Writes a long-tailed folder of JPEG files of the size and number of those of ImageNet-LT: 104,000 of 1,000 classes,
500x375 pixels, about 90 kB each, 10 GB in all. A thousand images are drawn, and each is written to many files. The
folder is loaded as a user would: 224x224, a balanced meta set, the augmentation of `imagenet_lt.py`. The recipe prints
how long it takes to find and check the files, and the images a second. Those per core are per second of processor time:
other work on the machine hardly changes them. Files that are there already are not written again.
"""

import argparse
import io
import os
import pathlib
import time

import keras
import numpy as np
from PIL import Image

import keras_bikd as bikd

CLASSES, LARGEST, SMALLEST = 1000, 420, 8
WIDTH, HEIGHT, IMAGE_SIZE, BATCH_SIZE, DIFFERENT = 500, 375, (224, 224), 256, 1000


def main(folder, classes=CLASSES, batches=30, needed=3000):
    keras.utils.set_random_seed(0)
    counts = bikd.long_tail.exponential_counts(LARGEST, LARGEST / SMALLEST, classes)
    size = write(pathlib.Path(folder), counts)
    print(f"{counts.sum():,} files of {size / 1e3:.0f} kB")

    start = time.perf_counter()
    data = bikd.data.load(
        bikd.data.Folder(folder, IMAGE_SIZE),
        meta_size=4 * classes,
        test_size=classes,
        batch_size=BATCH_SIZE,
        augment=bikd.data.pad_crop_flip(IMAGE_SIZE[0] // 8),
    )
    print(f"found, checked and split in {time.perf_counter() - start:.1f} s")
    second, core = rate(data.train.repeat(), batches)
    print(f"{second:.0f} images a second with {os.cpu_count()} cores, {core:.0f} a second and core")
    print(f"{needed:,} images a second need {needed / core:.0f} such cores")
    return core


def write(folder, counts):
    """Write the files that are missing; returns the mean size of an image in bytes."""
    generator = np.random.default_rng(0)
    images = [drawn(generator) for _ in range(DIFFERENT)]
    for label, count in enumerate(counts):
        own = folder / f"{label:04d}"
        own.mkdir(parents=True, exist_ok=True)
        for i in range(len(list(own.iterdir())), count):
            (own / f"{i:04d}.jpg").write_bytes(images[generator.integers(DIFFERENT)])
    return np.mean([len(image) for image in images])


def drawn(generator):
    """A JPEG file with large shapes and fine grain, as a photograph has."""
    coarse = generator.integers(0, 256, (6, 8, 3)).astype("uint8")
    shapes = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    grain = generator.normal(0, 17, (HEIGHT, WIDTH, 1))
    file = io.BytesIO()
    Image.fromarray(np.clip(shapes + grain, 0, 255).astype("uint8")).save(file, "jpeg", quality=90)
    return file.getvalue()


def rate(batches, count):
    """Images a second, and images a second of processor time."""
    stream = iter(batches)
    for _ in range(3):
        next(stream)
    start, used = time.perf_counter(), time.process_time()
    images = sum(len(next(stream)[1]) for _ in range(count))
    return images / (time.perf_counter() - start), images / (time.process_time() - used)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--classes", type=int, default=CLASSES)
    parser.add_argument("--batches", type=int, default=30, help="to time, of 256 images")
    given = parser.parse_args()
    main(**vars(given))
