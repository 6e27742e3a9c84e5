"""A training shared by processes: `process_worker.py FOLDER STEPS [slow]`, or of one process alone.

KERAS_DISTRIBUTION_* are set for JAX, the variables of `torchrun` for PyTorch. Float64, no batch norm, k = 3, backups
every fourth batch. `slow` waits after each batch, to be killed. Then a plain distillation of ten steps. Writes
FOLDER/state_<process>.npz and FOLDER/logs_<process>.npz.
"""

import pathlib
import sys
import time

import keras
from keras.src.backend.common import dtypes

import keras_bikd as bikd
from keras_bikd.backend import processes


def main(folder, steps, slow=""):
    import os

    if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ:
        keras.distribution.initialize()
        keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    if "WORLD_SIZE" in os.environ:
        import torch

        torch.distributed.init_process_group("gloo")
    import numpy as np

    import models

    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"  # as in `conftest.floatx`
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    keras.utils.set_random_seed(0)
    model = models.compiled(inner_steps=3, compile_arguments=models.GRAPH)
    train, meta = models.dataset(models.arrays(80), 8), models.dataset(models.arrays(40, seed=1), 4)
    stream, position = bikd.data.resumable(bikd.data.share_of_process(bikd.data.pair(train, meta)))
    backup = bikd.callbacks.ExactBackup(pathlib.Path(folder, "backup"), position, every=4)
    wait = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: time.sleep(0.3 if slow else 0))
    logs = model.fit(stream, steps_per_epoch=10, epochs=int(steps) // 10, callbacks=[backup, wait], verbose=0).history
    plain = bikd.DistillationModel(models.perceptron(), models.perceptron(), bikd.objectives.KnowledgeDistillation())
    plain.compile(keras.optimizers.SGD(0.1, momentum=0.9), metrics=["accuracy"])
    own = plain.fit(bikd.data.share_of_process(train), epochs=1, shuffle=False, verbose=0).history
    state = [*model.student.weights, *model.weight_net.weights, *model.optimizer.variables, *plain.student.weights]
    logs = [values[-1] for history in (logs, own) for _, values in sorted(history.items())]
    np.savez(pathlib.Path(folder, f"logs_{processes()[0]}.npz"), logs)
    np.savez(
        pathlib.Path(folder, f"state_{processes()[0]}.npz"),
        **{f"{i:03d}": keras.ops.convert_to_numpy(variable.value) for i, variable in enumerate(state)},
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
