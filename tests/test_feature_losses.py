"""Outputs of layers inside the networks, weighed like the losses of logits."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_bikd as bikd
import models
from keras_bikd import objectives
from keras_bikd.losses import attention_transfer_loss
from keras_bikd.objectives import FeatureLoss
from keras_bikd.objectives.base import layers_of


@keras.saving.register_keras_serializable(package="tests")
def distance(teacher_features, student_features):
    """A loss of the user's own."""
    return ops.mean(ops.square(teacher_features - student_features), axis=-1)


def network(*more, seed=0):
    inputs = keras.Input((models.FEATURES,))
    x = layers.Dense(6, "tanh", name="hidden", kernel_initializer=keras.initializers.GlorotUniform(seed))(inputs)
    for layer in more:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(models.CLASSES, kernel_initializer=keras.initializers.GlorotUniform(7))(x))


def hidden(loss=distance, teacher_layer="hidden", student_layer="hidden"):
    return FeatureLoss(loss=loss, teacher_layer=teacher_layer, student_layer=student_layer)


def as_keras_has_it():
    mse = keras.distillation.FeatureDistillation("mse", teacher_layer_name="hidden", student_layer_name="hidden")
    return objectives.KerasDistillation(loss=mse)


def bikd_model(student=None, teacher=None, loss=None, **arguments):
    models.reseed()
    losses = {"hard": objectives.CrossEntropy(), "features": loss or hidden()}
    student, teacher = student or network(layers.Dropout(0.3, seed=3)), teacher or network(seed=1)
    model = bikd.BiKDModel(student, teacher, candidate_losses=losses, **{"inner_steps": 1} | arguments)
    model.compile(keras.optimizers.SGD(0.1))
    return model


def flat(tensors):
    return np.concatenate([np.ravel(ops.convert_to_numpy(part)) for part in tensors])


@pytest.mark.backend
def test_attention_transfer_sees_places_and_not_scale_or_channels():
    teacher, student = np.random.default_rng(0).normal(size=(2, 5, 3, 4, 8)).astype("float32")
    plain = ops.convert_to_numpy(attention_transfer_loss(teacher, student))
    assert plain.shape == (5,)
    assert (plain > 0).all()
    assert (plain <= 2).all()
    np.testing.assert_allclose(attention_transfer_loss(teacher, 3 * np.tile(student, (1, 1, 1, 2))), plain, rtol=1e-5)
    np.testing.assert_allclose(attention_transfer_loss(teacher, -teacher), np.zeros(5), atol=1e-6)
    apart = np.zeros((2, 1, 2, 1), "float32")
    apart[0, 0, 0], apart[1, 0, 1] = 1, 1
    np.testing.assert_allclose(attention_transfer_loss(apart[:1], apart[1:]), [2], rtol=1e-6)
    with pytest.raises(ValueError, match="same places"):
        attention_transfer_loss(teacher, student[:, :2])
    with pytest.raises(ValueError, match="same places"):
        attention_transfer_loss(np.zeros((2, 4)), np.zeros((2, 4)))


@pytest.mark.backend
def test_where_nothing_is_left_the_gradient_is_finite():
    dead = keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2D(2, 1, kernel_initializer="zeros", name="features")])
    dead.add(layers.GlobalAveragePooling2D())
    dead.add(layers.Dense(models.CLASSES))
    x, y = np.ones((8, 4, 4, 1), "float32"), np.arange(8) % models.CLASSES
    model = bikd_model(dead, keras.models.clone_model(dead), hidden(attention_transfer_loss, "features", "features"))
    model.fit(x, y, meta_data=(x, y), verbose=0)
    assert np.isfinite(flat(model.student.trainable_variables)).all()


@pytest.mark.backend
@pytest.mark.parametrize("floatx", ["float64"], indirect=True)
def test_the_difference_is_the_exact_hypergradient(floatx):
    model = bikd_model()
    batch, meta_batch = models.arrays(12, seed=1), models.arrays(8, seed=2)
    _, exact = model.hypergradient(batch, meta_batch)
    model.compile(keras.optimizers.SGD(0.1), hypergradient="forward_difference")
    _, rough = model.hypergradient(batch, meta_batch)
    exact, rough = flat(exact), flat(rough)
    assert np.linalg.norm(exact) > 0
    assert np.linalg.norm(exact - rough) <= 1e-5 * np.linalg.norm(exact)


