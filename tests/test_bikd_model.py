"""`BiKDModel` as a Keras model: forms of data, batch norm, the teacher, logs, saving, determinism."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_bikd as bikd
import models

TRAIN_LOGS = {"loss", "meta_loss", "student_loss", "hard_weight", "soft_weight"}


@pytest.mark.backend
def test_every_form_of_data_gives_the_same_weights():
    """Six training batches of four with two, then six meta batches, unshuffled."""
    train, meta = models.arrays(24), models.arrays(24, seed=1)
    forms = {
        "arrays": lambda m: m.fit(*train, meta_data=meta, batch_size=4, shuffle=False, verbose=0),
        "tf.data": lambda m: m.fit(models.dataset(train), meta_data=models.dataset(meta), verbose=0),
        "PyDataset": lambda m: m.fit(models.Batches(train), meta_data=models.Batches(meta), verbose=0),
        "tf.data, PyDataset": lambda m: m.fit(models.dataset(train), meta_data=models.Batches(meta), verbose=0),
        "PyDataset, tf.data": lambda m: m.fit(models.Batches(train), meta_data=models.dataset(meta), verbose=0),
        "paired": lambda m: m.fit(bikd.data.pair(models.dataset(train), models.dataset(meta)), verbose=0),
        "by hand": lambda m: [
            m.train_on_batch(*pair)
            for pair in zip(*(models.dataset(part).as_numpy_iterator() for part in (train, meta)))
        ],
    }
    results = {}
    for name, run in forms.items():
        model = models.anew(traced)
        run(model)
        assert int(model.optimizer.iterations) == 6, name
        results[name] = models.state_of(model)
    for name, state in results.items():
        for ours, expected in zip(state, results["arrays"], strict=True):
            np.testing.assert_array_equal(ours, expected, err_msg=name)


def traced():
    return models.compiled(inner_steps=4, compile_arguments=models.GRAPH)


@pytest.mark.parametrize("labels", [lambda y: np.eye(4, dtype="float32")[y], lambda y: y[:, None]])
def test_labels_one_hot_or_as_a_column(labels):
    (x, y), (meta_x, meta_y) = models.arrays(), models.arrays(8, seed=1)
    plain = models.compiled(compile_arguments={"metrics": ["accuracy"]})
    logs = plain.train_on_batch((x, y), (meta_x, meta_y), return_dict=True)
    models.reseed()
    other = models.compiled(compile_arguments={"metrics": ["accuracy"]})
    other_logs = other.train_on_batch((x, labels(y)), (meta_x, labels(meta_y)), return_dict=True)
    assert logs == pytest.approx(other_logs, rel=1e-6)
    for a, b in zip(plain.weights, other.weights):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@models.tensorflow_only
def test_short_meta_set_is_repeated_and_every_batch_has_its_turn():
    seen = []

    class Record(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(models.CLASSES)

        def call(self, inputs, training=None):
            if training:
                tf.py_function(lambda tag: seen.append(int(tag)), [inputs[0, 0]], [])
            return self.dense(inputs[:, 1:])

    def tagged(samples, first):
        x, y = models.arrays(samples)
        return np.concatenate([np.full((samples, 1), first) + np.arange(samples)[:, None] // 4, x], axis=1), y

    model = models.compiled(Record(), models.perceptron(features=models.FEATURES + 1))
    train, meta = tagged(28, 0), tagged(12, 100)
    model.fit(models.dataset(train), meta_data=models.dataset(meta), epochs=2, verbose=0)
    assert [tag for tag in seen if tag < 100] == list(range(7)) * 2
    meta_tags = [tag for tag in seen if tag >= 100]
    assert len(meta_tags) == 14
    for epoch in (meta_tags[:7], meta_tags[7:]):
        assert sorted(epoch[:3]) == sorted(epoch[3:6]) == [100, 101, 102]
    passes = {tuple(epoch[i : i + 3]) for epoch in (meta_tags[:7], meta_tags[7:]) for i in (0, 3)}
    assert len(passes) > 1  # reshuffled


@pytest.mark.backend
def test_batch_norm_moves_as_in_one_plain_forward_pass():
    student = models.perceptron(layers.BatchNormalization(momentum=0.8))
    twin = keras.models.clone_model(student)
    twin.set_weights(student.get_weights())
    model = models.compiled(student, inner_steps=1)
    (x, y), meta = models.arrays(), models.arrays(8, seed=1)
    model.train_on_batch((x, y), meta)
    twin(x, training=True)
    for ours, plain in zip(student.non_trainable_variables, twin.non_trainable_variables):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-7)


@pytest.mark.backend
def test_dropout_seeds_move_as_in_one_plain_forward_pass():
    student = models.perceptron(layers.Dropout(0.5, seed=3))
    twin = keras.models.clone_model(student)
    models.compiled(student).train_on_batch(models.arrays(), models.arrays(8, seed=1))
    twin(models.arrays()[0], training=True)
    (ours,), (plain,) = student.non_trainable_variables, twin.non_trainable_variables
    np.testing.assert_array_equal(ours.numpy(), plain.numpy())


@pytest.mark.backend
@pytest.mark.parametrize("trainable", [True, False])
def test_teacher_is_left_as_found(trainable):
    teacher = models.perceptron(layers.BatchNormalization(), layers.Dropout(0.5))
    teacher.trainable = trainable
    before = [v.numpy() for v in teacher.variables]
    flags = [layer.trainable for layer in teacher.layers]
    model = models.compiled(teacher=teacher)
    model.fit(*models.arrays(), meta_data=models.arrays(8), verbose=0)
    assert teacher.trainable is trainable
    assert [layer.trainable for layer in teacher.layers] == flags
    for old, new in zip(before, teacher.variables):
        np.testing.assert_array_equal(old, new.numpy())


@pytest.mark.backend
def test_regularisers_enter_the_real_step_alone():
    (x, y), meta = models.arrays(), models.arrays(8, seed=1)

    def model_with(factor):
        models.reseed()
        student = keras.Sequential(
            [keras.Input((6,)), layers.Dense(4, kernel_regularizer=keras.regularizers.L2(factor))]
        )
        model = bikd.BiKDModel(student, models.perceptron(), inner_steps=3)
        model.compile(optimizer=keras.optimizers.SGD(0.1))
        return model

    plain, decayed = model_with(0.0), model_with(0.05)
    kernel = decayed.student.weights[0].numpy()
    for a, b in zip(plain.hypergradient((x, y), meta)[1], decayed.hypergradient((x, y), meta)[1]):
        np.testing.assert_array_equal(a, b)
    losses = [m.train_on_batch((x, y), meta, return_dict=True)["loss"] for m in (plain, decayed)]
    np.testing.assert_allclose(losses[1] - losses[0], 0.05 * np.sum(kernel**2), rtol=1e-5)
    difference = plain.student.weights[0].numpy() - decayed.student.weights[0].numpy()
    np.testing.assert_allclose(difference, 0.1 * 2 * 0.05 * kernel, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["BiKDModel", "RWKDModel", "DistillationModel"])
def test_losses_that_layers_add_enter_the_real_step_and_the_evaluation(kind):
    (x, y), meta = models.arrays(8), models.arrays(8, seed=1)

    def model_with(factor):
        models.reseed()
        regularizer = keras.regularizers.L1(factor)
        student = keras.Sequential([keras.Input((6,)), layers.Dense(4, activity_regularizer=regularizer)])
        own = [bikd.objectives.CrossEntropy()] if kind == "DistillationModel" else []
        model = getattr(bikd, kind)(student, models.perceptron(), *own)
        model.compile(optimizer=keras.optimizers.SGD(0.1))
        return model

    plain, penalised = model_with(0.0), model_with(0.05)
    logits = x @ plain.student.weights[0].numpy()
    results = [model.evaluate(x, y, batch_size=8, verbose=0) for model in (plain, penalised)]
    np.testing.assert_allclose(results[1] - results[0], 0.05 * np.abs(logits).sum() / 8, rtol=1e-5)  # as Keras does
    arguments = {} if kind == "DistillationModel" else {"meta_data": meta}
    for model in (plain, penalised):
        model.fit(x, y, batch_size=8, verbose=0, **arguments)
    difference = plain.student.weights[0].numpy() - penalised.student.weights[0].numpy()
    np.testing.assert_allclose(difference, 0.1 * 0.05 * x.T @ np.sign(logits) / 8, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["BiKDModel", "RWKDModel", "DistillationModel"])
def test_sample_weights_in_a_column(kind):
    (x, y), (meta_x, meta_y) = models.arrays(8), models.arrays(8, seed=1)
    weights = np.linspace(0, 2, 8, dtype="float32")
    own = [bikd.objectives.CrossEntropy()] if kind == "DistillationModel" else []
    ends = []
    for column in (weights, weights[:, None]):
        models.reseed()
        model = getattr(bikd, kind)(models.perceptron(), models.perceptron(), *own)
        model.compile(optimizer=keras.optimizers.SGD(0.1), metrics=["accuracy"])
        arguments = {} if kind == "DistillationModel" else {"meta_data": (meta_x, meta_y, column)}
        logs = model.fit(x, y, sample_weight=column, shuffle=False, verbose=0, **arguments).history
        ends.append((model, logs))
    models.assert_same_state(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


@pytest.mark.backend
@pytest.mark.parametrize("kind", ["BiKDModel", "RWKDModel"])
def test_a_student_of_text(kind):
    """The gradient of an embedding is sparse on TensorFlow; here it is compared with that of a one-hot product."""
    words, labels = np.random.default_rng(0).integers(0, 10, (12, 5)), np.arange(12) % 4

    class OneHot(layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=(10, 3))

        def call(self, ids):
            return keras.ops.one_hot(ids, 10) @ self.table

    ends = []
    for first in (layers.Embedding(10, 3), OneHot()):
        models.reseed()
        student, teacher = (
            keras.Sequential([keras.Input((5,), dtype="int32"), layer, layers.Flatten(), layers.Dense(4)])
            for layer in (first, layers.Embedding(10, 3))
        )
        table, kernel = (np.random.default_rng(i).normal(size=shape) for i, shape in enumerate([(10, 3), (15, 4)]))
        student.set_weights([table, kernel, np.zeros(4)])
        teacher.set_weights([2 * table, kernel, np.zeros(4)])
        model = getattr(bikd, kind)(student, teacher)
        model.compile(optimizer=keras.optimizers.SGD(0.1))
        if kind == "BiKDModel":
            shapes = [variable.shape for variable in model.weight_net.trainable_variables]
            model.weight_net.set_weights([np.full(shape, 0.1) for shape in shapes])
        model.fit(words, labels, meta_data=(words[:4], labels[:4]), shuffle=False, batch_size=4, epochs=3, verbose=0)
        ends.append(models.state_of(model))
    moved = [a for a in ends[0] if a.dtype == "float32"]
    for a, b in zip(moved, [b for b in ends[1] if b.dtype == "float32"], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["BiKDModel", "DistillationModel"])
def test_student_and_teacher_cast_their_inputs_themselves(kind):
    """A normalisation in full precision sees 1999, and not the 2000 of bfloat16."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        shift = layers.Normalization(mean=1998.0, variance=1.0, dtype="float32")
        student = keras.Sequential([keras.Input((3,), dtype="float32"), shift, layers.Dense(4, dtype="float32")])
        own = [bikd.objectives.CrossEntropy()] if kind == "DistillationModel" else []
        model = getattr(bikd, kind)(student, models.perceptron(features=3), *own)
        model.compile(optimizer="sgd")
        x = np.full((4, 3), 1999.0, "float32")
        np.testing.assert_array_equal(model.predict(x, verbose=0), student.predict(x, verbose=0))
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("kind", ["BiKDModel", "DistillationModel"])
def test_a_student_that_shares_trainable_layers_with_its_teacher_is_refused(kind):
    backbone = models.perceptron(classes=5)
    student, teacher = (keras.Sequential([keras.Input((6,)), backbone, layers.Dense(4)]) for _ in range(2))
    own = [bikd.objectives.CrossEntropy()] if kind == "DistillationModel" else []
    model = getattr(bikd, kind)(student, teacher, *own)
    model.compile(optimizer="sgd")
    arguments = {} if kind == "DistillationModel" else {"meta_data": models.arrays(8)}
    with pytest.raises(ValueError, match=r"share variables.*Received: 4 shared variables, .*kernel"):
        model.fit(*models.arrays(8), verbose=0, **arguments)
    backbone.trainable = False
    model = getattr(bikd, kind)(student, teacher, *own)
    model.compile(optimizer="sgd")
    model.fit(*models.arrays(8), verbose=0, **arguments)


