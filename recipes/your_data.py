"""BiKD on your own images: a folder with one sub-folder per class.

    python recipes/your_data.py my_images --image-size 96 96 --meta-size 50 --test-size 100

The folder is used as it is, as long-tailed as it is. A balanced meta set and a balanced test set are held out. A
ResNet-32 teaches a ResNet-8, with the paper's step and a learning rate that falls to zero over `--steps`. A thousand
steps show whether it works; the paper takes fifteen times as many. The recipe writes the student, its class names and
the weight map.
"""

import argparse
import json
import pathlib

import keras

import keras_bikd as bikd


def main(folder, image_size=(64, 64), meta_size=100, test_size=100, steps=1000, batch_size=64, out="runs/your_data"):
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    data = bikd.data.load(
        bikd.data.Folder(folder, image_size),
        meta_size=meta_size,
        test_size=test_size,
        batch_size=batch_size,
        augment=bikd.data.pad_crop_flip(4),
    )
    metrics = [bikd.metrics.BalancedAccuracy(data.num_classes), bikd.metrics.ShotAccuracy(data.class_counts)]
    shape = (*image_size, 3)
    epochs = -(-steps // len(data.train))
    rate = keras.optimizers.schedules.CosineDecay(0.1, epochs * len(data.train))

    teacher = bikd.networks.cifar_resnet(32, (16, 32, 64, 128), data.num_classes, input_shape=shape, l2=2.5e-4)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher.compile(keras.optimizers.SGD(rate, momentum=0.9), cross_entropy, metrics=metrics)
    teacher.fit(data.train, shuffle=False, epochs=epochs)

    model = bikd.BiKDModel(
        student=bikd.networks.cifar_resnet(8, (16, 32, 64, 128), data.num_classes, input_shape=shape, l2=2.5e-4),
        teacher=teacher,
        temperature=4.0,
        inner_steps=5,
    )
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), meta_optimizer=keras.optimizers.Adam(1e-3), metrics=metrics)
    model.fit(data.train, meta_data=data.meta, epochs=epochs, callbacks=[bikd.callbacks.WeightMap(out)])

    model.student.save(out / "student.keras")
    (out / "classes.json").write_text(json.dumps(data.class_names))
    bikd.data.save_manifest(out / "manifest.json", data)
    results = model.evaluate(data.test, return_dict=True, verbose=0)
    print({metric: round(value, 4) for metric, value in results.items()})
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--image-size", type=int, nargs=2, default=[64, 64])
    parser.add_argument("--meta-size", type=int, default=100)
    parser.add_argument("--test-size", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--out", default="runs/your_data")
    main(**vars(parser.parse_args()))