@pytest.mark.backend
@pytest.mark.parametrize("floatx", ["float64"], indirect=True)
def test_a_layer_before_the_logits_gives_what_the_logits_give(floatx):
    """The last layer's output is the logits: a loss of it is the same loss of logits, in every model."""
    train, meta = models.arrays(16), models.arrays(8, seed=1)
    last = {"student_layer": "logits", "teacher_layer": "logits"}

    def with_name(seed):
        start = keras.initializers.GlorotUniform(seed)
        return keras.Sequential(
            [keras.Input((models.FEATURES,)), layers.Dense(models.CLASSES, name="logits", kernel_initializer=start)]
        )

    def of_logits(labels, teacher_logits, student_logits):
        return distance(teacher_logits, student_logits)

    found = {}
    for name, loss in {"layer": FeatureLoss(loss=distance, **last), "logits": of_logits}.items():
        mixed = objectives.WeightedSum(objectives=(objectives.CrossEntropy(), loss), weights=(0.5, 2.0))
        trusted = objectives.TeacherTrust(objective=mixed)
        one = bikd_model(with_name(0), with_name(1), mixed)
        two = bikd.DistillationModel(with_name(0), with_name(1), trusted)
        two.compile(keras.optimizers.SGD(0.1), metrics=["accuracy"])
        one.fit(*train, meta_data=meta, batch_size=8, shuffle=False, verbose=0)
        logs = two.fit(*train, batch_size=8, shuffle=False, validation_data=meta, verbose=0).history
        assert {"accuracy", "val_accuracy"} <= {*logs}
        found[name] = [flat(model.student.trainable_variables) for model in (one, two)]
    np.testing.assert_allclose(found["layer"], found["logits"], rtol=1e-9)


@pytest.mark.backend
def test_weighed_saved_and_used_again(tmp_path):
    train, meta = models.arrays(16), models.arrays(8, seed=1)
    model = bikd_model(loss=as_keras_has_it())
    history = model.fit(*train, meta_data=meta, verbose=0).history
    assert np.isfinite(history["features_weight"]).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    losses = [m.fit(*train, meta_data=meta, shuffle=False, verbose=0).history["loss"] for m in (model, loaded)]
    assert losses[0] == losses[1]

    learned = objectives.LearnedWeights(loaded.weight_net, loaded.candidate_losses)
    second = bikd.DistillationModel(network(), loaded.teacher, learned)
    second.compile("sgd")
    assert np.isfinite(second.fit(*train, verbose=0).history["loss"]).all()


def test_keras_loss_of_layers_is_ours():
    train, meta = models.arrays(16), models.arrays(8, seed=1)
    found = []
    for loss in (hidden(), as_keras_has_it()):
        model = bikd_model(network(), loss=loss)
        model.fit(*train, meta_data=meta, shuffle=False, verbose=0)
        found.append(flat(model.student.trainable_variables))
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_the_student_runs_as_it_does_without_its_layers_being_looked_at():
    """Dropout masks, batch statistics and regularisers, each once."""
    found = []
    for loss in (hidden(), objectives.SoftTargets()):
        more = (
            layers.Dropout(0.5, seed=1),
            layers.BatchNormalization(),
            layers.Dense(5, "relu", kernel_regularizer="l2"),
        )
        student = network(*more)
        student.layers[-2].set_weights([np.ones((6, 5)), np.zeros(5)])
        model = bikd_model(student, loss=loss)
        theta, state = (
            [v.value for v in part] for part in (student.trainable_variables, student.non_trainable_variables)
        )
        model.hypergradient(models.arrays(16), models.arrays(16))  # makes the problem, and changes no state
        compared = layers_of([loss]).student
        outputs, penalty, new_state = model.problem.student_at(theta, state, models.arrays(16)[0], compared)
        found.append(flat([outputs.logits, penalty, *new_state]))
    np.testing.assert_array_equal(*found)


def test_bad_input():
    train, meta = models.arrays(16), models.arrays(8, seed=1)
    with pytest.raises(ValueError, match="teacher_features, student_features"):
        hidden(loss="mse")
    with pytest.raises(ValueError, match="name of a layer"):
        hidden(student_layer=3)
    with pytest.raises(ValueError, match="cannot be computed from logits"):
        hidden()(meta[1], np.zeros((8, models.CLASSES)), np.zeros((8, models.CLASSES)))
    with pytest.raises(ValueError, match="student has no layer 'absent'"):
        bikd_model(loss=hidden(student_layer="absent")).fit(*train, meta_data=meta, verbose=0)
    with pytest.raises(ValueError, match="one value per sample"):
        bikd_model(loss=hidden(lambda teacher, student: ops.square(teacher - student))).fit(
            *train, meta_data=meta, verbose=0
        )
    stored = {"labels": train[1], "teacher_logits": np.zeros((16, models.CLASSES))}
    with pytest.raises(ValueError, match="has to run"):
        bikd_model().fit(train[0], stored, meta_data=meta, verbose=0)
    nested = keras.Sequential([keras.Input((models.FEATURES,)), network()])
    with pytest.raises(ValueError, match="is a model"):
        bikd_model(nested, loss=hidden(student_layer=nested.layers[0].name)).fit(*train, meta_data=meta, verbose=0)
    experts = bikd.Experts([models.perceptron()], [range(models.CLASSES)])
    with pytest.raises(ValueError, match="functional and sequential"):
        bikd_model(teacher=experts).fit(*train, meta_data=meta, verbose=0)
