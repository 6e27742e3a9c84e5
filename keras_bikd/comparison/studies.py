"""What single studies add to a training: another meta set, another last layer. To be used in a `Call`."""

import random
from typing import Any

import keras
from keras import ops

from keras_bikd import checks
from keras_bikd.batches.adapters import batches
from keras_bikd.batches.fit_arguments import in_batches
from keras_bikd.losses import hard_loss

SHIFTS = ("none", "darker", "moved", "noisier")


def altered_meta(
    clean_meta: Any,
    *,
    num_classes: int,
    batch_size: int,
    seed: int,
    images_per_class: int | None = None,
    wrong_labels: float = 0.0,
    shift: str = "none",
) -> Any:
    """Make a worse meta set: smaller, with wrong labels, or of images that differ from those of the test set.

    Args:
        clean_meta: The meta set, not augmented.
        num_classes: Number of classes.
        batch_size: Images per batch.
        seed: Seed of the wrong labels and of the noise.
        images_per_class: Number of images kept of each class; by default all.
        wrong_labels: Share of images that get the label of another class.
        shift: How images differ: `"none"`, `"darker"` (half as bright), `"moved"` (one pixel to the right) or
            `"noisier"` (Gaussian noise of standard deviation 0.7). For other samples, `"none"`.

    Returns:
        A `tf.data.Dataset` of batches, reshuffled on every pass.

    Raises:
        ValueError: If `shift` is unknown, or if it is given and there are no images.
    """
    checks.one_of("altered_meta", "shift", shift, SHIFTS)
    x, y = (ops.convert_to_numpy(ops.concatenate(column)) for column in zip(*batches(clean_meta)))
    if shift != "none" and x.ndim != 4:
        raise ValueError(f"`altered_meta(shift={shift!r})` is for images. Received: samples of shape {x.shape[1:]}")
    if images_per_class is not None:
        rows = [i for c in range(num_classes) for i in (y == c).nonzero()[0][:images_per_class]]
        x, y = x[rows], y[rows]
    generator = random.Random(seed)  # noqa: S311
    wrong = generator.sample(range(len(y)), round(wrong_labels * len(y)))
    y[wrong] = (y[wrong] + [generator.randrange(1, num_classes) for _ in wrong]) % num_classes
    if shift == "darker":
        x = 0.5 * x
    elif shift == "moved":
        x = ops.convert_to_numpy(ops.roll(x, 1, axis=2))
    elif shift == "noisier":
        x = x + 0.7 * ops.convert_to_numpy(keras.random.normal(x.shape, seed=seed))
    return in_batches((x, y), batch_size, shuffle=True).batches


def retrain_last_layer(student: keras.Model, meta: Any, *, steps: int = 400, learning_rate: float = 1e-3) -> None:
    """Train the last layer of a student on the meta set with Adam, all other layers frozen.

    Args:
        student: The trained student; changed in place.
        meta: The meta set, not augmented.
        steps: Number of steps.
        learning_rate: Learning rate of Adam.
    """
    for layer in student.layers[:-1]:
        layer.trainable = False
    student.compile(keras.optimizers.Adam(learning_rate), hard_loss)
    student.fit(meta.repeat(), shuffle=False, steps_per_epoch=steps, verbose=0)
    for layer in student.layers:
        layer.trainable = True
