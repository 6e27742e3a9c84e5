"""What users of `keras.Model` do without thinking: arguments by position, defaults, "auto" modes, other data."""

import keras
import numpy as np
import pytest

import keras_bikd as bikd
import models
from keras_bikd.objectives import KnowledgeDistillation

KINDS = ("DistillationModel", "BiKDModel", "RWKDModel")


def build(kind, student=None, teacher=None):
    own = [KnowledgeDistillation()] if kind == "DistillationModel" else []
    return getattr(bikd, kind)(student or models.perceptron(), teacher or models.perceptron(), *own)


def guide(kind):
    return {} if kind == "DistillationModel" else {"meta_data": models.arrays(8, seed=1)}


@pytest.mark.parametrize("kind", KINDS)
def test_compile_and_fit_by_position(kind):
    model = build(kind)
    model.compile("adam", bikd.losses.hard_loss, ["accuracy"])
    history = model.fit(*models.arrays(24), 8, 2, 0, **guide(kind)).history
    assert len(history["accuracy"]) == 2
    assert int(model.optimizer.iterations) == 6


def test_validation_data_by_position():
    model = build("DistillationModel")
    model.compile("sgd")
    data = models.arrays(24)
    assert "val_loss" in model.fit(*data, 8, 1, 0, None, 0.0, data).history


@pytest.mark.parametrize("kind", KINDS)
def test_compile_without_an_optimizer_takes_that_of_keras(kind):
    model = build(kind)
    model.compile()
    optimizer = model.student_optimizer if kind == "BiKDModel" else model.optimizer
    assert isinstance(optimizer, keras.optimizers.RMSprop)


def test_a_meta_optimizer_by_position_is_refused():
    with pytest.raises(ValueError, match=r"as a keyword: `compile\(\.\.\., meta_optimizer=\.\.\.\)`. Received: loss=<"):
        build("BiKDModel").compile("sgd", keras.optimizers.Adam(1e-3))