def test_logs():
    model = models.compiled(models.perceptron(layers.BatchNormalization()), compile_arguments={"metrics": ["accuracy"]})
    train, meta = models.arrays(), models.arrays(8, seed=1)
    history = model.fit(*train, meta_data=meta, validation_data=train, epochs=2, verbose=0).history
    assert set(history) == TRAIN_LOGS | {"accuracy", "val_loss", "val_accuracy"}
    assert all(np.isfinite(values).all() and len(values) == 2 for values in history.values())
    results = model.evaluate(*train, verbose=0, return_dict=True)
    assert set(results) == {"loss", "accuracy"}
    assert results["loss"] == pytest.approx(history["val_loss"][-1])
    hard = bikd.losses.hard_loss(train[1], model.student(train[0], training=False))
    assert results["loss"] == pytest.approx(keras.ops.convert_to_numpy(hard).mean(), rel=1e-6)
    np.testing.assert_allclose(model.predict(train[0], verbose=0), model.student.predict(train[0], verbose=0))


@pytest.mark.backend
def test_loss_is_the_mean_over_the_samples_of_an_epoch():
    """Batches of 16 and 8 with everything frozen: the log is the mean over 24 samples, not over 2 batches."""
    model = models.compiled(learning_rate=0.0, meta_learning_rate=0.0)
    (x, y), meta = models.arrays(24), models.arrays(8, seed=1)
    logs = model.fit(x, y, meta_data=meta, batch_size=16, shuffle=False, verbose=0).history
    seen = model.sample_weights([(x, y)])
    soft = bikd.losses.soft_loss(model.teacher(x), model.student(x), model.temperature)
    per_sample = seen.weights[:, 0] * seen.student_losses + seen.weights[:, 1] * keras.ops.convert_to_numpy(soft)
    assert logs["loss"][0] == pytest.approx(per_sample.mean(), rel=1e-5)
    assert logs["hard_weight"][0] == pytest.approx(seen.weights[:, 0].mean(), rel=1e-5)
    assert logs["meta_loss"][0] == pytest.approx(models.cross_entropy(model, *meta), rel=1e-5)


