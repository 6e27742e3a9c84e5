"""Beyond the paper: other losses to weigh, the class prior as an input, and cheaper hypergradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from wrong_labels import with_wrong_labels

import keras_bikd as bikd
import models
from keras_bikd import objectives

float64 = pytest.mark.parametrize("floatx", ["float64"], indirect=True)
COUNTS = (100, 30, 8, 2)


def pair():
    return models.arrays(12, seed=1), models.arrays(8, seed=2)


@float64
@pytest.mark.parametrize(
    "arguments",
    [
        {"class_counts": COUNTS},
        {"candidate_losses": {"only": objectives.BalancedSoftmax(class_counts=COUNTS)}},
        {
            "candidate_losses": {
                "hard": objectives.CrossEntropy(),
                "balanced": objectives.BalancedSoftmax(class_counts=COUNTS),
                "soft": objectives.SoftTargets(),
                "corrected": objectives.SoftTargets(class_counts=COUNTS),
            }
        },
    ],
    ids=["class_counts", "one", "four"],
)
def test_hypergradient_of_other_losses_against_finite_differences(floatx, arguments):
    model = bikd.BiKDModel(models.perceptron(), models.perceptron(), **arguments)
    model.compile(optimizer=keras.optimizers.SGD(0.5))
    batch, meta_batch = pair()
    _, hypergradient = model.hypergradient(batch, meta_batch)
    phi, h, generator = model.weight_net.trainable_variables, 1e-5, np.random.default_rng(0)
    start, direction = [v.numpy() for v in phi], [generator.normal(size=v.shape) for v in phi]
    values = []
    for sign in (1, -1):
        for v, value, d in zip(phi, start, direction):
            v.assign(value + sign * h * d)
        values.append(float(model.hypergradient(batch, meta_batch)[0]))
    along = sum(float(np.sum(g * d)) for g, d in zip(hypergradient, direction))
    np.testing.assert_allclose(along, (values[0] - values[1]) / (2 * h), rtol=1e-6)


def test_every_loss_has_its_weight_in_logs_maps_and_files(tmp_path):
    candidates = {
        "plain": objectives.CrossEntropy(),
        "balanced": objectives.BalancedSoftmax(class_counts=COUNTS),
        "soft": objectives.SoftTargets(class_counts=COUNTS),
    }
    model = bikd.BiKDModel(models.perceptron(), models.perceptron(), candidate_losses=candidates)
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    train, meta = models.arrays(), models.arrays(8, seed=1)
    callbacks = [
        bikd.callbacks.WeightMap(tmp_path),
        bikd.callbacks.WeightHistory(tmp_path / "weights.csv", COUNTS, many_above=40, few_below=5),
    ]
    history = model.fit(*train, meta_data=meta, callbacks=callbacks, verbose=0).history
    assert {"plain_weight", "balanced_weight", "soft_weight", "balanced_weight_few"} <= set(history)
    with np.load(tmp_path / "weight_map_0001.npz") as seen:
        assert seen["weights"].shape == (24, 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.candidate_losses == candidates
    runs = [m.fit(*train, meta_data=meta, shuffle=False, verbose=0).history["loss"] for m in (model, loaded)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("labels", [lambda y: y, lambda y: np.eye(4, dtype="float32")[y], lambda y: y[:, None]])
def test_the_weight_network_sees_the_log_prior_of_the_class(labels):
    net = bikd.MetaWeightNet((8,), class_counts=COUNTS)
    y, losses = np.array([0, 3, 1]), np.full((3, 2), 0.5, "float32")
    seen = net.dense_layers[0](np.column_stack([losses, np.log(np.array(COUNTS)[y] / sum(COUNTS))]))
    np.testing.assert_allclose(net(losses, labels(y)), net.dense_layers[1](seen), rtol=1e-6)
    assert len(np.unique(net(losses, y)[:, 0])) == 3  # equal losses, other classes, other weights


def test_a_weight_network_with_log_prior_trains_and_is_stored(tmp_path):
    net = bikd.MetaWeightNet((8,), class_counts=COUNTS, initial_weight=0.9)
    model = bikd.BiKDModel(models.perceptron(), models.perceptron(), net)
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    train, meta = models.arrays(), models.arrays(8, seed=1)
    model.fit(*train, meta_data=meta, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    seen = [m.sample_weights([train]).weights for m in (model, loaded)]
    np.testing.assert_array_equal(*seen)


def test_initial_weights():
    weights = np.asarray(bikd.MetaWeightNet(initial_weight=0.9)(np.abs(np.random.normal(size=(99, 2)))))
    assert 0.8 < weights.mean() < 0.95


def direct(student, moved, batch, meta_batch, model):
    """Meta loss after a plain step on the chosen variables alone, as a function of phi, by two tapes."""
    (x, y), (meta_x, meta_y) = batch, meta_batch
    teacher_logits = model.teacher(x)
    phi = model.weight_net.trainable_variables
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            logits = student(x, training=True)
            both = [loss(y, teacher_logits, logits) for loss in model.candidate_losses.values()]
            both = keras.ops.stack(both, axis=-1)
            seen = keras.ops.stack([bikd.losses.hard_loss(y, teacher_logits), bikd.losses.hard_loss(y, logits)], -1)
            weights = model.weight_net(keras.ops.stop_gradient(seen))
            loss = tf.reduce_mean(tf.reduce_sum(weights * both, axis=-1))
        gradient = inner.gradient(loss, [v.value for v in moved])
        with keras.StatelessScope([(v, v.value - 0.5 * g) for v, g in zip(moved, gradient)]):
            meta_loss = tf.reduce_mean(bikd.losses.hard_loss(meta_y, student(meta_x, training=True)))
    return outer.gradient(meta_loss, [v.value for v in phi])


@models.tensorflow_only
@float64
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_last_layers_is_the_hypergradient_of_a_step_on_these_layers(floatx, layers):
    student = models.perceptron(keras.layers.BatchNormalization())
    model = bikd.BiKDModel(student, models.perceptron())
    model.compile(optimizer=keras.optimizers.SGD(0.5), hypergradient_layers=layers)
    batch, meta_batch = pair()
    _, ours = model.hypergradient(batch, meta_batch)
    moved = [v for layer in student.layers[-layers:] for v in layer.trainable_variables]
    for a, b in zip(ours, direct(student, moved, batch, meta_batch, model)):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("approximation", [{"hypergradient_layers": 1}])
@pytest.mark.parametrize("run_eagerly", [pytest.param(True, marks=models.tensorflow_only), False])
def test_an_approximation_leaves_the_real_step_exact(approximation, run_eagerly):
    """With a weight network that never moves, the student moves as with the exact hypergradient."""

    def train(arguments):
        models.reseed()
        student = models.perceptron(keras.layers.BatchNormalization())
        compiled = {"compile_arguments": {**arguments, "run_eagerly": run_eagerly}}
        model = models.compiled(student, meta_learning_rate=0.0, inner_steps=2, **compiled)
        for i in range(5):
            model.train_on_batch(models.arrays(12, seed=i), models.arrays(8, seed=i + 9))
        return model

    exact, approximate = train({}), train(approximation)
    for a, b in zip(exact.student.weights, approximate.student.weights):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert int(approximate.optimizer.iterations) == 5


def test_an_approximation_is_stored_with_the_model(tmp_path):
    model = models.compiled(inner_steps=4, compile_arguments={"hypergradient_layers": 1})
    model.fit(*models.arrays(), meta_data=models.arrays(8), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.hypergradient_layers == 1


def guarded(**kwargs):
    model = bikd.BiKDModel(models.perceptron(), models.perceptron(), bikd.MetaWeightNet((4,), **kwargs))
    model.compile(optimizer=keras.optimizers.SGD(0.0), meta_optimizer=keras.optimizers.SGD(0.0))
    return model


def test_collapsed_weights_are_told_once():
    model = guarded(initial_weight=1e-4)
    with pytest.warns(UserWarning, match="collapsed") as told:
        model.fit(*models.arrays(), 8, epochs=3, meta_data=models.arrays(8), verbose=0)
    (message,) = [str(warning.message) for warning in told]
    assert "collapsed: their sum is 0.000 on average after epoch 1" in message
    assert "lower the meta learning rate" in message


def test_a_fitted_student_is_told_once():
    _, y = models.arrays()
    one_hot = (200 * np.eye(4)[y]).astype("float32")
    student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, kernel_initializer="identity")])
    model = bikd.BiKDModel(student, keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)]))
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    with pytest.warns(
        UserWarning, match=r"tell samples apart.*cross-entropy 0.0000 after epoch 1.*class_counts"
    ) as told:
        model.fit(one_hot, y, 8, epochs=2, meta_data=(one_hot[:8], y[:8]), verbose=0)
    assert len(told) == 1


def test_no_warning_in_a_training_that_goes_well(recwarn):
    guarded().fit(*models.arrays(), 8, epochs=2, meta_data=models.arrays(8), verbose=0)
    assert not [warning for warning in recwarn if issubclass(warning.category, UserWarning)]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int64"])
def test_the_log_prior_takes_labels_of_any_integer(dtype):
    net = bikd.MetaWeightNet((8,), class_counts=COUNTS)
    assert net(np.ones((2, 2), "float32"), np.array([0, 3], dtype)).shape == (2, 2)


def test_a_weight_network_in_a_functional_model():
    net = bikd.MetaWeightNet((8,), class_counts=COUNTS, num_losses=3)
    assert net(keras.Input((2,)), keras.Input((), dtype="int32")).shape == (None, 3)


def under_learned_weights(model, student):
    objective = bikd.LearnedWeights(model.weight_net, model.candidate_losses)
    final = bikd.DistillationModel(student, model.teacher, objective)
    final.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    return final


@float64
@pytest.mark.parametrize("weight_net", [{}, {"class_counts": COUNTS}], ids=["published", "log prior"])
def test_learned_weights_are_bikd_with_a_network_that_rests(floatx, weight_net):
    student = models.perceptron()
    twin = keras.models.clone_model(student)
    twin.set_weights(student.get_weights())
    net = bikd.MetaWeightNet((8,), **weight_net)
    model = bikd.BiKDModel(student, models.perceptron(), net, class_counts=COUNTS)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), meta_optimizer=keras.optimizers.SGD(0.0))
    final = under_learned_weights(model, twin)
    batch, meta_batch = pair()
    start = twin.get_weights()
    for _ in range(3):
        model.train_on_batch(batch, meta_batch)
        final.train_on_batch(*batch)
    for ours, theirs, before in zip(twin.get_weights(), student.get_weights(), start):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)
        assert (ours != before).any()


def test_learned_weights_are_a_copy_that_is_saved_and_not_trained(tmp_path):
    model = models.compiled()
    final = under_learned_weights(model, models.perceptron())
    learned = [v.numpy() for v in model.weight_net.variables]
    for variable in model.weight_net.variables:
        variable.assign(variable + 1.0)
    (x, y), _ = pair()
    final.fit(x, y, verbose=0)
    final.save(tmp_path / "final.keras")
    loaded = keras.saving.load_model(tmp_path / "final.keras")
    for one in (final, loaded):
        assert len(one.trainable_variables) == len(one.student.trainable_variables)
        for variable, value in zip(one.objective.weight_net.variables, learned):
            np.testing.assert_array_equal(variable.numpy(), value)
    assert loaded.train_on_batch(x, y) == final.train_on_batch(x, y)


def test_learned_weights_refuse_what_does_not_fit():
    one = {"hard": objectives.CrossEntropy()}
    with pytest.raises(ValueError, match=r"one loss per output.*num_losses=2"):
        bikd.LearnedWeights(bikd.MetaWeightNet(), one)
    with pytest.raises(ValueError, match=r"trained `MetaWeightNet`.*Received: weight_net=None"):
        bikd.LearnedWeights(None, one)
    with pytest.raises(ValueError, match="with one loss per output"):
        bikd.LearnedWeights(bikd.MetaWeightNet(num_losses=1), [objectives.CrossEntropy()])


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_learned_weights_in_mixed_precision(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        final = under_learned_weights(models.compiled(), models.perceptron())
    finally:
        keras.config.set_dtype_policy(before)
    assert final.objective.weight_net.compute_dtype == "float32"
    x, y = models.learnable()
    before = models.cross_entropy(final, x, y)
    history = final.fit(x, y, batch_size=4, epochs=6, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert models.cross_entropy(final, x, y) < 0.8 * before


@pytest.mark.slow
def test_wrong_labels_get_small_weights_and_rare_classes_do_not():
    """What `LearnedWeights` is for, on digits of which four labels in ten are wrong."""
    load = lambda **kwargs: bikd.data.load(
        "sklearn_digits", 10, meta_size=100, test_size=500, batch_size=64, seed=0, **kwargs
    )
    data = with_wrong_labels(load(augment=(bikd.data.gaussian_noise(0.7), None)), 0.4, batch_size=64)
    net = lambda units: keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(units, "relu"), keras.layers.Dense(10)]
    )
    teacher = net(128)
    teacher.compile(keras.optimizers.SGD(0.05, momentum=0.9), bikd.losses.hard_loss)
    teacher.fit(data.train.repeat(), shuffle=False, steps_per_epoch=600, verbose=0)
    weight_net = bikd.MetaWeightNet(class_counts=data.class_counts)
    model = bikd.BiKDModel(net(12), teacher, weight_net, class_counts=data.class_counts)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), steps_per_execution=50)
    model.fit(data.train.repeat(), meta_data=data.meta, steps_per_epoch=1000, verbose=0)

    samples = lambda data: [pair for x, y in data.train for pair in zip(np.asarray(x), np.asarray(y))]
    right = {image.tobytes(): label for image, label in samples(load())}
    images, labels = zip(*samples(with_wrong_labels(load(), 0.4)))
    wrong = np.array([right[image.tobytes()] != label for image, label in zip(images, labels)])
    seen = model.sample_weights([(np.stack(images), np.stack(labels))])
    for group in (seen.labels < 3, seen.labels >= 7):  # the head, and the tail
        hard = seen.weights[group, 0]
        assert hard[~wrong[group]].mean() > hard[wrong[group]].mean() + 0.2
