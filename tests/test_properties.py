"""Properties that hold for any input, searched for by hypothesis; and constructors that are given nonsense."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import keras_bikd as bikd
from keras_bikd import long_tail, losses, objectives

pytestmark = pytest.mark.tensorflow  # operations one by one, each of which JAX would compile

settings.register_profile("suite", deadline=None, max_examples=20, derandomize=True)
settings.load_profile("suite")

CLASSES = 5
numbers = st.floats(-50, 50, allow_nan=False, width=32)
logits = arrays.arrays("float64", (3, CLASSES), elements=numbers)
labels = arrays.arrays("int64", (3,), elements=st.integers(0, CLASSES - 1))
counts = st.lists(st.integers(1, 5000), min_size=CLASSES, max_size=CLASSES)
temperatures = st.floats(0.25, 20)


def every_objective(class_counts, temperature):
    prior = np.array(class_counts) / sum(class_counts)
    return [
        objectives.CrossEntropy(),
        objectives.BalancedSoftmax(class_counts=class_counts),
        objectives.LogitAdjustment(class_counts=class_counts, strength=0.7),
        objectives.SoftTargets(temperature=temperature, class_counts=class_counts),
        objectives.KnowledgeDistillation(temperature=temperature),
        objectives.WeightedSoftLabels(temperature=temperature),
        objectives.BalancedKnowledgeDistillation(class_counts=class_counts, temperature=temperature),
        objectives.DistillingVirtualExamples(class_counts=class_counts, temperature=temperature),
        objectives.ClassConditionalDistillation(
            class_counts=class_counts, teacher_prior=tuple(prior), temperature=temperature
        ),
    ]


@settings(max_examples=8)  # each with nine objectives, one operation at a time
@given(labels, logits, logits, counts, temperatures, st.floats(-20, 20))
def test_objectives_are_finite_not_negative_and_do_not_see_a_shift(y, t, z, class_counts, temperature, shift):
    for objective in every_objective(tuple(class_counts), temperature):
        values = np.asarray(objective(y, t, z))
        assert values.shape == (3,)
        assert np.isfinite(values).all()
        assert (values > -1e-6).all()
        np.testing.assert_allclose(objective(y, t + shift, z - shift), values, rtol=1e-5, atol=1e-5)


@settings(max_examples=8)
@given(labels, logits, logits, counts, temperatures, st.permutations(range(CLASSES)))
def test_objectives_do_not_care_for_the_order_of_the_classes(y, t, z, class_counts, temperature, order):
    order = np.array(order)
    renamed = np.argsort(order)[y]
    before = every_objective(tuple(class_counts), temperature)
    after = every_objective(tuple(np.array(class_counts)[order].tolist()), temperature)
    for a, b in zip(before, after):
        np.testing.assert_allclose(a(y, t, z), b(renamed, t[:, order], z[:, order]), rtol=1e-6, atol=1e-6)


@given(logits, temperatures)
def test_the_soft_loss_of_a_student_like_its_teacher_is_zero(z, temperature):
    np.testing.assert_allclose(losses.soft_loss(z, z, temperature), 0, atol=1e-9)


@given(
    arrays.arrays("float32", (6, 2), elements=st.floats(0, 1e6, width=32)),
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.integers(1, 4),
)
def test_weights_lie_between_zero_and_one(seen, hidden_units, num_losses):
    weights = np.asarray(bikd.MetaWeightNet(hidden_units, num_losses=num_losses)(seen))
    assert weights.shape == (6, num_losses)
    assert np.isfinite(weights).all()
    assert ((weights >= 0) & (weights <= 1)).all()


@given(st.integers(1, 5000), st.floats(1, 500), st.integers(2, 60))
def test_exponential_counts_fall_from_the_head_to_the_tail(n_max, factor, classes):
    sizes = long_tail.exponential_counts(n_max, factor, classes)
    assert sizes[0] == n_max
    assert (np.diff(sizes) <= 0).all()
    assert abs(sizes[-1] - n_max / factor) <= 1


@given(st.lists(st.integers(0, 3000), min_size=2, max_size=40), st.integers(20, 200), st.integers(0, 20))
def test_shot_groups_hold_every_class_once(sizes, many_above, few_below):
    groups = long_tail.shot_groups(sizes, many_above, few_below)
    assert sorted(np.concatenate(list(groups.values())).tolist()) == list(range(len(sizes)))


@given(counts, st.floats(0.5, 0.99999))
def test_class_balanced_weights_favour_the_rare_and_sum_to_the_classes(class_counts, beta):
    weights = long_tail.class_balanced_weights(class_counts, beta)
    assert weights.sum() == pytest.approx(CLASSES)
    order = np.argsort(class_counts)
    assert (np.diff(weights[order]) <= 1e-9).all()


@settings(max_examples=15)
@given(
    st.lists(st.integers(12, 60), min_size=2, max_size=5),
    st.floats(1, 6),
    st.integers(0, 3),
    st.booleans(),
    st.integers(0, 99),
)
def test_splits_are_disjoint_balanced_and_reproducible(sizes, factor, per_class, meta_in_train, seed):
    from keras_bikd.data.split import make_split

    y, classes = np.repeat(np.arange(len(sizes)), sizes), len(sizes)
    source = bikd.data.Arrays(np.zeros((len(y), 1)), y)
    arguments = {
        "meta_size": classes,
        "validation_size": per_class * classes or None,
        "test_size": 2 * classes,
        "seed": seed,
        "cut": bikd.data.LongTailCut(meta_in_train=meta_in_train),
    }
    split = make_split(source, factor, **arguments)
    train = set(split.train) - set(split.meta) if meta_in_train else set(split.train)
    parts = [train, set(split.meta), set(split.test), set() if split.validation is None else set(split.validation)]
    assert len(set.union(*parts)) == sum(map(len, parts))
    np.testing.assert_array_equal(np.bincount(y[split.train], minlength=classes), split.class_counts)
    assert set(np.bincount(y[split.meta], minlength=classes)) == {1}
    assert make_split(source, factor, **arguments).ids_sha256 == split.ids_sha256


nonsense = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(),
    st.text(max_size=3),
    st.lists(st.integers(-3, 9), max_size=2),
)


def student():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


ONE, TWO = student(), student()
SIZES = {"imbalance_factor": 5, "meta_size": 10, "test_size": 10}
X, Y = np.zeros((100, 2), "float32"), np.arange(100) % 2
CONSTRUCTORS = {
    "BiKDModel": lambda **kwargs: bikd.BiKDModel(ONE, TWO, **kwargs),
    "RWKDModel": lambda **kwargs: bikd.RWKDModel(ONE, TWO, **kwargs),
    "MetaWeightNet": bikd.MetaWeightNet,
    "WeightedSoftLabels": objectives.WeightedSoftLabels,
    "BalancedSoftmax": objectives.BalancedSoftmax,
    "LongTailCut": bikd.data.LongTailCut,
    "Arrays": lambda **kwargs: bikd.data.Arrays(**{"x": X, "y": Y, **kwargs}),
    "load": lambda **kwargs: bikd.data.load(bikd.data.Arrays(X, Y), **{**SIZES, **kwargs}),
}
ARGUMENTS = {
    "BiKDModel": ("temperature", "inner_steps", "meta_loss", "class_counts", "candidate_losses"),
    "RWKDModel": ("temperature", "meta_loss", "class_counts", "candidate_losses"),
    "MetaWeightNet": ("hidden_units", "num_losses", "class_counts", "initial_weight"),
    "WeightedSoftLabels": ("temperature",),
    "BalancedSoftmax": ("class_counts",),
    "LongTailCut": ("profile", "head", "class_order", "meta_in_train", "sampling"),
    "Arrays": ("x", "y", "class_names"),
    "load": (*SIZES, "validation_size", "batch_size", "seed", "augment", "cut"),
}


@pytest.mark.parametrize(("name", "argument"), [(name, a) for name, known in ARGUMENTS.items() for a in known])
@settings(max_examples=15)
@given(value=nonsense)
def test_nonsense_is_taken_or_named(name, argument, value):
    """Whatever a public name is given, it works, or raises a `ValueError` that names the argument."""
    try:
        CONSTRUCTORS[name](**{argument: value})
    except ValueError as error:
        assert argument in str(error), error  # noqa: PT017
