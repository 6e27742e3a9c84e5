"""Bad input gets an error that names the argument and what was received, before the first step."""

import pathlib

import glyphs  # noqa: F401 (registers `glyphs`)
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_bikd as bikd
import models
from keras_bikd import objectives

X, Y = models.arrays(12)
META_X, META_Y = models.arrays(8, seed=1)


def fit(x=X, y=Y, meta_data=(META_X, META_Y), student=None, teacher=None, **kwargs):
    own = {name: kwargs.pop(name) for name in ("class_counts", "weight_net") if name in kwargs}
    built = bikd.BiKDModel(student or models.perceptron(), teacher or models.perceptron(), **own)
    built.compile(optimizer="sgd")
    built.fit(x, y, meta_data=meta_data, verbose=0, **kwargs)


def softmax_at_the_end():
    return keras.Sequential([keras.Input((6,)), layers.Dense(4, activation="softmax")])


def fitted():
    built = models.compiled()
    built.fit(X, Y, meta_data=(META_X, META_Y), verbose=0)
    return built


def distil(x, y=None, class_weight=None, **kwargs):
    parts = {"student": models.perceptron(), "teacher": models.perceptron(), **kwargs}
    built = bikd.DistillationModel(**parts, objective=objectives.KnowledgeDistillation())
    built.compile(optimizer="sgd")
    built.fit(x, y, verbose=0, class_weight=class_weight)


def empty():
    return tf.data.Dataset.from_tensor_slices((X[:0], Y[:0])).batch(4)


class OneBatch(keras.utils.PyDataset):
    num_batches = 1

    def __getitem__(self, index):
        return X, Y


