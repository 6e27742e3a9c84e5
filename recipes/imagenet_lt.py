"""BiKD at large scale: ImageNet-LT, 115,846 images of 1,000 classes, as long-tailed as published.

    python recipes/imagenet_lt.py --out runs/imagenet_lt

A ResNet-50 teaches a MobileNetV2. Both are trained from scratch with the paper's step, for 90 epochs. The data set is
streamed; tfds needs the ImageNet archives, which must be downloaded by hand. Four meta images per class are held out of
the training images, because the rarest class has five. The accuracy is that on the balanced test split of the data set.
A killed run resumes from its last epoch when it is started again.

Not run here: that takes the archives and GPUs. The tests run this recipe on a small offline data set. The paper has no
number for ImageNet-LT.
"""

import argparse
import pathlib

import keras

import keras_bikd as bikd

NAME, META_SIZE, BATCH_SIZE, EPOCHS, LEARNING_RATE = "imagenet_lt", 4000, 256, 90, 0.1


def main(out, name=NAME, meta_size=META_SIZE, image_size=(224, 224), batch_size=BATCH_SIZE, epochs=EPOCHS):
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    data = bikd.data.load(
        bikd.data.Tfds(name, image_size=image_size),
        meta_size=meta_size,
        batch_size=batch_size,
        augment=bikd.data.pad_crop_flip(image_size[0] // 8),
    )
    metrics = [bikd.metrics.BalancedAccuracy(data.num_classes), bikd.metrics.ShotAccuracy(data.class_counts)]
    shared = {
        "weights": None,
        "input_shape": (*image_size, 3),
        "classes": data.num_classes,
        "classifier_activation": None,
    }

    # Not `ExactBackup`: to resume, it would decode again all images that have been trained on.
    if (out / "teacher.json").exists():  # written last
        bikd.data.check_manifest(out / "teacher.json", data)
        teacher = keras.saving.load_model(out / "teacher.keras")
    else:
        teacher = keras.applications.ResNet50(**shared)
        cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        teacher.compile(sgd(data, epochs), cross_entropy, metrics=metrics)
        backup = keras.callbacks.BackupAndRestore(out / "teacher_backup")
        teacher.fit(data.train, shuffle=False, epochs=epochs, callbacks=[backup])
        teacher.save(out / "teacher.keras")
        bikd.data.save_manifest(out / "teacher.json", data)

    model = bikd.BiKDModel(keras.applications.MobileNetV2(**shared), teacher, temperature=4.0, inner_steps=5)
    model.compile(sgd(data, epochs), meta_optimizer=keras.optimizers.Adam(1e-3), metrics=metrics)
    backup = keras.callbacks.BackupAndRestore(out / "student_backup")
    model.fit(data.train, meta_data=data.meta, shuffle=False, epochs=epochs, callbacks=[backup])
    model.student.save(out / "student.keras")
    results = model.evaluate(data.test, return_dict=True, verbose=0)
    print({metric: round(value, 4) for metric, value in results.items()})
    return results


def sgd(data, epochs):
    return keras.optimizers.SGD(
        keras.optimizers.schedules.CosineDecay(LEARNING_RATE, len(data.train) * epochs), momentum=0.9
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/imagenet_lt")
    main(**vars(parser.parse_args()))
