"""BiKD on CIFAR-10-LT: a ResNet-32x4 teaches a ResNet-8x4.

    python recipes/train_teacher.py cifar10 --imbalance-factor 50 --out teachers/cifar10_50
    python recipes/cifar10_lt.py --teacher teachers/cifar10_50 --imbalance-factor 50

To run the same recipe offline on drawn images, train the teacher on `glyphs/h` and add `--data glyphs/h`.

With KERAS_BACKEND=jax, `--data-parallel` shares each batch among all devices: among those of several processes or hosts
if KERAS_DISTRIBUTION_JOB_ADDRESSES, KERAS_DISTRIBUTION_NUM_PROCESSES and KERAS_DISTRIBUTION_PROCESS_ID are set. With
KERAS_BACKEND=torch, it shares each batch among the processes that `torchrun` has started.

Paper, Table 1, "Ours": 88.85 / 82.45 / 75.91 at imbalance 10 / 50 / 100 (mean of three seeds, selection not stated).
This recipe: last epoch, mean and spread over the seeds. Not run here on CIFAR: that takes a GPU and a download.

A killed run resumes from its last epoch, one that ends with SIGTERM from its last batch, and then its exit code is 75.
Name the seeds that are not finished: `--seeds 1 2`.
"""

import argparse
import os
import pathlib
import statistics

import glyphs  # noqa: F401 (registers `glyphs`)
import keras

import keras_bikd as bikd
from keras_bikd.backend import processes

EPOCHS, TEMPERATURE, LEARNING_RATE, MOMENTUM, L2, META_LEARNING_RATE = 120, 4.0, 0.1, 0.9, 2.5e-4, 1e-3
BATCH_SIZE, META_SIZE = 100, 1000  # 100 meta images per class


def main(
    teacher, imbalance_factor=50.0, inner_steps=5, seeds=(0, 1, 2), data="cifar10", epochs=EPOCHS, meta_size=META_SIZE
):
    teacher = pathlib.Path(teacher)
    results = []
    for seed in seeds:
        keras.utils.set_random_seed(seed)  # the order of a tf.data pipeline depends on it
        split = load(data, imbalance_factor, meta_size)
        looked_at = load(data, imbalance_factor, meta_size).train  # a second one: reading it must not affect training
        bikd.data.check_manifest(teacher / "teacher.json", split)
        image_shape = split.sample_shape
        model = bikd.BiKDModel(
            student=bikd.networks.resnet8x4(split.num_classes, input_shape=image_shape, l2=L2),
            teacher=keras.saving.load_model(teacher / "teacher.keras"),
            temperature=TEMPERATURE,
            inner_steps=inner_steps,
        )
        milestones = [len(split.train) * epochs * part // 6 for part in (4, 5)]  # epochs 80 and 100 of 120
        rates = [LEARNING_RATE, LEARNING_RATE / 10, LEARNING_RATE / 100]
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay(milestones, rates)
        model.compile(
            optimizer=keras.optimizers.SGD(schedule, momentum=MOMENTUM),
            meta_optimizer=keras.optimizers.Adam(META_LEARNING_RATE),
            metrics=[bikd.metrics.BalancedAccuracy(split.num_classes), bikd.metrics.ShotAccuracy(split.class_counts)],
        )
        folder = teacher / f"student_k{inner_steps}_seed{seed}"
        backup = folder / "backup"  # shared by all processes, each of which writes its own files next to it
        process, _, devices = processes()
        if process:
            folder = folder.with_name(f"{folder.name}_process{process}")
        folder.mkdir(exist_ok=True)
        resumes = backup.exists()
        if not resumes:
            (folder / "weights.csv").unlink(missing_ok=True)  # of an earlier run
        watching = [
            bikd.callbacks.HypergradientMonitor(),
            bikd.callbacks.WeightHistory(folder / "weights.csv", split.class_counts, data=looked_at),
            bikd.callbacks.MetaLearningRateScheduler(),
            bikd.callbacks.WeightMap(folder, data=looked_at),
            bikd.callbacks.PerClassReport(folder, split.test, split.class_names),
        ]
        alone = devices == 1
        callbacks = watching if alone else []  # they see the data of one process only
        pairs = bikd.data.share_of_process(bikd.data.pair(split.train, split.meta))
        pairs, position = bikd.data.resumable(pairs)
        callbacks += [
            keras.callbacks.CSVLogger(folder / "history.csv", append=resumes),
            bikd.callbacks.ExactBackup(backup, position, exit_code=75 if alone else None),
        ]
        model.fit(pairs, epochs=epochs, steps_per_epoch=len(split.train), callbacks=callbacks)
        model.student.save(folder / "student.keras")
        # On PyTorch, the metrics of each process are its own.
        test = split.test if keras.backend.backend() == "torch" else bikd.data.share_of_process(split.test)
        results.append(model.evaluate(test, return_dict=True, verbose=0))
    report(results)
    return results


def load(data, imbalance_factor, meta_size):
    flip = not data.startswith("glyphs")
    return bikd.data.load(
        data,
        imbalance_factor,
        meta_size=meta_size,
        batch_size=BATCH_SIZE,
        augment=bikd.data.pad_crop_flip(4 if flip else 1, flip=flip),
    )


def report(results):
    for metric in results[0]:
        values = [100 * result[metric] if metric != "loss" else result[metric] for result in results]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        print(f"{metric}: {statistics.mean(values):.2f}{spread}")


def share_devices():
    """Train on all devices of this process, or of all processes that the environment lists; on JAX and PyTorch."""
    if keras.backend.backend() == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group()
        return
    if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ:
        keras.distribution.initialize()
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))


def arguments(description, data):
    """Parse the command line into arguments of `main`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="folder that train_teacher.py wrote")
    parser.add_argument("--data", default=data)
    parser.add_argument("--imbalance-factor", type=float, default=50.0)
    parser.add_argument("--inner-steps", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--meta-size", type=int, default=META_SIZE)
    parser.add_argument("--data-parallel", action="store_true", help="share batches among devices (JAX and PyTorch)")
    given = vars(parser.parse_args())
    if given.pop("data_parallel"):
        share_devices()
    return given


if __name__ == "__main__":
    main(**arguments(__doc__, data="cifar10"))
