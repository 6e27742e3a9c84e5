"""Twenty steps with k = 3, on whatever backend, in float32 and in float64: `backend_worker.py FOLDER OTHER`.

Starts from fixed weights. Saves the model after ten steps as FOLDER/<backend>_<floatx>.keras and all that training has
changed at the end as .npz. Then waits for a line of input and, in float64, does the second ten steps again from the
file of the backend OTHER. Run by `test_backends.py`.
"""

import pathlib
import sys
from unittest import mock

import keras
import numpy as np
from keras.src.backend.common import dtypes

import keras_bikd as bikd
import models

# Exact in binary: 0.9 passes through float32 on one backend and not on the other.
ADAM = {"beta_1": 0.875, "beta_2": 0.9375, "epsilon": 2**-20}


def fresh():
    """A model with the same weights on every backend, where random generators differ."""
    model = bikd.BiKDModel(models.perceptron(), models.perceptron(), bikd.MetaWeightNet((8,)), inner_steps=3)
    generator = np.random.default_rng(0)
    for variable in [*model.student.weights, *model.teacher.weights, *model.weight_net.weights]:
        variable.assign(generator.normal(size=variable.shape) / 2)
    model.compile(keras.optimizers.SGD(0.25, momentum=0.875), meta_optimizer=keras.optimizers.Adam(2**-5, **ADAM))
    return model


def ten_steps(model, rows):
    (x, y), (meta_x, meta_y) = models.arrays(160), models.arrays(160, seed=1)
    data = {"meta_data": (meta_x[rows], meta_y[rows]), "batch_size": 8, "shuffle": False, "verbose": 0}
    model.fit(x[rows], y[rows], **data)


def write(model, path):
    state = [*model.student.weights, *model.weight_net.weights, *model.optimizer.variables]
    np.savez(path, **{f"{i:03d}": v.numpy() for i, v in enumerate(state)})


def twenty_steps(folder, name):
    model = fresh()
    ten_steps(model, slice(0, 80))
    model.save(pathlib.Path(folder, f"{name}.keras"))
    ten_steps(model, slice(80, 160))
    write(model, pathlib.Path(folder, f"{name}.npz"))


def main(folder, other):
    own = keras.backend.backend()
    for floatx in ("float32", "float64"):
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(floatx)
        with mock.patch.dict(dtypes.BIT64_TO_BIT32_DTYPE, float64=floatx):
            twenty_steps(folder, f"{own}_{floatx}")
    print("ready", flush=True)
    sys.stdin.readline()
    with mock.patch.dict(dtypes.BIT64_TO_BIT32_DTYPE, float64="float64"):
        model = keras.saving.load_model(pathlib.Path(folder, f"{other}_float64.keras"))
        ten_steps(model, slice(80, 160))
    write(model, pathlib.Path(folder, f"{own}_continued.npz"))


if __name__ == "__main__":
    main(*sys.argv[1:])