def test_sample_weight_of_two_counts_as_two_samples():
    (x, y), meta = models.arrays(8), models.arrays(8, seed=1)
    weighted = models.compiled(inner_steps=1, learning_rate=0.2)
    sample_weight = np.array([2.0, *[1.0] * 6, 0.0], "float32")
    weighted.fit(x, y, sample_weight=sample_weight, meta_data=meta, batch_size=8, shuffle=False, verbose=0)
    models.reseed()
    repeated = models.compiled(inner_steps=1, learning_rate=0.2)
    rows = [0, 0, *range(1, 7)]
    repeated.fit(x[rows], y[rows], meta_data=meta, batch_size=8, shuffle=False, verbose=0)
    for a, b in zip(weighted.weights, repeated.weights):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_class_weight_is_a_sample_weight_by_label():
    (x, y), meta = models.arrays(8), models.arrays(8, seed=1)
    by_class = models.compiled()
    by_class.fit(x, y, class_weight={0: 3.0, 2: 0.5}, meta_data=meta, shuffle=False, verbose=0)
    models.reseed()
    by_sample = models.compiled()
    sample_weight = np.array([{0: 3.0, 2: 0.5}.get(label, 1.0) for label in y], "float32")
    by_sample.fit(x, y, sample_weight=sample_weight, meta_data=meta, shuffle=False, verbose=0)
    models.assert_same_state(by_class, by_sample)


