"""Twenty steps with k = 3, on whatever backend: `backend_worker.py FOLDER FLOATX [FILE]`.

Starts from fixed weights, or from FILE, which goes on with the second ten. Saves the model after ten steps as
FOLDER/<backend>.keras and all that training has changed at the end as .npz. Run by `test_backends.py`.
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


def main(folder, floatx, file=None):
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(floatx)
    name = f"{keras.backend.backend()}{'_continued' if file else ''}"
    with mock.patch.dict(dtypes.BIT64_TO_BIT32_DTYPE, float64="float64"):
        model = keras.saving.load_model(file) if file else fresh()
        if file is None:
            ten_steps(model, slice(0, 80))
            model.save(pathlib.Path(folder, f"{name}.keras"))
        ten_steps(model, slice(80, 160))
    state = [*model.student.weights, *model.weight_net.weights, *model.optimizer.variables]
    np.savez(pathlib.Path(folder, f"{name}.npz"), **{f"{i:03d}": v.numpy() for i, v in enumerate(state)})


if __name__ == "__main__":
    main(*sys.argv[1:])
