"""RW-KD, LFME, deferred objectives: against hand-made numbers and nested tapes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_bikd as bikd
import models
from keras_bikd import Experts, losses, objectives
from keras_bikd.callbacks import ExpertPacing
from keras_bikd.long_tail import class_groups
from keras_bikd.objectives import ExpertsObjective
from keras_bikd.objectives.experts import expert_weight

float64 = pytest.mark.parametrize("floatx", ["float64"], indirect=True)


def rwkd(teacher=None, **kwargs):
    student = models.perceptron(keras.layers.BatchNormalization())
    model = bikd.RWKDModel(student, teacher or models.perceptron(), **kwargs)
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    return model


def nested_tape_weights(model, batch, meta_batch):
    """The algorithm as it is written: epsilons of zero, a lookahead step, minus the gradient, clamp, normalise."""
    (x, y), (meta_x, meta_y), variables = batch, meta_batch, model.student.trainable_variables
    teacher = model.teacher(x)
    epsilon = tf.zeros((len(y), 2), x.dtype)
    with tf.GradientTape() as outer:
        outer.watch(epsilon)
        with tf.GradientTape() as inner:
            logits = model.student(x, training=True)
            both = keras.ops.stack([losses.hard_loss(y, logits), losses.soft_loss(teacher, logits, 4.0)], axis=-1)
            loss = tf.reduce_mean(tf.reduce_sum(epsilon * both, axis=-1))
        gradient = inner.gradient(loss, [v.value for v in variables])
        with keras.StatelessScope([(v, v.value - 0.1 * g) for v, g in zip(variables, gradient)]):
            meta_loss = tf.reduce_mean(losses.hard_loss(meta_y, model.student(meta_x, training=True)))
    gains = np.maximum(-outer.gradient(meta_loss, epsilon), 1e-12)
    return gains / gains.sum(axis=-1, keepdims=True), gradient


@models.tensorflow_only
@float64
def test_rwkd_weights_are_those_of_the_nested_tapes(floatx):
    model, batch, meta_batch = rwkd(), models.arrays(12), models.arrays(8, seed=1)
    logs = model.train_on_batch(batch, meta_batch, return_dict=True)
    models.reseed()
    twin = rwkd()
    weights, _ = nested_tape_weights(twin, batch, meta_batch)
    np.testing.assert_allclose(weights.sum(axis=-1), 1)
    assert logs["hard_weight"] == pytest.approx(weights[:, 0].mean(), abs=1e-6)
    assert 0.0 < weights[:, 0].mean() < 1.0

    x, y = batch
    models.reseed()
    twin = rwkd()

    def weighted_loss():
        logits = twin.student(x, training=True)
        hard, soft = losses.hard_loss(y, logits), losses.soft_loss(twin.teacher(x), logits, 4.0)
        return tf.reduce_mean(weights[:, 0] * hard + weights[:, 1] * soft)

    variables = twin.student.trainable_variables
    _, gradient = models.value_and_gradients(weighted_loss, variables)
    for ours, before, g in zip(model.student.trainable_variables, variables, gradient):
        np.testing.assert_allclose(ours, before - 0.1 * g, rtol=1e-6, atol=1e-9)


def test_rwkd_trains_and_survives_a_round_trip(tmp_path):
    model = rwkd(models.expert(), meta_loss="mixed")
    (x, y), meta = models.learnable(48), models.learnable(16, seed=1)
    history = model.fit(x, y, meta_data=meta, epochs=8, verbose=0, batch_size=8).history
    assert history["student_loss"][-1] < 0.8 * history["student_loss"][0]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    again = [m.fit(x, y, meta_data=meta, shuffle=False, verbose=0).history["loss"] for m in (model, loaded)]
    assert again[0] == again[1]


Z = np.array([[1.0, 0.0, 2.0, -1.0], [0.5, 1.5, -0.5, 0.0]])
EXPERTS = np.array([[2.0, 0.0, 1.0, -1.0], [0.0, 1.0, 0.0, 2.0]])  # classes 0, 1 of the one, 2, 3 of the other
LABELS = np.array([2, 1])


class GivenWeights(ExpertsObjective):
    weights_of_samples = (1.0, 1.0)

    def instance_weights(self, labels, expert_logits):
        return keras.ops.convert_to_tensor(self.weights_of_samples, "float64")


@pytest.mark.parametrize(
    ("weights", "hard", "first", "second"),
    [((1.0, 1.0), 0.49309804, 0.01317229, 0.04179698), ((0.4, 0.8), 0.7765927, 0.03545412, 0.04318687)],
)
def test_lfme_loss_by_hand(weights, hard, first, second):
    objective = GivenWeights([9, 8, 2, 1], num_groups=2, temperature=2.0)
    objective.weights_of_samples = weights
    for expert_weights, expected in (((0, 0), hard), ((1, 0), hard + first), ((0, 1), hard + second)):
        objective.expert_weights.assign(expert_weights)
        assert float(keras.ops.mean(objective(LABELS, EXPERTS, Z))) == pytest.approx(expected, abs=1e-7)


def test_lfme_instance_weights():
    objective = ExpertsObjective([100, 60, 12, 4], num_groups=2)
    assert objective.start_of_class == pytest.approx([0.1, 0.1, 1.0, 1.0])  # mean of the smallest group over the own
    # Confidence of class 0 spans 0.2..0.8; classes 2 and 3 have a single confidence.
    objective.confidence_range.assign([[0.2, 0.0, 0.5, 0.5], [0.8, 1.0, 0.5, 0.5]])
    logits = np.log([[0.2, 0.8, 1, 1], [0.5, 0.5, 1, 1], [0.8, 0.2, 1, 1], [0.5, 0.5, 1, 1]])
    start = objective.instance_weights([0, 0, 0, 2], logits)
    np.testing.assert_allclose(start, [0.1, 0.55, 1.0, 1.0], atol=1e-5)
    objective.progress.assign(1 / 45)
    np.testing.assert_allclose(objective.instance_weights([0], logits[:1]), [0.1 + 0.9 / 45], atol=1e-5)
    objective.progress.assign(2.0)  # not clipped: 2 - start at the end
    np.testing.assert_allclose(objective.instance_weights([0, 0], logits[:2]), [1.9, 1.45], atol=1e-5)


@pytest.mark.parametrize(("student", "weight"), [(0.0, 1), (0.1, 1), (0.18, 1), (0.3, 0.714286), (0.6, 0), (0.7, 0)])
def test_lfme_expert_weight(student, weight):
    assert expert_weight(student, 0.6, threshold=0.3) == pytest.approx(weight, abs=1e-6)


@pytest.mark.backend
def test_lfme_in_fit(tmp_path):
    """Pace and curriculum move by epochs, one-hot labels do the same, and the model goes on after reloading."""
    counts, (x, y), meta = [30, 20, 6, 4], models.learnable(48), models.learnable(24, seed=1)
    groups = class_groups(counts, 2)

    def model():
        models.reseed()
        experts = Experts([models.perceptron(classes=2) for _ in groups], groups)
        built = bikd.DistillationModel(models.perceptron(), experts, ExpertsObjective(counts, num_groups=2))
        built.compile(optimizer=keras.optimizers.SGD(0.5))
        return built

    def fit(model, y=y, meta=meta, **kwargs):
        return model.fit(x, y, callbacks=[ExpertPacing((x, y), meta)], verbose=0, **kwargs).history

    plain = model()
    before = models.cross_entropy(plain, x, y)
    history = fit(plain, epochs=6)
    assert models.cross_entropy(plain, x, y) < 0.8 * before
    assert float(plain.objective.progress) == pytest.approx(2.0)
    assert all(0 <= w <= 1 for i in (0, 1) for w in history[f"expert_weight_{i}"])
    low, high = np.asarray(plain.objective.confidence_range)
    assert (low > 0).all()
    assert (low < high).all()

    one_hot = model()
    other = fit(one_hot, np.eye(4)[y], (meta[0], np.eye(4)[meta[1]]), epochs=6)
    np.testing.assert_allclose(other["loss"], history["loss"], rtol=1e-5)

    plain.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.objective.expert_weights, plain.objective.expert_weights)
    again = [fit(m, shuffle=False)["loss"] for m in (plain, loaded)]
    np.testing.assert_allclose(again[0], again[1], rtol=1e-6)


def test_class_groups_hold_every_class_once_and_larger_classes_first():
    counts = [5, 400, 20, 30, 7, 90, 1]
    groups = class_groups(counts)
    assert sorted(np.concatenate(groups)) == list(range(7))
    smallest = [min(counts[c] for c in group) for group in groups]
    largest = [max(counts[c] for c in group) for group in groups]
    assert smallest[0] >= largest[1]
    assert smallest[1] >= largest[2]


def test_deferred_objective_changes_the_loss_at_its_epoch():
    (x, y), first, second = models.arrays(), objectives.CrossEntropy(), objectives.KnowledgeDistillation()
    callback = bikd.callbacks.DeferredObjective(second, epoch=2)

    def model(objective):
        models.reseed()
        built = bikd.DistillationModel(models.perceptron(), models.perceptron(), objective)
        built.compile(optimizer=keras.optimizers.SGD(0.0))  # the weights stay, so the loss tells the objective
        return built

    expected = [model(objective).fit(x, y, verbose=0).history["loss"][0] for objective in (first, second)]
    switched = model(first).fit(x, y, epochs=4, verbose=0, callbacks=[callback]).history["loss"]
    np.testing.assert_allclose(switched, [expected[0]] * 2 + [expected[1]] * 2, rtol=1e-6)
    again = model(first)
    for _ in range(2):  # the second training begins with the model's own
        losses = again.fit(x, y, epochs=4, verbose=0, callbacks=[callback]).history["loss"]
        np.testing.assert_allclose(losses, switched, rtol=1e-6)
    assert again.objective is first
    resumed = model(first).fit(x, y, epochs=4, initial_epoch=3, verbose=0, callbacks=[callback]).history["loss"]
    np.testing.assert_allclose(resumed, [expected[1]], rtol=1e-6)


def test_rwkd_weights_survive_gradients_below_the_range_of_float16():
    def hard_weight(policy):
        keras.config.set_dtype_policy(policy)
        try:
            model = bikd.RWKDModel(models.perceptron(), models.perceptron())
            # The same weights on every backend. Of some others a gain is so small that rounding decides its sign.
            generator = np.random.default_rng(0)
            for net in (model.student, model.teacher):
                net.set_weights([generator.normal(size=weight.shape) / 2 for weight in net.weights])
            model.compile(optimizer=keras.optimizers.SGD(0.0))
            (x, y), (meta_x, meta_y) = models.arrays(12), models.arrays(8, seed=1)
            return model.train_on_batch((1e-3 * x, y), (1e-3 * meta_x, meta_y), return_dict=True)["hard_weight"]
        finally:
            keras.config.set_dtype_policy("float32")

    expected = hard_weight("float32")
    assert abs(expected - 0.5) > 0.05  # one half is what gains that have all vanished would give
    assert hard_weight("mixed_float16") == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("kind", "policy"),
    [
        ("RW-KD", "mixed_float16"),
        ("RW-KD", "mixed_bfloat16"),
        ("RW-KD", "bfloat16"),
        ("LFME", "mixed_float16"),
        ("LFME", "mixed_bfloat16"),
    ],
)
def test_mixed_precision(kind, policy):
    keras.config.set_dtype_policy(policy)
    try:
        (x, y), meta = models.learnable(32), models.learnable(16, seed=1)
        if kind == "RW-KD":
            model = bikd.RWKDModel(models.perceptron(), models.expert())
            arguments = {"meta_data": meta}
        else:
            counts = [30, 20, 6, 4]
            experts = Experts([models.perceptron(classes=2) for _ in range(2)], class_groups(counts, 2))
            model = bikd.DistillationModel(models.perceptron(), experts, ExpertsObjective(counts, num_groups=2))
            arguments = {"callbacks": [ExpertPacing((x, y), meta)]}
        model.compile(optimizer=keras.optimizers.SGD(0.3))
        before = models.cross_entropy(model, x, y)
        history = model.fit(x, y, batch_size=4, epochs=8, verbose=0, **arguments).history
        assert np.isfinite(history["loss"]).all()
        assert models.cross_entropy(model, x, y) < 0.8 * before
    finally:
        keras.config.set_dtype_policy("float32")
