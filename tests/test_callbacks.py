"""Callbacks in a real `fit`."""

import copy
import csv
import itertools
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bikd as bikd
import models


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Files of figures without the half second that drawing one takes; `test_plots.py` draws them."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, path, **kwargs: pathlib.Path(path).touch())


def traced():
    return models.compiled(compile_arguments=models.GRAPH)


def run(callback, **kwargs):
    """Six steps an epoch, always of the same model from the same start."""
    model = models.anew(traced)
    train, meta = models.arrays(24), models.arrays(8, seed=1)
    model.fit(*train, meta_data=meta, batch_size=4, verbose=0, callbacks=[callback], **kwargs)
    return model, train


def arrays_of(path):
    with np.load(path) as stored:
        return dict(stored)


@pytest.mark.parametrize(("every", "drawn"), [(None, [3]), (1, [1, 2, 3]), (2, [2, 3])])
def test_weight_map_is_drawn_at_the_chosen_epochs_and_at_the_end(tmp_path, every, drawn):
    run(bikd.callbacks.WeightMap(tmp_path / "maps", every=every), epochs=3)
    names = {f"weight_map_{epoch:04d}.{kind}" for epoch in drawn for kind in ("png", "npz")}
    assert {path.name for path in (tmp_path / "maps").iterdir()} == names


def test_weight_map_holds_every_training_sample_once(tmp_path):
    model, (x, y) = run(bikd.callbacks.WeightMap(tmp_path))
    seen = arrays_of(tmp_path / "weight_map_0001.npz")
    expected = model.sample_weights([(x, y)])
    assert seen["weights"].shape == (24, 2)
    for name, values in expected._asdict().items():
        np.testing.assert_allclose(np.sort(seen[name], axis=0), np.sort(values, axis=0), rtol=1e-5)


def test_weight_map_of_an_endless_stream_and_of_given_data(tmp_path):
    model = models.anew(traced)
    train, meta = models.dataset(models.arrays(24)), models.dataset(models.arrays(8, seed=1))
    callbacks = [
        bikd.callbacks.WeightMap(tmp_path / "stream"),
        bikd.callbacks.WeightMap(tmp_path / "given", data=train),
    ]
    model.fit(train.repeat(), meta_data=meta, steps_per_epoch=4, verbose=0, callbacks=callbacks)
    assert len(arrays_of(tmp_path / "stream" / "weight_map_0001.npz")["labels"]) == 16
    assert len(arrays_of(tmp_path / "given" / "weight_map_0001.npz")["labels"]) == 24


LOOKS = {
    "WeightMap": lambda path, data: bikd.callbacks.WeightMap(path, data, every=1),
    "WeightHistory": lambda path, data: bikd.callbacks.WeightHistory(path / "weights.csv", [9, 7, 5, 3], data),
    "PerClassReport": lambda path, data: bikd.callbacks.PerClassReport(path, data, every=1),
}


@pytest.mark.parametrize("name", LOOKS)
def test_data_of_a_callback_may_be_arrays_or_a_generator(name, tmp_path):
    """Two looks at the same samples."""
    x, y = models.arrays(12)
    run(LOOKS[name](tmp_path / "arrays", (x, y)), epochs=2)
    run(LOOKS[name](tmp_path / "generator", ((x[i : i + 4], y[i : i + 4]) for i in (0, 4, 8))), epochs=2)
    assert len({path.name for path in tmp_path.rglob("*") if path.is_file()}) * 2 == len(
        [path for path in tmp_path.rglob("*") if path.is_file()]
    )


WRONG_DATA = {
    "a number": (lambda x, y: 3, r"\(data=...\)` takes arrays as a tuple.*Received: int"),
    "lengths": (lambda x, y: (x, y[:5]), r"\(data=...\)` takes arrays with the same number of samples"),
    "not batched": (lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)), "not batched"),
    "without labels": (lambda x, y: tf.data.Dataset.from_tensor_slices(x).batch(4), "without labels"),
    "endless": (lambda x, y: models.dataset((x, y)).repeat(), r"\(data=...\)` received a data set that never ends"),
    "labels": (lambda x, y: (x, y + 1), r"labels must lie in 0\.\.3.*1 to 4"),
}


