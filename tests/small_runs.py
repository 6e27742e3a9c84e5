"""A plain Keras model that is trained within a second, with an exact backup."""

import keras
import numpy as np
import tensorflow as tf

import models


def small(**kwargs):
    models.reseed()
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dropout(0.5)])
    model.compile(keras.optimizers.Adam(0.1), "mse", metrics=["mae"], **kwargs)
    x, y = np.random.default_rng(0).normal(size=(2, 24, 3)).astype("float32")
    batches = tf.data.Dataset.from_tensor_slices((x, y[:, :2])).shuffle(24, seed=3).batch(4)
    return model, batches


class StopAfter(keras.callbacks.Callback):
    """An exception in the place of a kill, after so many batches."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def train_small(folder, every, *callbacks, exit_code=None):
    """Six batches per epoch, three epochs; returns the model and the logs."""
    from keras_bikd.callbacks import ExactBackup
    from keras_bikd.data import resumable

    model, batches = small(run_eagerly=True)
    model.layers[1].rate = 0.0  # a plain Keras model does not save the seeds of its dropout
    stream, position = resumable(batches)
    rows = []
    record = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: rows.append((epoch, dict(logs))))
    backup = ExactBackup(folder, position, every=every, exit_code=exit_code)
    model.fit(stream, shuffle=False, steps_per_epoch=6, epochs=3, verbose=0, callbacks=[backup, record, *callbacks])
    return model, rows
