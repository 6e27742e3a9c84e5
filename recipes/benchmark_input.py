"""What the input pipeline adds to a training step.

    python recipes/benchmark_input.py

With BiKD, a resnet32x4 teaches a resnet8x4 at batch size 100, on drawn images of the shape of CIFAR, with the CIFAR
augmentation. Single steps are timed in turn: one on a batch fresh from the pipeline, and one on a batch in memory. The
recipe prints the median seconds and their ratio. It takes about two minutes on two CPU cores.
"""

import argparse
import statistics
import time

import glyphs  # noqa: F401 (registers `glyphs`)
import keras

import keras_bikd as bikd


def main(rounds=15, batch_size=100, name="glyphs/h32"):
    keras.utils.set_random_seed(0)
    data = bikd.data.load(name, 20, meta_size=1000, batch_size=batch_size, augment=bikd.data.pad_crop_flip(4))
    shape = {"input_shape": data.sample_shape}
    student, teacher = (
        build(data.num_classes, **shape) for build in (bikd.networks.resnet8x4, bikd.networks.resnet32x4)
    )
    model = bikd.BiKDModel(student, teacher)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    stream = iter(bikd.data.pair(data.train.repeat(), data.meta))
    in_memory = next(stream)
    for _ in range(2):
        model.train_on_batch(*in_memory)
    seconds = {"from the pipeline": [], "in memory": []}
    for _ in range(rounds):
        for source, times in seconds.items():
            start = time.perf_counter()
            model.train_on_batch(*(next(stream) if source == "from the pipeline" else in_memory))
            times.append(time.perf_counter() - start)
    fresh, kept = (statistics.median(times) for times in seconds.values())
    print(f"{fresh:.3f} s from the pipeline, {kept:.3f} s in memory: ratio {fresh / kept:.3f}")
    return fresh / kept


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=100)
    main(**vars(parser.parse_args()))