@pytest.mark.parametrize("wrong", WRONG_DATA)
@pytest.mark.parametrize("name", LOOKS)
def test_wrong_data_of_a_callback_stop_before_training(name, wrong, tmp_path):
    make, message = WRONG_DATA[wrong]
    model = models.anew(traced)

    def fit():
        callback = LOOKS[name](tmp_path, make(*models.arrays(12)))
        model.fit(*models.arrays(24), meta_data=models.arrays(8), verbose=0, callbacks=[callback])

    with pytest.raises(ValueError, match=message):
        fit()
    assert int(model.optimizer.iterations) == 0


def test_sample_weights_of_arrays_and_of_batches():
    model = models.anew(traced)
    x, y = models.arrays(12)
    whole, parts = model.sample_weights((x, y)), model.sample_weights(models.Batches((x, y)))
    for a, b in zip(whole, parts):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_weight_history(tmp_path):
    counts = [200, 50, 50, 5]
    callback = bikd.callbacks.WeightHistory(tmp_path / "weights.csv", counts)
    model, (x, y) = run(callback, epochs=2)
    rows = list(csv.DictReader((tmp_path / "weights.csv").read_text().splitlines()))
    assert [(row["epoch"], row["weight"], row["group"]) for row in rows] == [
        (epoch, weight, group) for epoch in "01" for group in ("many", "medium", "few") for weight in ("hard", "soft")
    ]
    seen = model.sample_weights([(x, y)])
    few = seen.weights[y == 3, 1]
    last = rows[-1]
    assert float(last["mean"]) == pytest.approx(few.mean(), rel=1e-5)
    assert float(last["q50"]) == pytest.approx(np.median(few), rel=1e-5)
    assert model.history.history["soft_weight_few"][-1] == pytest.approx(few.mean(), rel=1e-5)


def test_weight_history_for_another_number_of_classes_says_so_before_training(tmp_path):
    model = models.anew(traced)
    before = model.student.get_weights()[0]
    callback = bikd.callbacks.WeightHistory(tmp_path / "weights.csv", [200, 50, 5])
    with pytest.raises(ValueError, match=r"`WeightHistory\(class_counts=...\)`.*4 outputs. Received: 3 numbers"):
        model.fit(*models.arrays(24), meta_data=models.arrays(8), verbose=0, callbacks=[callback])
    np.testing.assert_array_equal(model.student.get_weights()[0], before)


def test_weight_history_goes_on_in_the_same_file(tmp_path):
    for _ in range(2):
        run(bikd.callbacks.WeightHistory(tmp_path / "weights.csv", [200, 50, 50, 5]))
    rows = list(csv.DictReader((tmp_path / "weights.csv").read_text().splitlines()))
    assert len(rows) == 12


@pytest.mark.parametrize("inner_steps", [1, 3])
def test_hypergradient_monitor(inner_steps):
    """Against the sums of hypergradients computed batch by batch, with everything frozen."""
    frozen = {"inner_steps": inner_steps, "meta_learning_rate": 0.0}
    model = models.compiled(**frozen)
    train, meta = models.arrays(24), models.arrays(24, seed=1)
    slow = keras.optimizers.SGD(1e-9)  # the student stays where it is, and the hypergradient is not zero
    model.compile(optimizer=slow, meta_optimizer=keras.optimizers.SGD(0.0))
    pairs = list(zip(models.dataset(train), models.dataset(meta)))
    flat = [np.concatenate([np.ravel(g) for g in model.hypergradient(*pair)[1]]) for pair in pairs]
    sums = [np.sum(flat[i : i + inner_steps], axis=0) for i in range(0, len(flat), inner_steps)]
    norms = [np.linalg.norm(s) for s in sums]
    cosines = [a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in itertools.pairwise(sums)]
    arguments = {"batch_size": 4, "shuffle": False, "verbose": 0}
    logs = model.fit(*train, meta_data=meta, callbacks=[bikd.callbacks.HypergradientMonitor()], **arguments).history
    assert logs["hypergradient_norm"][0] == pytest.approx(np.mean(norms), rel=1e-3)
    assert logs["hypergradient_cosine"][0] == pytest.approx(np.mean(cosines), rel=1e-3)
    assert logs["hypergradient_clipped"] == logs["hypergradient_nonfinite"] == [0]