CASES = {
    "no meta data": (lambda: fit(meta_data=None), r"meta set.*meta_data=.*Received batches of shape.*6\)"),
    "no meta data beside a data set": (lambda: fit(models.dataset((X, Y)), None, None), "meta_data="),
    "meta data of another kind": (lambda: fit(meta_data=META_X), r"meta_data=.*tuple.*Received: ndarray"),
    "meta data without labels": (lambda: fit(meta_data=(META_X, None)), "meta_data"),
    "meta inputs of another width": (lambda: fit(meta_data=(META_X[:, :3], META_Y)), r"Received.*\(3,\).*\(6,\)"),
    "meta inputs of another structure": (lambda: fit(meta_data=({"x": META_X}, META_Y)), "structure"),
    "meta labels of more classes": (lambda: fit(meta_data=(META_X, META_Y + 1)), "meta labels.*0..3.*1 to 4"),
    "one-hot meta labels of more classes": (lambda: fit(meta_data=(META_X, np.eye(5)[META_Y])), r"meta.*\(8, 5\)"),
    "empty meta set": (lambda: fit(models.dataset((X, Y)), None, empty()), "meta.*empty"),
    "student with softmax": (lambda: fit(student=softmax_at_the_end()), "student must return logits.*softmax"),
    "teacher with softmax": (lambda: fit(teacher=softmax_at_the_end()), "teacher must return logits"),
    "teacher of other classes": (lambda: fit(teacher=models.perceptron(classes=7)), "7 outputs.*student with 4"),
    "two outputs": (
        lambda: fit(student=keras.Model(i := keras.Input((6,)), [layers.Dense(4)(i), layers.Dense(4)(i)])),
        "student must return one tensor",
    ),
    "labels out of range": (lambda: fit(y=Y + 3), "training labels.*0..3.*Received: labels from 3 to 6"),
    "negative labels": (lambda: fit(y=Y - 1), "-1"),
    "fractional labels": (lambda: fit(y=Y + 0.5), "must be integers or whole numbers.*float64.*[.]5"),
    "one-hot labels of other classes": (lambda: fit(y=np.eye(6)[Y]), r"one-hot.*\(.*, 6\)"),
    "several classes per sample": (
        lambda: fit(y=np.eye(4)[Y] + np.eye(4)[(Y + 1) % 4]),
        "training labels of a sample must sum to 1.*Received: rows that sum to 2 to 2",
    ),
    "no labels": (lambda: fit(y=None), "x, y"),
    "lengths differ": (lambda: fit(y=Y[:5]), r"same number of samples.*\(12, 6\).*\(5,\)"),
    "empty arrays": (lambda: fit(X[:0], Y[:0]), "at least one"),
    "empty data set": (lambda: fit(empty(), None), "empty data set"),
    "not batched": (lambda: fit(tf.data.Dataset.from_tensor_slices((X, Y)), None), "training.*not batched"),
    "endless data set": (lambda: fit(models.dataset((X, Y)).repeat(), None), "steps_per_epoch"),
    "labels beside a data set": (lambda: fit(models.dataset((X, Y)), Y), "takes no `y`"),
    "data set of four parts": (lambda: fit(models.dataset((X, Y, Y, Y)), None), r"training batch.*\(2, 6\)"),
    "validation_split of 2": (lambda: fit(validation_split=2), "validation_split"),
    "fit before compile": (
        lambda: bikd.BiKDModel(models.perceptron(), models.perceptron()).fit(X, Y, meta_data=(META_X, META_Y)),
        "compile",
    ),
    "hypergradient before compile": (
        lambda: bikd.BiKDModel(models.perceptron(), models.perceptron()).hypergradient((X, Y), (META_X, META_Y)),
        "compile",
    ),
    "inner_steps=0": (lambda: models.compiled(inner_steps=0), r"inner_steps=\.\.\.\).*at least 1.*inner_steps=0"),
    "inner_steps=2.5": (lambda: models.compiled(inner_steps=2.5), "inner_steps=2.5"),
    "inner_steps=True": (lambda: models.compiled(inner_steps=True), "inner_steps=True"),
    "temperature=0": (lambda: models.compiled(temperature=0), "temperature=0"),
    "temperature=-1": (lambda: models.compiled(temperature=-1.0), "temperature=-1.0"),
    "temperature=nan": (lambda: models.compiled(temperature=float("nan")), "temperature=nan"),
    "temperature='4'": (lambda: models.compiled(temperature="4"), "temperature='4'"),
    "unknown meta_loss": (lambda: models.compiled(meta_loss="mix"), "'hard', 'soft', 'mixed'.*meta_loss='mix'"),
    "student is no model": (lambda: bikd.BiKDModel(layers.Dense(3), models.perceptron()), "student=.*Dense"),
    "teacher is no model": (lambda: bikd.BiKDModel(models.perceptron(), "teacher.keras"), "teacher='teacher.keras'"),
    "plain distillation, student with softmax": (
        lambda: distil(X, Y, student=softmax_at_the_end()),
        "student must return logits.*softmax",
    ),
    "plain distillation, teacher with softmax": (
        lambda: distil(models.dataset((X, Y)), teacher=softmax_at_the_end()),
        "teacher must return logits.*softmax",
    ),
    "plain distillation, not batched": (
        lambda: distil(tf.data.Dataset.from_tensor_slices((X, Y))),
        "training data set is not batched",
    ),
    "plain distillation, teacher of other classes": (
        lambda: distil(models.Batches((X, Y)), teacher=models.perceptron(classes=7)),
        "7 outputs.*student with 4",
    ),
    "objective is no function": (
        lambda: bikd.DistillationModel(models.perceptron(), models.perceptron(), "kd"),
        "objective='kd'",
    ),
    "hidden_units=0": (lambda: bikd.MetaWeightNet((0,)), r"hidden_units=\(0,\)"),
    "hidden_units='64'": (lambda: bikd.MetaWeightNet("64"), "hidden_units='64'"),
    "train_on_batch without meta batch": (
        lambda: models.compiled().train_on_batch(X, Y),
        r"train_on_batch\(\(x, y\), \(meta_x, meta_y\)\)`.*Received: ndarray, ndarray$",
    ),
    "train_on_batch without meta batch after a fit": (
        lambda: fitted().train_on_batch(X, Y, np.ones(12)),
        "meta batch.*Received: ndarray, ndarray, ndarray",
    ),
    "weights of three classes": (lambda: fit(class_weight=[1, 2, 3]), r"4 classes. Received: class_weight=\[1, 2, 3\]"),
    "weights of three classes for a data set": (
        lambda: fit(models.dataset((X, Y)), None, class_weight=np.ones(3)),
        r"4 classes. Received: class_weight=array\(\[1., 1., 1.\]\)",
    ),
    "weight of an unknown class": (lambda: fit(class_weight={0: 1.0, 4: 2.0}), "4 classes. Received.*4: 2.0"),
    "weight of a class by name": (lambda: fit(class_weight={"cat": 1.0}), "class ids.*Received.*'cat'"),
    "negative weight of a class": (lambda: fit(class_weight={0: -1.0}), "none negative.*Received.*-1.0"),
    "plain distillation, weights of three classes": (
        lambda: distil(X, Y, class_weight=[1, 2, 3]),
        r"4 classes. Received: class_weight=\[1, 2, 3\]",
    ),
    "plain distillation, weight of an unknown class": (
        lambda: distil(models.dataset((X, Y)), class_weight={5: 2.0}),
        "4 classes. Received.*5: 2.0",
    ),
    "one optimizer for both levels": (
        lambda: model().compile(sgd := keras.optimizers.SGD(), meta_optimizer=sgd),
        "one optimizer for each level.*Received: <keras",
    ),
    "samples that are none": (lambda: models.compiled().sample_weights(X), r"sample_weights\(data\).*ndarray"),
    "curves of an unknown metric": (
        lambda: bikd.plots.training_curves({"KD": {"loss": [1.0]}}, "accuracy"),
        "metric='accuracy'; 'KD' has loss",
    ),
    "depth=9": (lambda: bikd.networks.cifar_resnet(9), "depth=9"),
    "three widths": (lambda: bikd.networks.cifar_resnet(8, (4, 4, 8)), r"\(4, 4, 8\)"),
    "pair of arrays": (lambda: bikd.data.pair((X, Y), (META_X, META_Y)), "train=.*tuple"),
    "imbalance_factor=0.1": (lambda: bikd.long_tail.exponential_counts(100, 0.1, 10), "imbalance_factor=0.1"),
    "imbalance_factor=nan": (lambda: bikd.long_tail.exponential_counts(100, float("nan"), 10), "nan"),
    "one class": (lambda: bikd.long_tail.exponential_counts(100, 10, 1), "num_classes=1"),
    "shot groups overlap": (lambda: bikd.long_tail.shot_groups([5, 4], 1, 20), "many_above=1"),
    "meta_size no multiple": (lambda: load(meta_size=95), "meta_size=95"),
    "meta_size empties a class": (lambda: load(meta_size=1800), "smallest has 124.*meta_size=1800"),
    "no test split": (lambda: load(test_size=None), "test_size"),
    "counts of other classes": (lambda: fit(class_counts=(9, 5, 1)), "4 outputs. Received: 3 numbers"),
    "weight network of other classes": (
        lambda: fit(weight_net=bikd.MetaWeightNet(class_counts=(9, 5, 1))),
        "MetaWeightNet.*4 outputs. Received: 3 numbers",
    ),
    "weight network of other losses": (
        lambda: model(weight_net=bikd.MetaWeightNet(num_losses=3)),
        "hard, soft. Received.*num_losses=3",
    ),
    "counts and losses": (
        lambda: model(class_counts=(1, 2), candidate_losses={"a": objectives.CrossEntropy()}),
        r"one of them. Received: class_counts=\(1, 2\)",
    ),
    "no losses": (lambda: model(candidate_losses={}), "candidate_losses={}"),
    "losses in a list": (lambda: model(candidate_losses=[objectives.CrossEntropy()]), "dict of name.*Received"),
    "negative counts": (lambda: objectives.BalancedSoftmax(class_counts=(3, -1)), r"class_counts=\(3, -1\)"),
    "counts of nothing": (lambda: objectives.BalancedSoftmax(class_counts=(0, 0)), r"class_counts=\(0, 0\)"),
    "objective at temperature 0": (lambda: objectives.WeightedSoftLabels(temperature=0), "temperature=0"),
    "two weights for one part": (
        lambda: objectives.WeightedSum(objectives=(objectives.CrossEntropy(),), weights=(0.5, 0.5)),
        r"1 objectives and weights=\(0.5, 0.5\)",
    ),
    "unknown CCKD": (
        lambda: objectives.ClassConditionalDistillation(class_counts=(1, 2), teacher_prior=(0.5, 0.5), variant="a"),
        "'released', 'training_prior', 'no_prior'.*variant='a'",
    ),
    "beta=1": (lambda: bikd.long_tail.class_balanced_weights([1, 2], beta=1.0), "beta=1.0"),
    "initial_weight=1": (lambda: bikd.MetaWeightNet(initial_weight=1), "initial_weight=1"),
    "num_losses=0": (lambda: bikd.MetaWeightNet(num_losses=0), "num_losses=0"),
    "hypergradient_layers=0": (
        lambda: model().compile("sgd", hypergradient_layers=0),
        "compile.hypergradient_layers=.*hypergradient_layers=0",
    ),
    "shares for counts": (lambda: objectives.BalancedSoftmax(class_counts=(0.9, 0.1)), r"not shares.*\(0.9, 0.1\)"),
    "LFME on an endless data set": (
        lambda: lfme(train=models.dataset((X, Y)).repeat()),
        "steps_per_epoch",
    ),
    "LFME with one teacher": (
        lambda: lfme(teacher=models.perceptron()),
        "`Experts` or their `StoredTeacher` as teacher, and an `ExpertsObjective`. Received: teacher=<Sequential",
    ),
    "LFME in other groups": (lambda: lfme(groups=[[0, 2], [1, 3]]), r"Received: \[\[0, 2\], \[1, 3\]\]"),
    "threshold=1": (lambda: lfme(threshold=1.0), "ExpertPacing.threshold=.*threshold=1.0"),
    "more groups than classes": (lambda: objectives.ExpertsObjective((5, 2), num_groups=3), "here 2.*num_groups=3"),
    "alpha=-1": (lambda: objectives.WeightedSoftLabels(alpha=-1), "WeightedSoftLabels.alpha=.*alpha=-1"),
    "BKD with beta=1": (
        lambda: objectives.BalancedKnowledgeDistillation(class_counts=(5, 2), beta=1),
        "0 and 1.*beta=1",
    ),
    "hard_weight=nan": (lambda: objectives.KnowledgeDistillation(hard_weight=float("nan")), "hard_weight=nan"),
    "a part that is no objective": (lambda: objectives.WeightedSum(objectives=("ce",), weights=(1,)), "'ce'"),
    "trust in no objective": (lambda: objectives.TeacherTrust(objective=None), "TeacherTrust.objective=.*None"),
    "a class in no group": (lambda: lfme(groups=[[0, 1], [3]]), r"each class in one group.*\[\[0, 1\], \[3\]\]"),
    "experts of all classes": (
        lambda: bikd.Experts([models.perceptron(), models.perceptron()], [[0, 1], [2, 3]])(X),
        r"experts of \[4, 4\] logits and groups=\[\[0, 1\], \[2, 3\]\]",
    ),
    "LFME without labels": (lambda: lfme(train=(X, None)), "x, y"),
    "weight network is a number": (
        lambda: bikd.BiKDModel(models.perceptron(), models.perceptron(), 4.0),
        "weight_net=.*MetaWeightNet.*weight_net=4.0",
    ),
    "pairs with a meta set": (
        lambda: fit(bikd.data.pair(models.dataset((X, Y)), models.dataset((META_X, META_Y))), None),
        "pairs of training and meta batches.*no `meta_data`",
    ),
    "pairs with class weights": (
        lambda: fit(
            bikd.data.pair(models.dataset((X, Y)), models.dataset((META_X, META_Y))),
            None,
            None,
            class_weight={0: 2.0},
        ),
        "pairs of training and meta batches.*no `class_weight`",
    ),
    "LFME, labels out of range in a data set": (
        lambda: lfme(train=models.Batches((X, Y + 1))),
        r"training labels must lie in 0\.\.3",
    ),
    "LFME, meta labels out of range": (lambda: lfme(meta=(META_X, META_Y + 1)), r"meta labels must lie in 0\.\.3"),
    "endless meta set of LFME": (
        lambda: lfme(meta=models.dataset((META_X, META_Y)).repeat()),
        r"ExpertPacing.meta=.*never ends.*repeat",
    ),
    "endless meta set beside a PyDataset": (
        lambda: bikd.data.pair(OneBatch(), models.dataset((META_X, META_Y)).repeat()),
        r"meta=.*never ends.*repeat",
    ),
    "two meta optimizers": (
        lambda: (built := models.compiled()).compile(built.optimizer, meta_optimizer=keras.optimizers.Adam(1e-4)),
        "holds a meta optimizer already.*Received: meta_optimizer=<keras",
    ),
    "shares for counts in a loss": (lambda: bikd.losses.BalancedSoftmaxLoss((0.9, 0.1)), r"not shares.*\(0.9, 0.1\)"),
    "shares for counts in a metric": (lambda: bikd.metrics.ShotAccuracy((0.9, 0.1)), r"not shares.*\(0.9, 0.1\)"),
    "hash of a model in memory": (
        lambda: bikd.TeacherReference(models.perceptron(), sha256="abc"),
        "sha256=.*hash of a file.*Received: sha256='abc'",
    ),
    "meta_in_train=2": (lambda: bikd.data.LongTailCut(meta_in_train=2), "meta_in_train=2"),
    "unknown sampling": (lambda: bikd.data.LongTailCut(sampling="balanced"), "'class_balanced'.*sampling='balanced'"),
    "a folder as a path": (
        lambda: bikd.data.load(pathlib.Path("images"), meta_size=10),
        r"load\(source=.*Folder\(path, image_size\).*Received: an object of type PosixPath",
    ),
    "a cut that is none": (lambda: load(cut="step"), r"load\(cut=.*LongTailCut.*Received: cut='step'"),
    "three augmentations": (lambda: load(augment=(None,) * 3), r"load\(augment=.*pair"),
    "seed=-1": (lambda: load(seed=-1), r"load\(seed=.*at least 0.*seed=-1"),
    "batch_size=0": (lambda: load(batch_size=0), r"load\(batch_size=.*batch_size=0"),
    "meta_size=15": (lambda: load(meta_size=15), r"load\(meta_size=.*multiple.*\(10\).*meta_size=15"),
    "no test_size": (lambda: load(test_size=None), r"'sklearn_digits' has no labelled test split.*load\(test_size="),
    "test_size for a set that has a test split": (
        lambda: bikd.data.load("glyphs/g100", meta_size=500, test_size=100),
        r"'glyphs/g100' has a test split of its own, of 2000 samples.*Leave out.*test_size=100",
    ),
    "arrays of different lengths": (lambda: bikd.data.Arrays(X, Y[:5]), r"Arrays\(x, y\).*\(12, 6\).*\(5,\)"),
    "one-hot labels of arrays": (lambda: bikd.data.Arrays(X, np.eye(4)[Y]), r"Arrays\(y=.*class ids.*\(12, 4\)"),
    "labels of arrays below 0": (lambda: bikd.data.Arrays(X, Y - 1), r"Arrays\(y=.*from 0.*from -1 to 2"),
    "labels of arrays between classes": (lambda: bikd.data.Arrays(X, Y + 0.5), r"Arrays\(y=.*from 0.5 to 3.5"),
    "names of labels": (lambda: bikd.data.Arrays(X, ["cat"] * 12), r"Arrays\(y=.*dtype <U3"),
    "too few names of classes": (
        lambda: bikd.data.Arrays(X, Y, class_names=["a", "b"]),
        r"Arrays\(class_names=.*4 classes.*\['a', 'b'\]",
    ),
    "no folder": (lambda: bikd.data.Folder("nowhere", (8, 8)), r"Folder\(path=.*Received: path='nowhere'"),
    "one side of an image": (lambda: bikd.data.Folder("nowhere", 8), r"Folder\(image_size=.*image_size=8"),
    "sides of an image as floats": (
        lambda: bikd.data.Tfds("sklearn_digits", image_size=(8.0, 8.0)),
        r"Tfds\(image_size=.*two integers.*image_size=\(8.0, 8.0\)",
    ),
    "an expert of unknown classes": (
        lambda: bikd.data.only_classes(load(), [3, 10], batch_size=8),
        r"only_classes\(classes=.*0 to 9.*Received: classes=\[3, 10\]",
    ),
    "an expert of a class twice": (lambda: bikd.data.only_classes(load(), [3, 3], batch_size=8), r"classes=\[3, 3\]"),
    "noise below 0": (lambda: bikd.data.gaussian_noise(-0.1), r"gaussian_noise\(stddev=.*stddev=-0.1"),
    "imbalance empties a class": (lambda: load(imbalance_factor=1000), "imbalance_factor=1000"),
}


