"""Import, train, observe, save, load data and resume on a backend of its own, where TensorFlow cannot be found.

Run by `test_backends.py`: `without_tensorflow.py FOLDER`. Writes the manifests of the data sets to `manifests.json`.
"""

import importlib
import json
import pathlib
import sys
from unittest import mock

HIDDEN = set()  # packages that look as if they were not installed


def hide(finder):
    class Hiding:
        @staticmethod
        def find_spec(name, path=None, target=None):
            return None if name.partition(".")[0] in HIDDEN else finder.find_spec(name, path, target)

    for name in ("find_distributions", "invalidate_caches"):
        if hasattr(finder, name):
            setattr(Hiding, name, staticmethod(getattr(finder, name)))
    return Hiding


def net(*shape):
    import keras

    return keras.Sequential(
        [keras.Input(shape or (6,)), keras.layers.Flatten(), keras.layers.Dense(4 if not shape else 10)]
    )


def train_on_arrays(folder):
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


def data_sets(folder):
    """The data sets whose manifests are compared, from files in `folder`."""
    import numpy as np

    from keras_bikd.data import Arrays, Folder, Tfds, gaussian_noise, load

    sys.path.append(str(pathlib.Path(__file__).parents[1] / "recipes"))
    from keywords_data import PythonKeywords

    x, y = np.arange(600 * 4, dtype="float32").reshape(600, 2, 2, 1), np.arange(600) % 3
    noise = {"augment": gaussian_noise(0.5)}
    digits = Tfds("sklearn_digits", data_dir=folder / "tfds")
    with mock.patch.object(PythonKeywords, "ROOT", folder / "library"):
        text = load(Tfds("python_keywords", data_dir=folder / "tfds"), None, meta_size=70)
    return {
        "text": text,
        "digits": load(digits, 50, meta_size=100, validation_size=50, test_size=500, batch_size=64, **noise),
        "arrays": load(Arrays(x, y), 10, meta_size=30, test_size=60),
        "folder": load(Folder(folder / "images", (8, 8)), meta_size=9, test_size=9),
    }


def train_on_data_sets(folder):
    import keras

    import keras_bikd as bikd

    keras.utils.set_random_seed(0)
    data = data_sets(folder)
    manifests = {name: own.manifest for name, own in data.items()}
    (folder / "manifests.json").write_text(json.dumps(manifests))
    for own in data.values():
        assert sum(len(y) for _, y in own.train) == own.class_counts.sum()
    digits = data["digits"]
    model = bikd.BiKDModel(net(8, 8, 1), net(8, 8, 1), bikd.MetaWeightNet((8,)))
    model.compile("sgd", metrics=[bikd.metrics.BalancedAccuracy(10)])
    model.fit(digits.train, meta_data=digits.meta, validation_data=digits.validation, verbose=0)
    assert int(model.optimizer.iterations) == len(digits.train) == 5
    stream, position = bikd.data.resumable(bikd.data.pair(digits.train, digits.meta))
    backup = bikd.callbacks.ExactBackup(folder / "backup", position, every=2)
    model.fit(stream, steps_per_epoch=4, epochs=2, callbacks=[backup], verbose=0)
    assert set(model.evaluate(digits.test, return_dict=True, verbose=0)) >= {"balanced_accuracy"}


def main(folder):
    import keras_bikd as bikd

    train_on_arrays(folder)
    HIDDEN.add("grain")
    try:
        bikd.data.load(bikd.data.Arrays(range(40), [0, 1] * 20), meta_size=2, test_size=2)
    except ImportError as error:
        print(error)
    HIDDEN.remove("grain")
    importlib.invalidate_caches()
    train_on_data_sets(folder)
    assert "tensorflow" not in sys.modules


if __name__ == "__main__":
    sys.meta_path[:] = [hide(finder) for finder in sys.meta_path]
    HIDDEN.add("tensorflow")
    main(pathlib.Path(sys.argv[1]))
