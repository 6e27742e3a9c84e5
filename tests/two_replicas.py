"""Train on one device and on two, with the same global batch; print the largest difference and the replicas.

Run by `test_precision_and_devices.py` in a process of its own.
"""

import keras
import numpy as np
import tensorflow as tf

import models


def train(strategy):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = models.compiled(inner_steps=3, compile_arguments={"metrics": ["accuracy"]})
    train, meta = models.arrays(80), models.arrays(80, seed=1)
    arguments = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0, "validation_data": train}
    history = model.fit(*train, meta_data=meta, **arguments).history
    with strategy.scope():
        numbers = [v.numpy() for v in [*model.weights, *model.optimizer.variables]]
    return [np.asarray(number, "float64") for number in [*numbers, *history.values()]]


def main():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    one, two = train(tf.distribute.get_strategy()), train(mirrored)
    assert len(one) == len(two)
    print(max(np.abs(a - b).max() for a, b in zip(one, two)), mirrored.num_replicas_in_sync)


if __name__ == "__main__":
    main()
