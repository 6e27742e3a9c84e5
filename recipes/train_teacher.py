"""Train a teacher on exactly the images its students will be trained on.

    python recipes/train_teacher.py cifar100 --imbalance-factor 50 --out teachers/cifar100_50
    python recipes/train_teacher.py glyphs/g100 --imbalance-factor 50 --out teachers/g100_50    # no download

A ResNet-32x4 with the paper's protocol (section 4.1): SGD 0.1 with momentum 0.9 and L2, 120 epochs, decay at 80 and
100. The recipe writes `teacher.keras` and `teacher.json`, the manifest of the split, which the student recipes check. A
killed run resumes from its last epoch when it is started again, on the same images or not at all.

Paper, Table 1, "Teacher (CE)", at imbalance 10 / 50 / 100: CIFAR-10 90.79 / 82.72 / 77.23, CIFAR-100 65.45 / 51.59 /
45.88. Not run here on CIFAR: that takes a GPU and a download.
"""

import argparse
import pathlib

import glyphs  # noqa: F401 (registers `glyphs`)
import keras

import keras_bikd as bikd

LEARNING_RATE, MOMENTUM, L2 = 0.1, 0.9, 2.5e-4  # L2 of 2.5e-4 is PyTorch's weight decay of 5e-4
BATCH_SIZE, META_SIZE = 100, 1000  # the first as in the authors' code, the second as in section 4.1


def main(name, out, imbalance_factor=50.0, *, loss="ce", epochs=120, seed=0, meta_size=META_SIZE):
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(seed)
    flip = not name.startswith("glyphs")
    data = bikd.data.load(
        name,
        imbalance_factor,
        meta_size=meta_size,
        batch_size=BATCH_SIZE,
        seed=seed,
        augment=bikd.data.pad_crop_flip(4 if flip else 1, flip=flip),
    )
    image_shape = data.sample_shape
    teacher = bikd.networks.resnet32x4(data.num_classes, input_shape=image_shape, l2=L2)
    teacher.compile(
        optimizer=keras.optimizers.SGD(decayed(LEARNING_RATE, len(data.train), epochs), momentum=MOMENTUM),
        loss=losses(data)[loss],
        metrics=[bikd.metrics.BalancedAccuracy(data.num_classes), bikd.metrics.ShotAccuracy(data.class_counts)],
    )
    backup = out / f"backup_{loss}"
    manifest = backup.with_suffix(".json")
    if backup.exists():
        bikd.data.check_manifest(manifest, data)
    bikd.data.save_manifest(manifest, data)
    batches, position = bikd.data.resumable(data.train)
    teacher.fit(
        batches,
        shuffle=False,  # `load` has shuffled already
        epochs=epochs,
        steps_per_epoch=len(data.train),
        callbacks=[
            keras.callbacks.CSVLogger(out / "history.csv", append=backup.exists()),
            bikd.callbacks.ExactBackup(backup, position, exit_code=75),
        ],
    )
    results = teacher.evaluate(data.test, return_dict=True, verbose=0)
    (out / "teacher.json").unlink(missing_ok=True)  # of an earlier teacher
    teacher.save(out / "teacher.keras")
    manifest.replace(out / "teacher.json")
    print({metric: round(value, 4) for metric, value in results.items()})
    return results


def losses(data):
    counts = data.class_counts
    return {
        "ce": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "balanced_softmax": bikd.losses.BalancedSoftmaxLoss(counts),
    }


def decayed(learning_rate, steps_per_epoch, epochs):
    """Divide the rate by ten after two thirds of the epochs, and again after five sixths: 80 and 100 of 120."""
    boundaries = [steps_per_epoch * epochs * part // 6 for part in (4, 5)]
    values = [learning_rate, learning_rate / 10, learning_rate / 100]
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="tfds name: cifar10, cifar100, glyphs/h, glyphs/g100, ...")
    parser.add_argument("--out", required=True)
    parser.add_argument("--imbalance-factor", type=float, default=50.0)
    parser.add_argument("--loss", choices=["ce", "balanced_softmax"], default="ce")
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--meta-size", type=int, default=META_SIZE)
    main(**vars(parser.parse_args()))