def test_class_weight_of_labels_in_a_column():
    (x, y), meta = models.arrays(24), models.arrays(24, seed=1)
    ends = []
    for labels in (y, y[:, None]):
        models.reseed()
        model = models.compiled()
        model.fit(x, labels, class_weight={0: 3.0, 2: 0.5}, meta_data=meta, shuffle=False, verbose=0)
        ends.append(model)
    models.assert_same_state(*ends)


def test_validation_data_overrides_validation_split():
    (x, y), meta, validation = models.arrays(20), models.arrays(8, seed=1), models.arrays(12, seed=2)
    model = models.compiled()
    arguments = {"validation_split": 0.2, "validation_data": validation}
    history = model.fit(x, y, meta_data=meta, batch_size=4, verbose=0, **arguments).history
    assert int(model.optimizer.iterations) == 5
    assert history["val_loss"][0] == pytest.approx(model.evaluate(*validation, verbose=0), rel=1e-5)


def test_a_smaller_meta_batch():
    """Arrays in batches of their own size train as a data set of such batches."""
    (x, y), meta = models.arrays(24), models.arrays(12, seed=1)
    trained = []
    for arguments in ({"meta_data": meta, "meta_batch_size": 2}, {"meta_data": models.dataset(meta, 2)}):
        models.reseed()
        trained.append(models.compiled())
        trained[-1].fit(x, y, 4, shuffle=False, verbose=0, **arguments)
    models.assert_same_state(*trained)
    with pytest.raises(ValueError, match=r"batches of its own\. Received: meta_batch_size=2"):
        trained[0].fit(x, y, meta_data=models.dataset(meta), meta_batch_size=2)


