"""The losses: hand-computed values, invariances, limits. Golden values are in `test_golden.py`."""

import keras
import numpy as np
import pytest
from scipy import special

import models
from keras_bikd import losses, objectives

pytestmark = pytest.mark.tensorflow  # operations one by one, each of which JAX would compile

Z = np.array([[1.0, 0.0, -1.0], [0.0, 2.0, 1.0]])
T = np.array([[2.0, 1.0, 0.0], [1.0, 0.0, 3.0]])
Y = np.array([0, 2])
COUNTS = (100, 10, 1)


def cckd(variant):
    return objectives.ClassConditionalDistillation(
        class_counts=COUNTS, teacher_prior=(0.5, 0.3, 0.2), variant=variant, temperature=4.0
    )


# One battery: name, loss of (labels, teacher_logits, student_logits), its values on the lines above or their sum.
LOSSES = {
    "hard": (lambda y, t, z: losses.hard_loss(y, z), [0.40760596, 1.40760596]),
    "soft": (lambda y, t, z: losses.soft_loss(t, z, 4.0), [0.0, 1.39746806]),
    "balanced_softmax": (lambda y, t, z: losses.balanced_softmax_loss(y, z, COUNTS), [0.0374319, 4.17393736]),
    "CrossEntropy": (objectives.CrossEntropy(), [0.40760596, 1.40760596]),
    "BalancedSoftmax": (objectives.BalancedSoftmax(class_counts=COUNTS), [0.0374319, 4.17393736]),
    "KnowledgeDistillation": (objectives.KnowledgeDistillation(temperature=4.0), [0.20380298, 1.40253701]),
    "soft_cross_entropy": (lambda y, t, z: losses.soft_cross_entropy(t, z, 4.0), [17.24959439, 18.16755411]),
    "LogitAdjustment": (objectives.LogitAdjustment(class_counts=COUNTS), [0.0374319, 4.17393736]),
    "SoftTargets": (objectives.SoftTargets(temperature=4.0), [0.0, 1.39746806]),
    "WeightedSum": (
        objectives.WeightedSum(objectives=(objectives.CrossEntropy(), objectives.SoftTargets()), weights=(0.5, 0.5)),
        [0.20380298, 1.40253701],
    ),
    "TeacherTrust": (
        objectives.TeacherTrust(objective=objectives.CrossEntropy()),
        [0.40760596 * np.exp(-0.40760596), 1.40760596 * np.exp(-0.16984602)],
    ),
    "WeightedSoftLabels": (objectives.WeightedSoftLabels(), 2 * 33.60776073),
    "BalancedKnowledgeDistillation": (
        objectives.BalancedKnowledgeDistillation(class_counts=COUNTS, temperature=4.0),
        2 * 15.30929046,
    ),
    "DistillingVirtualExamples": (
        objectives.DistillingVirtualExamples(class_counts=COUNTS, temperature=4.0),
        2 * 1.2434575,
    ),
    "DistillingVirtualExamples without power": (
        objectives.DistillingVirtualExamples(class_counts=COUNTS, temperature=4.0, power=1.0),
        2 * 1.40220933,
    ),
    # The hard part of the three readings is the same: 2 * 2.10568463.
    "CCKD released": (cckd("released"), 2 * (2.10568463 + 20.61034875)),
    "CCKD training_prior": (cckd("training_prior"), 2 * (2.10568463 + 16.7431406)),
    "CCKD no_prior": (cckd("no_prior"), 2 * (2.10568463 + 17.78829459)),
}
battery = pytest.mark.parametrize("name", LOSSES)


@battery
def test_hand_computed_values(name):
    loss, expected = LOSSES[name]
    values = np.asarray(loss(Y, T, Z))
    np.testing.assert_allclose(values if isinstance(expected, list) else values.sum(), expected, atol=4e-8)


@battery
def test_one_value_per_sample_and_labels_in_every_form(name):
    loss, _ = LOSSES[name]
    values = np.asarray(loss(Y, T, Z))
    assert values.shape == (2,)
    for labels in (np.eye(3)[Y], np.eye(3, dtype="int32")[Y], Y[:, None], Y.astype("uint8")):
        np.testing.assert_allclose(loss(labels, T, Z), values, atol=1e-12)


@battery
def test_a_constant_added_to_all_logits_changes_nothing(name):
    loss, _ = LOSSES[name]
    np.testing.assert_allclose(loss(Y, T + 10, Z - 7), loss(Y, T, Z), atol=1e-8)


@battery
def test_gradient_against_finite_differences(name):
    loss, _ = LOSSES[name]
    _, gradient = models.value_and_gradient(lambda z: keras.ops.sum(loss(Y, T, z)), Z)
    direction, h = np.random.default_rng(0).normal(size=Z.shape), 1e-6
    slope = (np.sum(loss(Y, T, Z + h * direction)) - np.sum(loss(Y, T, Z - h * direction))) / (2 * h)
    # WSL's weight depends on the student, and no gradient flows through it.
    if name != "WeightedSoftLabels":
        np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-7)