COUNTS = (100, 30, 8, 2)


def load(imbalance_factor=10, meta_size=100, test_size=500, **kwargs):
    return bikd.data.load("sklearn_digits", imbalance_factor, meta_size=meta_size, test_size=test_size, **kwargs)


def model(**kwargs):
    return bikd.BiKDModel(models.perceptron(), models.perceptron(), **kwargs)


def lfme(groups=((0, 1), (2, 3)), train=(X, Y), meta=(META_X, META_Y), teacher=None, **kwargs):
    teacher = teacher or bikd.Experts([models.perceptron(classes=2) for _ in groups], groups)
    model = bikd.DistillationModel(models.perceptron(), teacher, objectives.ExpertsObjective(COUNTS, num_groups=2))
    model.compile("sgd")
    data = train if isinstance(train, tuple) else (train,)
    pacing = bikd.callbacks.ExpertPacing(train, meta, **kwargs)
    model.fit(*data, shuffle=False, callbacks=[pacing], verbose=0)


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case):
    call, message = CASES[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()


@pytest.mark.parametrize("name", ["training", "meta"])
def test_a_wrong_label_late_in_a_data_set(name):
    """What cannot be seen beforehand is said when it comes, in TensorFlow's own error, instead of being trained on."""
    bad, good = models.arrays(12), models.arrays(12, seed=1)
    bad[1][9] = 4
    train, meta = (bad, good) if name == "training" else (good, bad)
    model = models.compiled()
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"The {name} labels must lie in 0..3, as .* Received:"):
        model.fit(models.dataset(train), meta_data=models.dataset(meta), verbose=0)
    assert int(model.optimizer.iterations) == 2


def test_nothing_has_moved_when_fit_refuses():
    model = models.compiled()
    before = model.weights[0].numpy()
    with pytest.raises(ValueError, match="training labels"):
        model.fit(X, Y + 3, meta_data=(META_X, META_Y), verbose=0)
    np.testing.assert_array_equal(model.weights[0].numpy(), before)
    assert int(model.optimizer.iterations) == 0