def test_a_shorter_meta_set_of_unknown_length_lasts_as_long_as_the_training_data():
    train, meta = models.dataset(models.arrays(24)), models.dataset(models.arrays(8, seed=1))
    pairs = bikd.data.pair(train.filter(lambda x, y: True), meta.filter(lambda x, y: True))
    assert len(list(pairs)) == 6


def test_validation_split():
    (x, y), meta = models.arrays(20), models.arrays(8, seed=1)
    model = models.compiled()
    history = model.fit(x, y, meta_data=meta, validation_split=0.2, batch_size=4, verbose=0).history
    assert int(model.optimizer.iterations) == 4
    assert history["val_loss"][0] == pytest.approx(model.evaluate(x[16:], y[16:], verbose=0), rel=1e-5)


@pytest.mark.backend
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_counter_does_not_move_when_the_data_run_out():
    """An epoch of unknown length must not count a phantom batch at its end."""
    train, meta = models.arrays(24), models.arrays(8, seed=1)
    unknown = models.dataset(train).filter(lambda x, y: True)
    model = models.compiled(compile_arguments=models.GRAPH)
    model.fit(unknown, meta_data=models.dataset(meta), epochs=3, verbose=0)
    assert int(model.optimizer.iterations) == 18


@pytest.mark.backend
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # PyTorch's own, in `torch.compile`
@pytest.mark.parametrize(
    "compile_arguments",
    [
        pytest.param({"run_eagerly": True}, marks=models.tensorflow_only),
        pytest.param(
            {**models.GRAPH, "steps_per_execution": 4},
            marks=pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras refuses it on PyTorch"),
        ),
        {"jit_compile": True},
    ],
)
def test_other_ways_to_run_give_the_same_numbers(compile_arguments):
    for a, b in zip(state_in_a_graph(), state_after_an_epoch(compile_arguments)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@functools.cache
def state_in_a_graph():
    return state_after_an_epoch(models.GRAPH)


def state_after_an_epoch(compile_arguments):
    models.reseed()
    model = models.compiled(inner_steps=3, compile_arguments=compile_arguments)
    train, meta = models.arrays(24), models.arrays(24, seed=1)
    model.fit(*train, meta_data=meta, batch_size=4, shuffle=False, verbose=0)
    return models.state_of(model)


@pytest.mark.backend
def test_same_seed_gives_bit_identical_weights():
    runs = []
    arguments = {"inner_steps": 3, "compile_arguments": models.GRAPH}
    for _ in range(2):
        keras.utils.set_random_seed(7)
        model = models.compiled(models.perceptron(layers.Dropout(0.3)), **arguments)
        model.fit(*models.arrays(), meta_data=models.arrays(8, seed=1), batch_size=4, epochs=2, verbose=0)
        runs.append(model)
    models.assert_same_state(*runs)
    keras.utils.set_random_seed(8)
    other = models.compiled(models.perceptron(layers.Dropout(0.3)), **arguments)
    other.fit(*models.arrays(), meta_data=models.arrays(8, seed=1), batch_size=4, epochs=2, verbose=0)
    assert any((a != b).any() for a, b in zip(models.state_of(other), models.state_of(runs[0])))


class Subclassed(keras.Model):
    """A student as users write it: dict inputs, no `training` argument, unbuilt."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.a, self.b, self.out = layers.Dense(5), layers.Dense(5), layers.Dense(models.CLASSES)

    def call(self, inputs):
        return self.out(keras.ops.tanh(self.a(inputs["left"]) + self.b(inputs["right"])))


def test_subclassed_student_with_dict_inputs():
    (x, y), (meta_x, meta_y) = models.learnable(), models.learnable(8, seed=1)
    split = lambda x: {"left": x[:, :2], "right": x[:, 2:]}
    model = models.compiled(Subclassed(), Subclassed())
    data = {"meta_data": (split(meta_x), meta_y), "batch_size": 4, "epochs": 5, "verbose": 0}
    losses = model.fit(split(x), y, **data).history["student_loss"]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.backend
@pytest.mark.parametrize("student", ["built", "unbuilt"])
def test_saved_model_goes_on_training_as_if_it_had_never_stopped(student, tmp_path):
    def make():
        models.reseed()
        middle = layers.BatchNormalization(), layers.Dropout(0.3, seed=1)
        sequential = [layers.Dense(8, "tanh"), *middle, layers.Dense(models.CLASSES)]
        net = models.perceptron(*middle) if student == "built" else keras.Sequential(sequential)
        return models.compiled(net, inner_steps=5, compile_arguments={"metrics": ["accuracy"]})

    data = {"meta_data": models.arrays(12, seed=1), "batch_size": 4, "shuffle": False, "verbose": 0}
    straight, stopped = make(), make()
    straight.fit(*models.arrays(12), epochs=3, **data)
    stopped.fit(*models.arrays(12), epochs=1, **data)
    stopped.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    models.assert_same_state(loaded, stopped)
    assert loaded.inner_steps == 5
    assert loaded.temperature == stopped.temperature
    loaded.fit(*models.arrays(12), epochs=2, **data)
    models.assert_same_state(loaded, straight)


def test_saved_weights_and_the_student_alone(tmp_path):
    model = models.compiled()
    x, y = models.arrays()
    model.fit(x, y, meta_data=models.arrays(8), verbose=0)
    model.save_weights(tmp_path / "model.weights.h5")
    keras.utils.set_random_seed(5)
    other = models.compiled()
    other.load_weights(tmp_path / "model.weights.h5")
    models.assert_same_state(other, model)

    model.student.save(tmp_path / "student.keras")
    student = keras.saving.load_model(tmp_path / "student.keras")
    np.testing.assert_array_equal(student.predict(x, verbose=0), model.predict(x, verbose=0))


def test_saved_compile_arguments_are_the_users():
    model = models.compiled(compile_arguments={"jit_compile": "auto"})
    assert model.get_compile_config()["jit_compile"] == "auto"


def test_to_the_outside_it_is_the_student(capsys):
    model = models.compiled()
    model.summary()
    assert f"{model.student.count_params()}" in capsys.readouterr().out
    trained = [*model.student.trainable_variables, *model.weight_net.trainable_variables]
    assert {v.path for v in model.trainable_variables} == {v.path for v in trained}
    teacher = {id(v) for v in model.teacher.variables}
    assert teacher <= {id(v) for v in model.non_trainable_variables}


def test_learning_rate_callbacks_drive_the_student_alone():
    model = models.compiled()
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.01 / (epoch + 1))
    model.fit(*models.arrays(), meta_data=models.arrays(8), epochs=2, verbose=0, callbacks=[schedule])
    assert float(model.optimizer.learning_rate) == pytest.approx(0.005)
    assert float(model.meta_optimizer.learning_rate) == pytest.approx(0.05)


def test_the_virtual_step_follows_a_learning_rate_schedule():
    """With the rate zero at step 0, theta' is theta: the hypergradient vanishes; at step 1 it does not."""
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.0, 0.5])
    model = models.compiled(learning_rate=schedule, inner_steps=10)
    pair = models.arrays(), models.arrays(8, seed=1)
    largest = lambda: max(float(keras.ops.max(keras.ops.abs(g))) for g in model.hypergradient(*pair)[1])
    assert largest() == 0
    model.train_on_batch(*pair)
    assert largest() > 0


