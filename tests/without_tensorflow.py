"""Import, train, observe, save and load on a backend of its own, while importing TensorFlow fails.

Run by `test_backends.py`: `without_tensorflow.py FOLDER`.
"""

import pathlib
import sys


def net():
    import keras

    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])


def main(folder):
    import keras
    import numpy as np

    import keras_bikd as bikd

    x, y = np.random.default_rng(0).normal(size=(24, 6)).astype("float32"), np.arange(24) % 4
    batches = [(x[i : i + 4], y[i : i + 4]) for i in range(0, 24, 4)]
    model = bikd.BiKDModel(net(), net(), bikd.MetaWeightNet((8,)), class_counts=[9, 7, 5, 3])
    model.compile(
        "sgd", metrics=["accuracy", bikd.metrics.BalancedAccuracy(4), bikd.metrics.ShotAccuracy([9, 7, 5, 3])]
    )
    watching = [
        bikd.callbacks.WeightMap(folder),
        bikd.callbacks.HypergradientMonitor(),
        bikd.callbacks.WeightHistory(folder / "weights.csv", [9, 7, 5, 3]),
        bikd.callbacks.StudentCheckpoint(folder / "student.keras", monitor="val_balanced_accuracy"),
    ]
    model.fit(x, y, 4, meta_data=(x, y), validation_data=(x, y), callbacks=watching, verbose=0)
    model.fit(batches, meta_data=(batch for batch in batches[:2]), verbose=0)
    model.save(folder / "model.keras")
    loaded = keras.saving.load_model(folder / "model.keras")
    np.testing.assert_allclose(model.predict(x, verbose=0), loaded.predict(x, verbose=0), rtol=1e-6)
    plain = bikd.DistillationModel(net(), net(), bikd.objectives.KnowledgeDistillation(temperature=4.0))
    plain.compile("sgd")
    plain.fit(x, y, verbose=0)
    try:
        bikd.data  # noqa: B018
    except ImportError as error:
        print(error)


if __name__ == "__main__":
    sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None  # as if they were not installed
    main(pathlib.Path(sys.argv[1]))
