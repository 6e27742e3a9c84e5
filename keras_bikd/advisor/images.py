"""Images in a folder or in a set of tfds: small networks for them, and a student that takes their pixels."""

import functools
import os
import pathlib
import re
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import layers

from keras_bikd.advisor.inputs import Inputs, with_classes
from keras_bikd.advisor.samples import Export, Samples, of_rows, samples_of
from keras_bikd.long_tail import exponential_counts
from keras_bikd.networks import cifar_resnet

_SIDE = 32  # pixels of the maps that the small networks work on: larger images cost no more
_WIDTHS = {"student": (16, 16, 32, 64), "teacher": (16, 32, 64, 128)}
_DEPTHS = {"student": 8, "teacher": 14}
_L2 = 2.5e-4
_COLOURS = {1: "grayscale", 3: "rgb", 4: "rgba"}


def read_images(path: str | os.PathLike[str], image_size: Sequence[int] = (64, 64), *, flip: bool = True) -> Inputs:
    """Read a folder with one sub-folder of images per class for `compare`.

    All images are decoded once. Those that cannot be, and folders without images, are left out, with a warning that
    names them.

    The student is a ResNet-8. The teacher is a ResNet-14 with twice the channels; or, if the ImageNet weights of
    MobileNetV2 are in Keras' folder already, that network, of which the last layer is trained. Nothing is downloaded.

    Args:
        path: The folder.
        image_size: `(height, width)` to resize to. The first layer of the ResNets shrinks larger images to 32 pixels,
            so they cost no more.
        flip: Whether a mirrored image is of the same class; not so for letters and digits.

    Returns:
        `Inputs`.

    Raises:
        ValueError: If there are fewer than two classes with images.

    Examples:
        >>> import tempfile
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
    from keras_bikd import data  # which imports TensorFlow or Grain

    samples = samples_of("data", data.Folder(path, image_size, skip_unreadable=True))

    def like(other: str | os.PathLike[str]) -> Samples:
        more = samples_of("data", data.Folder(other, image_size, skip_unreadable=True))
        return with_classes(more, samples.class_names, os.fspath(other))

    return _inputs(samples, (*image_size, 3), like, flip)


def read_tfds(
    name: str,
    image_size: Sequence[int] | None = None,
    *,
    imbalance_factor: float | None = None,
    flip: bool = True,
) -> Inputs:
    """Read an image set of TensorFlow Datasets for `compare`, with its own test split as test data if it has one.

    Args:
        name: Name of the set, such as `"cifar100"`.
        image_size: `(height, width)` to resize to; by default the size that the images have.
        imbalance_factor: Largest class count over smallest, to cut a balanced set to a long tail; by default all
            images are used.
        flip: Whether a mirrored image is of the same class.

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
    from keras_bikd import data

    source = data.Tfds(name, image_size=image_size)
    samples = of_rows(source, source.rows(_long_tailed(source.labels, imbalance_factor), source.labels))

    def like(other: str | os.PathLike[str]) -> Samples:
        more = samples_of("data", data.Folder(other, source.sample_shape[:2], skip_unreadable=True))
        return with_classes(more, samples.class_names, os.fspath(other))

    test = of_rows(source, source.test_rows()) if source.test_size else None
    return _inputs(samples, source.sample_shape, like, flip, test)


def _long_tailed(labels: np.ndarray, imbalance_factor: float | None) -> np.ndarray:
    """Ids of a long tail, or of all samples."""
    if imbalance_factor is None:
        return np.arange(len(labels))
    own = [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]
    random, counts = np.random.default_rng(0), exponential_counts(min(map(len, own)), imbalance_factor, len(own))
    return np.sort(np.concatenate([random.permutation(ids)[:count] for ids, count in zip(own, counts)]))


def _inputs(
    samples: Samples,
    shape: tuple[int, ...],
    like: Callable[[str | os.PathLike[str]], Samples],
    flip: bool,
    test: Samples | None = None,
) -> Inputs:
    from keras_bikd.data import pad_crop_flip

    num_classes = len(samples.class_names)
    pretrained = _cached_weights() if shape[-1] == 3 and min(shape[:2]) >= _SIDE else None
    samples.export = _export(shape)
    return Inputs(
        samples=samples,
        student=functools.partial(_resnet, "student", shape, num_classes),
        teacher=functools.partial(_resnet, "teacher", shape, num_classes)
        if pretrained is None
        else functools.partial(_pretrained, pretrained, shape, num_classes),
        like=like,
        augment=pad_crop_flip(min(4, min(shape[:2]) // 8), flip=flip),
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


def _cached_weights() -> pathlib.Path | None:
    """ImageNet weights of MobileNetV2 in Keras' folder, those of the largest images."""
    folder = pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models"
    pattern = re.compile(r"mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1\.0_(\d+)_no_top\.h5")
    found = {int(match[1]): path for path in folder.glob("*.h5") if (match := pattern.fullmatch(path.name))}
    return found[max(found)] if found else None


def _pretrained(weights: pathlib.Path, shape: tuple[int, ...], num_classes: int) -> keras.Model:
    """MobileNetV2 with ImageNet weights, of which only a last layer is trained. It takes images in 0..1, as all do."""
    trunk = keras.applications.MobileNetV2(input_shape=shape, include_top=False, weights=str(weights), pooling="avg")
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