@pytest.mark.backend
def test_a_hypergradient_that_is_not_finite_is_left_out():
    """The batch is counted, its hypergradient is not: phi moves as if its share were zero."""
    good, meta = models.arrays(), models.arrays(8, seed=1)
    bad_meta = (np.full_like(meta[0], np.nan), meta[1])
    model = models.compiled(inner_steps=2, compile_arguments=models.GRAPH)
    model.train_on_batch(good, meta)
    (total,) = [np.concatenate([v.numpy().ravel() for v in model.optimizer.hypergradients])]
    model.train_on_batch(good, bad_meta)
    last = np.concatenate([v.numpy().ravel() for v in model.optimizer.last_hypergradients])
    np.testing.assert_allclose(last, total, rtol=1e-6)
    assert np.abs(last).max() > 0
    assert all(np.isfinite(state).all() for state in models.state_of(model))
    assert (int(model.optimizer.iterations), int(model.meta_optimizer.iterations)) == (2, 1)


@pytest.mark.backend
def test_overflow_under_mixed_float16_lowers_the_scale_and_skips():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = models.compiled(inner_steps=2, learning_rate=0.01, compile_arguments=models.GRAPH)
        good, meta = models.arrays(), models.arrays(8, seed=1)
        model.train_on_batch(good, meta)
        before, scale = model.weight_net.get_weights(), float(model.meta_optimizer.dynamic_scale)
        model.train_on_batch(good, (np.full_like(meta[0], np.inf), meta[1]))
        for a, b in zip(before, model.weight_net.get_weights()):
            np.testing.assert_array_equal(a, b)
        assert float(model.meta_optimizer.dynamic_scale) == scale / 2
        assert all(np.isfinite(state).all() for state in models.state_of(model))
        for _ in range(2):
            model.train_on_batch(good, meta)
        assert any((a != b).any() for a, b in zip(before, model.weight_net.get_weights()))
        assert float(model.meta_optimizer.dynamic_scale) == scale / 2
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_killed_run_goes_on_from_its_last_epoch(tmp_path):
    """Through Keras' own callback, with the data in fixed order: every number as in the run that was never killed."""

    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == 9:
                raise KeyboardInterrupt

    def fit(*callbacks, epochs=3):
        models.reseed()
        student = models.perceptron(layers.BatchNormalization(), layers.Dropout(0.3, seed=1))
        model = models.compiled(student, inner_steps=4, compile_arguments=models.GRAPH)
        arguments = {"batch_size": 4, "shuffle": False, "verbose": 0, "callbacks": list(callbacks)}
        model.fit(*models.arrays(), meta_data=models.arrays(24, seed=1), epochs=epochs, **arguments)
        return model

    straight = fit()
    backup = lambda: keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        fit(backup(), Kill())
    models.assert_same_state(fit(backup()), straight)