def test_early_stopping_knows_which_way_is_better():
    model = build("BiKDModel")
    model.compile("sgd", metrics=[bikd.metrics.BalancedAccuracy(models.CLASSES)])
    data = models.arrays(16)
    stop = keras.callbacks.EarlyStopping("val_balanced_accuracy", patience=1)
    model.fit(*data, validation_data=data, callbacks=[stop], verbose=0, **guide("BiKDModel"))
    assert stop.monitor_op(1.0, 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_may_be_a_path(kind, tmp_path):
    teacher = models.perceptron()
    teacher.save(tmp_path / "teacher.keras")
    model = build(kind, teacher=str(tmp_path / "teacher.keras"))
    x, _ = models.arrays(4)
    np.testing.assert_allclose(model.teacher_logits(x), teacher.predict(x, verbose=0), rtol=1e-6)
    assert not model.teacher.weights


class EndlessBatches(keras.utils.PyDataset):
    num_batches = None

    def __getitem__(self, index):
        return models.arrays(4)


@pytest.mark.parametrize(("kind", "batch_size"), list(zip(KINDS, [0, -1, 16.0])))
def test_a_batch_size_that_is_none(batch_size, kind):
    model = build(kind)
    model.compile("sgd")
    with pytest.raises(ValueError, match=rf"fit\(batch_size=.*at least 1. Received: batch_size={batch_size}"):
        model.fit(*models.arrays(), batch_size=batch_size, **guide(kind))


def test_endless_py_datasets():
    with pytest.raises(ValueError, match=r"never ends. Pass `fit\(steps_per_epoch"):
        models.compiled().fit(EndlessBatches(), **guide("BiKDModel"))
    with pytest.raises(ValueError, match=r"never ends. Pass `fit\(steps_per_epoch"):
        models.distilled().fit(EndlessBatches())
    with pytest.raises(ValueError, match=r"pair\(meta=\.\.\.\)` received a data set that never ends"):
        models.compiled().fit(models.Batches(models.arrays()), meta_data=EndlessBatches())
    model = models.compiled()
    model.fit(EndlessBatches(), steps_per_epoch=3, verbose=0, **guide("BiKDModel"))
    assert int(model.optimizer.iterations) == 3


def wrong(samples=12):
    x, y = models.arrays(samples)
    return x, np.where(np.arange(samples) == 9, 4, y)


@pytest.mark.parametrize("form", ["arrays", "tf.data", "PyDataset"])
def test_a_label_out_of_range_in_validation_data(form):
    validation = {"arrays": lambda d: d, "tf.data": models.dataset, "PyDataset": models.Batches}[form](wrong())
    model = models.compiled()
    with pytest.raises(Exception, match=r"The validation labels must lie in 0..3(.|\n)*Received:.*4"):
        model.fit(*models.arrays(), meta_data=models.arrays(8), validation_data=validation, verbose=0)
    assert int(model.optimizer.iterations) == (0 if form == "arrays" else 1)


@pytest.mark.parametrize("name", ["training", "meta"])
def test_a_label_out_of_range_in_a_py_dataset(name):
    train, meta = (wrong(), models.arrays(12)) if name == "training" else (models.arrays(12), wrong())
    model = models.compiled()
    with pytest.raises(Exception, match=rf"The {name} labels must lie in 0..3.*Received: labels from \d to 4"):
        model.fit(models.Batches(train), meta_data=models.Batches(meta), verbose=0)


def test_more_hypergradient_layers_than_the_student_has():
    model = models.compiled(compile_arguments={"hypergradient_layers": 99})
    with pytest.raises(ValueError, match=r"student has 2\. Received: hypergradient_layers=99"):
        model.fit(*models.arrays(), **guide("BiKDModel"))


def test_inner_steps_may_change_between_two_trainings_and_the_temperature_may_not():
    """Six batches with k = 6 and six with k = 2: the weight network has moved once, then three times."""
    model = models.compiled(inner_steps=6)
    for inner_steps, updates in ((6, 1), (2, 4)):
        model.inner_steps = inner_steps
        model.fit(*models.arrays(24), 4, 1, 0, **guide("BiKDModel"))
        assert int(model.meta_optimizer.iterations) == updates
        assert model.get_config()["inner_steps"] == inner_steps
    for name, value in (("temperature", 1.0), ("meta_loss", "soft")):
        with pytest.raises(AttributeError, match=name):
            setattr(model, name, value)


@pytest.mark.parametrize("kind", ["DistillationModel", "BiKDModel"])
def test_losses_may_change_between_two_trainings(kind):
    """A loss of zero trains nothing, also where the step was compiled for another."""

    def nothing(labels, teacher_logits, student_logits):
        return 0.0 * student_logits[:, 0]

    model = build(kind)
    model.compile("sgd")
    model.fit(*models.arrays(24), 8, 1, 0, **guide(kind))
    if kind == "DistillationModel":
        model.objective = nothing
    else:
        model.candidate_losses = {"hard": nothing, "soft": nothing}
    before = model.student.get_weights()
    assert model.fit(*models.arrays(24), 8, 1, 0, **guide(kind)).history["loss"] == [0.0]
    for a, b in zip(before, model.student.get_weights()):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_two_metrics_of_several_entries_need_two_names(kind):
    metrics = [bikd.metrics.ShotAccuracy([200, 50, 50, 5]), bikd.metrics.ShotAccuracy([300, 50, 50, 5])]
    with pytest.raises(ValueError, match=r"Give each its own `name=...`. Received: metrics named"):
        build(kind).compile("sgd", metrics=metrics)


def test_labels_in_a_frame():
    pandas = pytest.importorskip("pandas")
    x, y = models.arrays(24)
    model = models.compiled(compile_arguments={"metrics": ["accuracy"]})
    frames = pandas.DataFrame(x), pandas.DataFrame({"label": y})
    assert "accuracy" in model.fit(*frames, meta_data=frames, verbose=0).history


@pytest.mark.parametrize("kind", ["BiKDModel", "RWKDModel"])
def test_auto_scale_loss(kind):
    with pytest.raises(ValueError, match=r"takes no `auto_scale_loss`.*Received: auto_scale_loss=True"):
        build(kind).compile("sgd", auto_scale_loss=True)


@keras.saving.register_keras_serializable(package="tests")
class Measured(keras.layers.Layer):
    """A layer with a metric of its own, and a loss that no parameter changes."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.size = keras.metrics.Mean(name="size")

    def call(self, inputs):
        self.size.update_state(keras.ops.mean(keras.ops.abs(inputs), axis=-1))
        self.add_loss(0.1 * keras.ops.mean(inputs**2))
        return inputs


@pytest.mark.backend
@pytest.mark.parametrize("kind", KINDS)
def test_metrics_and_losses_inside_the_layers_of_the_student(kind):
    if (kind, keras.backend.backend()) == ("DistillationModel", "jax"):
        pytest.skip("Keras itself keeps no metric of a layer on JAX")
    nets = [
        keras.Sequential([keras.Input((models.FEATURES,)), Measured(name=role), keras.layers.Dense(models.CLASSES)])
        for role in ("student", "teacher")
    ]
    model = build(kind, *nets)
    model.compile("sgd", run_eagerly=models.EAGERLY)
    x, y = models.arrays(24)
    history = model.fit(x, y, 8, 2, 0, **guide(kind)).history
    np.testing.assert_allclose(history["size"], 2 * [np.abs(x).mean()], rtol=1e-5)
    assert [metric.name for metric in model.metrics].count("size") == 1  # the teacher's is not logged


@pytest.mark.parametrize("kind", KINDS)
def test_h5_is_refused_before_it_is_written(kind, tmp_path):
    with pytest.raises(ValueError, match=r"extension with `.keras`, or save `model.student`. Received: .*model.h5"):
        build(kind).save(tmp_path / "model.h5")
    assert not list(tmp_path.iterdir())


def test_a_softmax_is_undone_as_the_guide_says():
    softmax = keras.Sequential([keras.Input((models.FEATURES,)), keras.layers.Dense(models.CLASSES, "softmax")])
    teacher = keras.Model(softmax.inputs[0], keras.ops.log(softmax.outputs[0] + 1e-7))
    model = models.compiled(teacher=teacher)
    x, y = models.arrays(24)
    model.fit(x, y, verbose=0, **guide("BiKDModel"))
    given = keras.ops.convert_to_numpy(model.teacher_logits(x))
    np.testing.assert_allclose(np.exp(given), softmax.predict(x, verbose=0), rtol=1e-3, atol=1e-5)


def test_curves_of_a_history():
    model = build("DistillationModel")
    model.compile("sgd")
    history = model.fit(*models.arrays(24), verbose=0)
    assert len(bikd.plots.training_curves({"KD": history}, "loss").axes[0].lines) == 1


@keras.saving.register_keras_serializable(package="tests")
class CompilesItself(keras.Model):
    """As a classifier of keras-hub: its own `compile` takes other arguments."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(models.CLASSES)
        self.build((None, models.FEATURES))
        self.compile()

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.built = True

    def call(self, inputs):
        return self.dense(inputs)

    def compile(self, optimizer="adam", **kwargs):
        super().compile(optimizer, loss="mse", **kwargs)


def test_a_student_that_compiles_itself_loads_without_a_warning(tmp_path, recwarn):
    model = build("BiKDModel", student=CompilesItself())
    model.compile("sgd")
    model.save(tmp_path / "model.keras")
    keras.saving.load_model(tmp_path / "model.keras")
    assert not [warning for warning in recwarn if "compile()" in str(warning.message)]