@pytest.mark.parametrize(
    ("clip", "clipped"),
    [({"global_clipnorm": 1e-9}, 1), ({"clipnorm": 1e-9}, 1), ({"clipvalue": 1e-9}, 1), ({"clipnorm": 1e9}, 0)],
)
def test_hypergradient_monitor_sees_clipping(clip, clipped):
    model = models.compiled()
    model.compile(optimizer="sgd", meta_optimizer=keras.optimizers.Adam(1e-3, **clip))
    monitor = bikd.callbacks.HypergradientMonitor()
    arguments = {"batch_size": 4, "verbose": 0, "callbacks": [monitor]}
    logs = model.fit(*models.arrays(24), meta_data=models.arrays(8), **arguments).history
    assert logs["hypergradient_clipped"] == [clipped]


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_hypergradient_monitor_counts_what_is_not_finite(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = models.compiled(inner_steps=1, learning_rate=0.01)
        train, (meta_x, meta_y) = models.arrays(16), models.arrays(16, seed=1)
        meta_x[:4] = np.inf
        monitor = bikd.callbacks.HypergradientMonitor()
        arguments = {"batch_size": 4, "shuffle": False, "verbose": 0, "callbacks": [monitor]}
        logs = model.fit(*train, meta_data=(meta_x, meta_y), **arguments).history
        assert logs["hypergradient_nonfinite"] == [0.25]
    finally:
        keras.config.set_dtype_policy("float32")


def test_per_class_report_of_any_classifier(tmp_path):
    x = np.eye(3, dtype="float32")[[0, 0, 1, 1, 1, 2]]
    y = np.array([0, 1, 1, 1, 2, 2])
    model = keras.Sequential([keras.Input((3,)), keras.layers.Activation("linear")])
    model.compile(loss="sparse_categorical_crossentropy")
    report = bikd.callbacks.PerClassReport(tmp_path, models.dataset((x, y)), class_names=["a", "b", "c"])
    report.set_model(model)
    report.on_epoch_end(4)
    report.on_train_end()
    matrix = arrays_of(tmp_path / "confusion_0005.npz")["matrix"]
    np.testing.assert_array_equal(matrix, [[1, 0, 0], [1, 2, 0], [0, 1, 1]])
    rows = list(csv.reader((tmp_path / "per_class_0005.csv").read_text().splitlines()))
    assert rows == [["class", "samples", "accuracy"], ["a", "1", "1.0"], ["b", "3", str(2 / 3)], ["c", "2", "0.5"]]
    assert (tmp_path / "confusion_0005.png").exists()


def test_meta_learning_rate_scheduler():
    callback = bikd.callbacks.MetaLearningRateScheduler(lambda epoch, rate: rate / 2 if epoch else rate)
    model, _ = run(callback, epochs=3)
    assert model.history.history["meta_learning_rate"] == pytest.approx([0.05, 0.025, 0.0125])
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)


def test_student_checkpoint_keeps_the_best_student(tmp_path):
    """Scripted scores: the second epoch is the best, so the file holds the student of the second epoch."""
    path = tmp_path / "student.keras"
    callback = bikd.callbacks.StudentCheckpoint(path, monitor="val_score", mode="max", save_best_only=True)
    model = models.anew(traced)
    callback.set_model(model)
    callback.on_train_begin()
    kernels = []
    for epoch, score in enumerate([0.2, 0.9, 0.5]):
        model.student.weights[0].assign(np.full(model.student.weights[0].shape, float(epoch)))
        kernels.append(model.student.get_weights())
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch, {"val_score": score})
    student = keras.saving.load_model(path)
    for a, b in zip(student.get_weights(), kernels[1]):
        np.testing.assert_array_equal(a, b)


def test_callbacks_of_a_run_without_an_epoch(tmp_path):
    """A run that had ended before it was killed is started again: nothing is left to do, or to draw."""
    model = models.anew(traced)
    arguments = {"meta_data": models.arrays(8), "verbose": 0, "callbacks": [bikd.callbacks.WeightMap(tmp_path)]}
    model.fit(*models.arrays(24), epochs=2, initial_epoch=2, **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["WeightMap", "WeightHistory", "HypergradientMonitor", "TensorBoard"])
