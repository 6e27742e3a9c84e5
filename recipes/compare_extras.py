"""What single methods and studies of `compare.py` add to a training: other batches, another meta set, callbacks."""

import contextlib
import pathlib
import random

import keras
import numpy as np

from keras_bikd import losses
from keras_bikd.comparison import Batches, Samples

SHIFTS = ("none", "darker", "moved", "noisier")


def redrawn(batches, subset=None, batch_size=None):
    """The same number of batches, of other samples or of another size."""
    how = {"steps": len(batches), "seed": batches.seed, "augment": batches.augment}
    return Batches(subset or batches.subset, batch_size or batches.batch_size, **how)


def class_balanced(batches):
    """Batches in which every class is equally likely."""
    found, labels = redrawn(batches), batches.subset.labels
    weights = 1 / np.bincount(labels)[labels]
    generator = np.random.default_rng(batches.seed)
    found.order = generator.choice(len(labels), len(found.order), p=weights / weights.sum())
    return found


class StoredViews(Batches):
    """Batches of a fixed number of views of every sample, with the logits of a teacher that are computed once.

    On pass `p` over the samples, each is seen in view `p % views`, a function of the sample and of that number.
    """

    def __init__(self, batches, teacher, views):
        how = {"steps": len(batches), "seed": batches.seed, "augment": batches.augment}
        super().__init__(batches.subset, batches.batch_size, **how)
        self.passes = -(-len(self.order) // len(self.subset.ids))
        everything = np.arange(len(self.subset.ids))
        self.logits = [
            teacher.predict(self.seen(everything, view), batch_size=256, verbose=0)
            for view in range(min(views, self.passes))
        ]

    def seen(self, positions, view):
        """Inputs of samples in one of their views."""
        inputs = self.subset.samples.inputs(self.subset.ids[positions])
        if self.augment is None:
            return inputs
        views = [self.augment(x[None], np.array([position, view])) for x, position in zip(inputs, positions)]
        return np.concatenate([keras.ops.convert_to_numpy(x) for x in views])

    def __getitem__(self, index):
        places = np.arange(index * self.batch_size, (index + 1) * self.batch_size)
        positions = self.order[places]
        # A batch may begin in one pass and end in the next.
        views = places // len(self.subset.ids) % len(self.logits)
        inputs = np.concatenate([self.seen(positions[views == view], view) for view in np.unique(views)])
        order = np.argsort(views, kind="stable")
        logits = np.stack([self.logits[view][position] for view, position in zip(views[order], positions[order])])
        labels = self.subset.labels[positions[order]]
        return inputs, {"labels": labels, "teacher_logits": logits}


def altered_meta(parts, images_per_class=None, wrong_labels=0.0, shift="none"):
    """A worse meta set: smaller, with wrong labels, or of images that differ from those of the test set.

    Args:
        parts: The `Parts` of a training.
        images_per_class: Number of images kept of each class; by default all.
        wrong_labels: Share of images that get the label of another class.
        shift: How images differ: `"none"`, `"darker"` (half as bright), `"moved"` (one pixel to the right) or
            `"noisier"` (Gaussian noise of standard deviation 0.7). For other samples, `"none"`.
    """
    subset, num_classes, seed = parts.clean_meta.subset, len(parts.class_counts), parts.train.seed
    x, y = subset.samples.inputs(subset.ids), subset.labels.copy()
    if shift not in SHIFTS or (shift != "none" and x.ndim != 4):
        raise ValueError(
            f"`altered_meta(shift=...)` takes one of {SHIFTS}, for images. Received: shift={shift!r} and samples of "
            f"shape {x.shape[1:]}"
        )
    if images_per_class is not None:
        kept = np.concatenate([np.flatnonzero(y == label)[:images_per_class] for label in range(num_classes)])
        x, y = x[kept], y[kept]
    generator = random.Random(seed)  # noqa: S311
    wrong = generator.sample(range(len(y)), round(wrong_labels * len(y)))
    y[wrong] = (y[wrong] + [generator.randrange(1, num_classes) for _ in wrong]) % num_classes
    if shift == "darker":
        x = 0.5 * x
    elif shift == "moved":
        x = np.roll(x, 1, axis=2)
    elif shift == "noisier":
        x = x + 0.7 * keras.ops.convert_to_numpy(keras.random.normal(x.shape, seed=seed))
    samples = Samples(x.__getitem__, y, subset.samples.class_names)
    size = min(parts.meta.batch_size, len(y))
    return Batches(samples.all(), size, steps=len(parts.meta), seed=seed)


class RetrainLastLayer(keras.callbacks.Callback):
    """After the training, train the last layer of the student on the meta set with Adam, all other layers frozen."""

    def __init__(self, meta, steps=400, learning_rate=1e-3):
        super().__init__()
        self.meta, self.steps, self.learning_rate = meta, steps, learning_rate

    def on_train_end(self, logs=None):
        student = self.model.student
        for layer in student.layers[:-1]:
            layer.trainable = False
        student.compile(keras.optimizers.Adam(self.learning_rate), losses.hard_loss)
        size = min(self.meta.batch_size, len(self.meta.subset.ids))
        batches = Batches(self.meta.subset, size, steps=self.steps, seed=self.meta.seed)
        student.fit(batches, shuffle=False, epochs=1, steps_per_epoch=self.steps, verbose=0)
        for layer in student.layers:
            layer.trainable = True


class PeakMemory(keras.callbacks.Callback):
    """Peak resident memory of the process in MiB, since the training has begun, as `memory` in the logs. Linux only."""

    STATUS = pathlib.Path("/proc/self/status")

    def on_train_begin(self, logs=None):
        with contextlib.suppress(OSError):  # without the permission, the peak is that of the whole process
            self.STATUS.with_name("clear_refs").write_text("5")

    def on_epoch_end(self, epoch, logs=None):
        if self.STATUS.exists():
            peak = next(line for line in self.STATUS.read_text().splitlines() if line.startswith("VmHWM"))
            logs["memory"] = int(peak.split()[1]) / 1024
