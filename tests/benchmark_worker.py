"""The recipe `benchmark_step.py` for some variants, with shallow networks: `benchmark_worker.py VARIANT...`.

Each variant has a forked process, for a spawned one would import the library anew; this one runs no operation itself.
"""

import json
import multiprocessing
import pathlib
import sys

import keras_bikd as bikd
import models

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "recipes"))
context = multiprocessing.get_context("fork")

if __name__ == "__main__":
    import benchmark_step

    bikd.networks.cifar_resnet = models.shallow_resnet
    multiprocessing.get_context = lambda method: context
    benchmark_step.VARIANTS = tuple(sys.argv[1:])
    print(json.dumps(benchmark_step.main(rounds=1, batch_size=4)))
