"""Callbacks that look at a training and write down what they see. None of them trains."""

import itertools
import pathlib

import keras
import numpy as np

from keras_bikd import plots
from keras_bikd.data.pairing import batches


class WeightMap(keras.callbacks.Callback):
    """Draw the weights of all training samples over teacher loss and student loss, as Figure 3 of the paper.

    Writes `weight_map_<epoch>.png` and the numbers behind it as `.npz`. One inference pass over the data, at the end
    of the chosen epochs; nothing is added to the training step.

    Args:
        directory: Where to write; created if missing.
        data: Batched data set of `(x, y)` to draw, such as the training set without `repeat()`. By default the
            training data of `fit`, one epoch of it.
        every: Draw after every so many epochs. The last epoch is always drawn.

    Example:
    >>> callback = WeightMap("runs/weights", every=10)

    Reference: arXiv 2605.17839, Figure 3.
    """

    def __init__(self, directory, data=None, every=None):
        super().__init__()
        self.directory = pathlib.Path(directory)
        self.data = data
        self.every = every

    def on_epoch_end(self, epoch, logs=None):
        self._epoch = epoch
        if self.every is not None and (epoch + 1) % self.every == 0:
            self._draw(epoch)

    def on_train_end(self, logs=None):
        if self.every is None or (self._epoch + 1) % self.every != 0:
            self._draw(self._epoch)

    def _draw(self, epoch):
        seen = self.model.sample_weights(self._one_epoch() if self.data is None else self.data)
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"weight_map_{epoch + 1:04d}"
        np.savez_compressed(path.with_suffix(".npz"), **seen._asdict())
        figure = plots.weight_map(seen.teacher_losses, seen.student_losses, seen.weights)
        figure.savefig(path.with_suffix(".png"), dpi=150)

    def _one_epoch(self):
        pairs = batches(self.model.training_pairs)
        return (batch for batch, _ in itertools.islice(pairs, self.params["steps"]))
