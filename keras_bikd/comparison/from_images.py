"""Images in a folder or in a set of tfds: samples, small networks for them, and a student that takes their pixels."""

import functools
import os
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import layers

from keras_bikd import checks, data
from keras_bikd.comparison.samples import Export, Inputs, Samples, of_rows, samples_of, with_classes
from keras_bikd.long_tail import exponential_counts
from keras_bikd.networks import cifar_resnet

_SIDE = 32  # pixels of the maps that the small networks work on: larger images cost no more
_WIDTHS = {"student": (16, 16, 32, 64), "teacher": (16, 32, 64, 128)}
_DEPTHS = {"student": 8, "teacher": 14}
_L2 = 2.5e-4
_COLOURS = {1: "grayscale", 3: "rgb", 4: "rgba"}

BACKBONES = ("MobileNet", "MobileNetV2", "ResNet50V2", "ResNet101V2", "Xception", "NASNetMobile")
"""Networks of `keras.applications` that take pixels from -1 to 1."""


def read_images(
    path: str | os.PathLike[str],
    image_size: Sequence[int] = (64, 64),
    *,
    flip: bool = True,
    backbone: str | None = None,
) -> Inputs:
    """Read a folder with one sub-folder of images per class for `compare`.

    All images are decoded once. Those that cannot be, and folders without images, are left out, with a warning that
    names them.

    The student is a ResNet-8, the teacher a ResNet-14 with twice the channels or a backbone.

    Args:
        path: The folder.
        image_size: `(height, width)` to resize to. The first layer of the ResNets shrinks larger images to 32 pixels,
            so they cost no more.
        flip: Whether a mirrored image is of the same class; not so for letters and digits.
        backbone: Name of a network of `keras.applications` for the teacher, such as `"MobileNetV2"`, with its weights
            of ImageNet, which Keras downloads unless it has them; a last layer on top is trained.

    Returns:
        `Inputs`.

    Raises:
        ValueError: If there are fewer than two classes with images.

    Examples:
        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp(), "pets")
        >>> for name, count in (("cat", 3), ("dog", 2)):
        ...     (folder / name).mkdir(parents=True)
        ...     for i in range(count):
        ...         keras.utils.save_img(
        ...             folder / name / f"{i}.png", np.full((9, 9, 3), i)
        ...         )
        >>> images = read_images(folder, image_size=(16, 16))
        >>> images.samples.class_names, images.samples.class_counts.tolist()
        (['cat', 'dog'], [3, 2])
    """
    samples = samples_of("training", data.Folder(path, image_size, skip_unreadable=True))
    return _inputs(samples, (*image_size, 3), flip, backbone)


def read_tfds(
    name: str,
    image_size: Sequence[int] | None = None,
    *,
    imbalance_factor: float | None = None,
    flip: bool = True,
    backbone: str | None = None,
) -> Inputs:
    """Read an image set of TensorFlow Datasets for `compare`, with its own test split as test data if it has one.

    Args:
        name: Name of the set, such as `"cifar100"`.
        image_size: `(height, width)` to resize to; by default the size that the images have.
        imbalance_factor: Largest class count over smallest, to cut a balanced set to a long tail; by default all
            images are used.
        flip: Whether a mirrored image is of the same class.
        backbone: As in `read_images`.

    Returns:
        `Inputs`, with networks as in `read_images`. Held-out data of your own are folders of images.

    Raises:
        ValueError: If there is no such set, if it is not for classification, or if its images differ in size and no
            `image_size` is given.

    Examples:
        >>> digits = read_tfds("sklearn_digits", imbalance_factor=50)
        >>> digits.samples.class_counts.tolist()
        [174, 112, 72, 47, 30, 19, 12, 8, 5, 3]
    """
    source = data.Tfds(name, image_size=image_size)
    samples = of_rows(source, source.rows(_long_tailed(source.labels, imbalance_factor), source.labels))
    test = of_rows(source, source.test_rows()) if source.test_size else None
    return _inputs(samples, source.sample_shape, flip, backbone, test)


def _long_tailed(labels: np.ndarray, imbalance_factor: float | None) -> np.ndarray:
    """Ids of a long tail, or of all samples."""
    if imbalance_factor is None:
        return np.arange(len(labels))
    own = [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]
    random, counts = np.random.default_rng(0), exponential_counts(min(map(len, own)), imbalance_factor, len(own))
    return np.sort(np.concatenate([random.permutation(ids)[:count] for ids, count in zip(own, counts)]))


def _inputs(
    samples: Samples, shape: tuple[int, ...], flip: bool, backbone: str | None, test: Samples | None = None
) -> Inputs:
    num_classes = len(samples.class_names)
    teacher: Callable[[], keras.Model] = functools.partial(_resnet, "teacher", shape, num_classes)
    if backbone is not None:
        checks.one_of("read_images", "backbone", backbone, BACKBONES)
        teacher = functools.partial(_on_backbone, backbone, shape, num_classes)

    def like(path: str | os.PathLike[str]) -> Samples:
        more = samples_of("held-out", data.Folder(path, shape[:2], skip_unreadable=True))
        return with_classes(more, samples.class_names, os.fspath(path))

    samples.export = _export(shape)
    return Inputs(
        samples=samples,
        student=functools.partial(_resnet, "student", shape, num_classes),
        teacher=teacher,
        like=like,
        augment=data.pad_crop_flip(min(4, min(shape[:2]) // 8), flip=flip),
        test=test,
    )


def _resnet(role: str, shape: tuple[int, ...], num_classes: int) -> keras.Model:
    """A small ResNet; images of twice 32 pixels and more go through a convolution of patches first."""
    inputs = keras.Input(shape)
    patch, x = max(min(shape[:2]) // _SIDE, 1), inputs
    if patch > 1:
        regularizer = keras.regularizers.L2(_L2)
        x = layers.Conv2D(16, patch, patch, use_bias=False, kernel_regularizer=regularizer, name="patches")(x)
    trunk = cifar_resnet(
        _DEPTHS[role],
        _WIDTHS[role],
        num_classes,
        input_shape=tuple(x.shape[1:]),
        stem_stride=2 if min(x.shape[1:3]) >= 24 else 1,
        l2=_L2,
    )
    return keras.Model(inputs, trunk(x), name=role)


def _on_backbone(name: str, shape: tuple[int, ...], num_classes: int) -> keras.Model:
    """A backbone with ImageNet weights, of which only a last layer is trained. It takes images in 0..1, as all do."""
    trunk = getattr(keras.applications, name)(input_shape=shape, include_top=False, pooling="avg")
    trunk.trainable = False
    inputs = keras.Input(shape)
    x = layers.Rescaling(2.0, offset=-1.0)(inputs)
    return keras.Model(inputs, layers.Dense(num_classes)(trunk(x, training=False)), name="teacher")


def _export(shape: tuple[int, ...]) -> Export:
    """A student that takes pixels as they are read from a file, 0 to 255."""
    size = f"target_size={tuple(shape[:2])}, interpolation='bilinear'"
    example = [
        f"image = keras.utils.load_img('image.jpg', color_mode={_COLOURS[shape[-1]]!r}, {size})",
        "inputs = keras.utils.img_to_array(image)[None]",
    ]
    return Export(functools.partial(_of_pixels, tuple(shape)), "\n".join(example))


def _of_pixels(shape: tuple[int, ...], student: keras.Model) -> keras.Model:
    inputs = keras.Input(shape)
    return keras.Model(inputs, student(layers.Rescaling(1 / 255)(inputs)))