@battery
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_extreme_logits_in_low_precision(name, dtype):
    loss, _ = LOSSES[name]
    z, t = (np.array([[60.0, -60.0, 0.0], [-60.0, 60.0, -60.0]]) * sign for sign in (1, -1))
    z_low, t_low = keras.ops.cast(z, dtype), keras.ops.cast(t, dtype)
    values = loss(Y, t_low, z_low)
    assert keras.backend.standardize_dtype(values.dtype) == "float32"
    _, gradient = models.value_and_gradient(lambda z: keras.ops.sum(loss(Y, t_low, z)), z_low)
    assert np.isfinite(np.asarray(gradient, "float32")).all()
    np.testing.assert_allclose(values, loss(Y, t, z), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_gradient_of_the_soft_loss_is_temperature_times_the_difference_of_probabilities(temperature):
    _, gradient = models.value_and_gradient(lambda z: keras.ops.sum(losses.soft_loss(T, z, temperature)), Z)
    expected = temperature * (special.softmax(Z / temperature, axis=-1) - special.softmax(T / temperature, axis=-1))
    np.testing.assert_allclose(gradient, expected, atol=1e-12)


def test_soft_loss_is_zero_for_equal_distributions_and_positive_otherwise():
    np.testing.assert_allclose(losses.soft_loss(T, T + 3, 2.0), 0, atol=1e-12)
    assert (np.asarray(losses.soft_loss(T, -T, 2.0)) > 0).all()


def test_soft_loss_puts_the_teacher_first():
    """KL(teacher || student), by hand, for two classes at temperature 1."""
    p, q = np.array([0.8, 0.2]), np.array([0.3, 0.7])
    expected = np.sum(p * np.log(p / q))
    assert expected != pytest.approx(np.sum(q * np.log(q / p)))
    np.testing.assert_allclose(losses.soft_loss(np.log(p)[None], np.log(q)[None], 1.0), [expected], atol=1e-12)


def test_balanced_softmax_with_equal_counts_is_cross_entropy():
    equal = losses.balanced_softmax_loss(Y, Z, [7, 7, 7])
    np.testing.assert_allclose(equal, losses.hard_loss(Y, Z), atol=1e-12)


def test_balanced_softmax_takes_counts_or_priors_and_survives_an_empty_class():
    by_counts = losses.balanced_softmax_loss(Y, Z, [400, 40, 4])
    np.testing.assert_allclose(by_counts, losses.balanced_softmax_loss(Y, Z, [4000, 400, 40]), atol=1e-12)
    assert np.isfinite(losses.balanced_softmax_loss(Y, Z, [5, 5, 0])).all()


def test_bkd_at_equal_counts_is_cross_entropy_plus_divergence():
    objective = objectives.BalancedKnowledgeDistillation(class_counts=(9, 9, 9), temperature=4.0, alpha=0.7)
    expected = losses.hard_loss(Y, Z) + 0.7 * losses.soft_loss(T, Z, 4.0)
    np.testing.assert_allclose(objective(Y, T, Z), expected, atol=1e-12)


def test_dive_with_power_one_half_is_twice_the_teacher_temperature():
    objective = objectives.DistillingVirtualExamples(class_counts=COUNTS, temperature=4.0, alpha=1.0, power=0.5)
    teacher, student = special.log_softmax(T / 8.0, axis=-1), special.log_softmax(Z / 4.0, axis=-1)
    expected = 16 * np.sum(np.exp(teacher) * (teacher - student), axis=-1)
    np.testing.assert_allclose(objective(Y, T, Z), expected, atol=1e-12)


def gradient_of(loss, z):
    return models.value_and_gradient(lambda logits: keras.ops.sum(loss(logits)), z)[1]


def test_the_gradient_of_wsl_is_that_of_a_weighted_divergence():
    weights = 1 - np.exp(-losses.hard_loss(Y, Z) / losses.hard_loss(Y, T))
    np.testing.assert_allclose(weights, [0.63212047, 0.99974837], atol=1e-6)
    by_hand = lambda z: losses.hard_loss(Y, z) + 2.25 * weights * losses.soft_loss(T, z, 4.0)
    ours = lambda z: objectives.WeightedSoftLabels()(Y, T, z)
    np.testing.assert_allclose(gradient_of(ours, Z), gradient_of(by_hand, Z), atol=1e-6)


def test_a_corrected_teacher_is_shifted_by_the_log_prior():
    prior = np.array(COUNTS) / sum(COUNTS)
    ours = objectives.SoftTargets(class_counts=COUNTS, temperature=4.0)(Y, T, Z)
    np.testing.assert_allclose(ours, losses.soft_loss(T - np.log(prior), Z, 4.0), atol=1e-12)


def test_an_empty_class_counts_as_one_everywhere():
    counts = (100, 10, 0)
    adjusted = objectives.LogitAdjustment(class_counts=counts)(Y, T, Z)
    np.testing.assert_allclose(adjusted, losses.balanced_softmax_loss(Y, Z, counts), atol=1e-12)
    soft = objectives.SoftTargets(class_counts=counts)(Y, T, Z)
    shifted = T - np.log(np.array([100, 10, 1]))
    np.testing.assert_allclose(soft, losses.soft_loss(shifted, Z, 4.0), atol=1e-12)


def test_balanced_softmax_loss_takes_soft_labels():
    soft = np.array([[0.1, 0.1, 0.8], [0.2, 0.5, 0.3]])
    expected = float(np.mean(losses.balanced_softmax_loss(soft, Z, COUNTS)))
    assert float(losses.BalancedSoftmaxLoss(COUNTS)(soft, Z)) == pytest.approx(expected, rel=1e-6)


def test_objectives_survive_serialisation():
    for objective in (value for value, _ in LOSSES.values() if isinstance(value, objectives.Objective)):
        config = keras.saving.serialize_keras_object(objective)
        assert keras.saving.deserialize_keras_object(config) == objective
