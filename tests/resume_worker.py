"""A training as a program of its own, to be killed: `resume_worker.py FOLDER EVERY|epoch [slow]`.

Long-tailed digits with noise, shuffled; a student with dropout and batch norm; k = 3 across epochs of 25 batches.
Writes `state.npz`, all that training has changed, and the metrics of every epoch. `slow` waits after each batch, to be
killed.
"""

import csv
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import keras
import numpy as np
from keras import layers

import keras_bikd as bikd
import models  # noqa: F401  (for the same graphs as in the test that compares)
from keras_bikd.files import atomic_write

STEPS, EPOCHS = 25, 8


def net(units, *middle):
    return keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(units, "relu"), *middle, layers.Dense(10)]
    )


class Rows(keras.callbacks.Callback):
    """The logs of every epoch, appended to a file: the last line of an epoch counts."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        with open(self.path, "a", newline="") as file:
            csv.writer(file).writerow(
                [epoch, *(f"{name}={float(value).hex()}" for name, value in sorted(logs.items()))]
            )


def main(folder, every, slow=""):
    folder = pathlib.Path(folder)
    folder.mkdir(exist_ok=True)
    keras.utils.set_random_seed(0)
    data = bikd.data.load(
        "sklearn_digits", 50, meta_size=100, test_size=500, batch_size=16, augment=bikd.data.gaussian_noise(0.5)
    )
    model = bikd.BiKDModel(net(16, layers.BatchNormalization(), layers.Dropout(0.3)), net(32), inner_steps=3)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), metrics=["accuracy"])
    stream, position = bikd.data.resumable(bikd.data.pair(data.train, data.meta))
    every = None if every == "epoch" else int(every)
    backup = bikd.callbacks.ExactBackup(folder / "backup", position, every, exit_code=os.EX_TEMPFAIL)
    callbacks = [backup, Rows(folder / "epochs.csv")]
    if slow:
        callbacks.append(keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: time.sleep(0.05)))
    model.fit(stream, steps_per_epoch=STEPS, epochs=EPOCHS, verbose=0, callbacks=callbacks)
    state = [*model.variables, *model.optimizer.variables]
    with atomic_write(folder / "state.npz") as unfinished:
        np.savez(unfinished, **{f"{i:03d}": variable.numpy() for i, variable in enumerate(state)})


if __name__ == "__main__":
    keras.config.disable_interactive_logging()
    main(*sys.argv[1:])
