"""A training shared by JAX processes: `process_worker.py FOLDER STEPS [slow]`, with KERAS_DISTRIBUTION_* set, or alone.

Float64, no batch norm, k = 3, backups every fourth batch. `slow` waits after each batch, to be killed. Writes
FOLDER/state_<process>.npz.
"""

import pathlib
import sys
import time

import keras

import keras_bikd as bikd
from keras_bikd.backend import processes


def main(folder, steps, slow=""):
    import os

    if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ:
        keras.distribution.initialize()
        keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    import numpy as np

    import models

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    keras.utils.set_random_seed(0)
    model = models.compiled(inner_steps=3, compile_arguments=models.GRAPH)
    train, meta = models.dataset(models.arrays(80), 8), models.dataset(models.arrays(40, seed=1), 4)
    stream, position = bikd.data.resumable(bikd.data.share_of_process(bikd.data.pair(train, meta)))
    backup = bikd.callbacks.ExactBackup(pathlib.Path(folder, "backup"), position, every=4)
    wait = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: time.sleep(0.3 if slow else 0))
    model.fit(stream, steps_per_epoch=10, epochs=int(steps) // 10, callbacks=[backup, wait], verbose=0)
    state = [*model.student.weights, *model.weight_net.weights, *model.optimizer.variables]
    np.savez(
        pathlib.Path(folder, f"state_{processes()[0]}.npz"), **{f"{i:03d}": v.numpy() for i, v in enumerate(state)}
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