@keras.saving.register_keras_serializable(package="tests")
def first(outputs):
    return outputs[0]


@pytest.mark.parametrize("kind", ["list", "dict", "function"])
@pytest.mark.parametrize("build", [models.compiled, models.distilled])
def test_one_of_several_outputs_of_a_teacher(kind, build, tmp_path):
    plain = models.perceptron()
    features = keras.layers.Identity(name="features")(plain.layers[0].output)
    logits = keras.layers.Identity(name="logits")(plain.outputs[0])
    outputs = {"logits": logits, "features": features} if kind == "dict" else [logits, features]
    student = models.perceptron()
    twin = keras.models.clone_model(student)
    twin.set_weights(student.get_weights())
    chosen = {"teacher_output": first if kind == "function" else "logits"}
    several = build(student, keras.Model(plain.inputs[0], outputs), **chosen)
    one = build(twin, plain)
    data = {"meta_data": models.arrays(8)} if build is models.compiled else {}
    for model in (several, one):
        models.reseed()
        if build is models.compiled:
            model.weight_net.set_weights(one.weight_net.get_weights())
        model.fit(*models.arrays(), shuffle=False, verbose=0, **data)
    for ours, theirs in zip(student.get_weights(), twin.get_weights()):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)
    several.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x, _ = models.arrays()
    np.testing.assert_allclose(loaded.teacher_logits(x), one.teacher_logits(x), rtol=1e-6)


def test_an_output_that_the_teacher_does_not_have():
    plain = models.perceptron()
    teacher = keras.Model(plain.inputs[0], {"logits": plain.outputs[0], "features": plain.layers[0].output})
    fit = lambda model: model.fit(*models.arrays(), meta_data=models.arrays(8), verbose=0)
    with pytest.raises(ValueError, match=r"Of several outputs, choose one with `teacher_output=\.\.\.`"):
        fit(models.compiled(teacher=teacher))
    with pytest.raises(ValueError, match=r"teacher_output='logit'; the names are .*'logits'"):
        fit(models.compiled(teacher=teacher, teacher_output="logit"))