def test_what_looks_at_weights_says_at_once_that_there_are_none(name, tmp_path):
    arguments = {"WeightHistory": [tmp_path / "weights.csv", [1] * 4], "HypergradientMonitor": []}
    callback = getattr(bikd.callbacks, name)(*arguments.get(name, [tmp_path]))
    model = bikd.RWKDModel(models.perceptron(), models.perceptron())
    model.compile(optimizer="sgd")
    before = model.student.get_weights()[0]
    with pytest.raises(ValueError, match=f"`{name}` looks at the weights of a `BiKDModel`.*RWKDModel"):
        model.fit(*models.arrays(24), meta_data=models.arrays(8), verbose=0, callbacks=[callback])
    np.testing.assert_array_equal(model.student.get_weights()[0], before)


def test_weight_history_of_labels_in_a_column(tmp_path):
    callback = bikd.callbacks.WeightHistory(tmp_path / "weights.csv", [200, 50, 50, 5])
    (x, y), meta = models.arrays(24), models.arrays(8, seed=1)
    models.anew(traced).fit(x, y[:, None], meta_data=meta, verbose=0, callbacks=[callback])
    rows = csv.DictReader((tmp_path / "weights.csv").read_text().splitlines())
    assert {row["group"] for row in rows} == {"many", "medium", "few"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_run_read_back_with_its_own_reader(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = bikd.callbacks.TensorBoard(tmp_path, histogram_freq=1, update_freq="epoch")
    history = bikd.callbacks.WeightHistory(tmp_path / "weights.csv", [200, 50, 50, 5])
    model = models.anew(traced)
    model.fit(*models.arrays(24), meta_data=models.arrays(8), epochs=2, verbose=0, callbacks=[history, board])
    events = EventAccumulator(str(tmp_path / "train")).Reload()
    tags = events.Tags()["tensors"]
    wanted = {"epoch_loss", "epoch_meta_loss", "epoch_hard_weight_few", "hard_weight", "soft_weight", "weight_map"}
    assert wanted <= set(tags)
    loss = [tf.make_ndarray(event.tensor_proto).item() for event in events.Tensors("epoch_loss")]
    assert loss == pytest.approx(model.history.history["loss"])
    assert [event.step for event in events.Tensors("weight_map")] == [0, 1]
    histogram = tf.make_ndarray(events.Tensors("hard_weight")[0].tensor_proto)
    assert histogram[:, 2].sum() == 24  # counts of all buckets


BATTERY = {
    "WeightMap": lambda folder: bikd.callbacks.WeightMap(folder / "maps", every=1),
    "WeightHistory": lambda folder: bikd.callbacks.WeightHistory(folder / "weights.csv", [200, 50, 50, 5]),
    "HypergradientMonitor": lambda folder: bikd.callbacks.HypergradientMonitor(),
    "PerClassReport": lambda folder: bikd.callbacks.PerClassReport(folder / "report", [models.arrays(8)], every=1),
    "MetaLearningRateScheduler": lambda folder: bikd.callbacks.MetaLearningRateScheduler(),
    "StudentCheckpoint": lambda folder: bikd.callbacks.StudentCheckpoint(folder / "student.keras"),
    "TensorBoard": lambda folder: bikd.callbacks.TensorBoard(folder / "board", histogram_freq=1),
}


STEERING = {"DeferredObjective", "ExactBackup", "ExpertPacing", "OutgrowTeacher"}  # each in a file of its own


def test_the_battery_is_complete():
    assert set(bikd.callbacks.__all__) == set(BATTERY) | STEERING


@pytest.fixture(scope="module")
def without():
    """The end of a training with no callback that does anything."""
    return models.state_of(run(keras.callbacks.Callback(), epochs=2)[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", BATTERY)
def test_callbacks_can_be_copied_and_train_nothing(name, tmp_path, without):
    """Keras Tuner copies callbacks; a run with one ends where a run without it ends."""
    with_it, _ = run(copy.deepcopy(BATTERY[name](tmp_path)), epochs=2)
    for ours, expected in zip(models.state_of(with_it), without, strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("every", [0, 2.5, True])
def test_bad_every(every):
    with pytest.raises(ValueError, match=f"every={every}"):
        bikd.callbacks.WeightMap("maps", every=every)
