"""Train and evaluate on one device and on two, with the same global batch; print what came of it as JSON.

Training in float64, exactly and by forward differences, and in mixed_float16 with an image on the second device that is
not finite: the largest difference.
The metrics: the values of one device and of two. Run by `test_precision_and_devices.py` in a process of its own.
"""

import json

import keras
import numpy as np
import tensorflow as tf
from test_metrics import METRICS

import models


def train(strategy, overflow, form):
    compile_arguments = {**models.GRAPH, "metrics": ["accuracy"], "hypergradient": form}
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = models.compiled(inner_steps=3, compile_arguments=compile_arguments)
    train, meta = models.arrays(80), models.arrays(80, seed=1)
    if overflow:
        train[0][7, 0] = np.inf  # in the first batch; tanh makes it 1, so that only the gradient is no number
    arguments = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0, "validation_data": train}
    history = model.fit(*train, meta_data=meta, **arguments).history
    with strategy.scope():
        scale = model.meta_optimizer.scale_loss(1.0)  # hypergradients are summed up scaled
        summed = {id(v) for v in model.optimizer.hypergradients}
        numbers = [v.numpy() for v in [*model.weights, *model.optimizer.variables] if id(v) not in summed]
        numbers += [v.numpy() / scale for v in model.optimizer.hypergradients]
    return [np.asarray(number, "float64") for number in [*numbers, *history.values()]]


def largest_difference(mirrored, policy, form="exact"):
    keras.config.set_floatx("float64" if policy == "float64" else "float32")
    keras.config.set_dtype_policy(policy)
    strategies = tf.distribute.get_strategy(), mirrored
    one, two = (train(strategy, policy == "mixed_float16", form) for strategy in strategies)
    assert len(one) == len(two)
    return float(max(np.abs(a - b).max() for a, b in zip(one, two)))


def evaluate(strategy):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = models.perceptron()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, metrics=[make() for make in METRICS.values()])
    return model.evaluate(*models.arrays(32), batch_size=8, verbose=0, return_dict=True)


def main():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    results = {"replicas": mirrored.num_replicas_in_sync}
    results["metrics"] = [evaluate(strategy) for strategy in (tf.distribute.get_strategy(), mirrored)]
    for policy in ("float64", "mixed_float16"):
        results[policy] = largest_difference(mirrored, policy)
    results["forward_difference"] = largest_difference(mirrored, "float64", "forward_difference")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
