"""Calls of a comparison as data: what a row was trained with decides whether it is still valid."""

import dataclasses
import functools
import importlib
import pickle
import sys

import keras
import pytest

import keras_bikd as bikd
from keras_bikd import comparison, data, objectives, results
from keras_bikd.comparison import Call, CifarResNet, Method, Part, Perceptron, config_of, make
from keras_bikd.comparison.setting import load_data, steps_of

STUDENT, TEACHER = Part("student"), Part("teacher")


def setting(**changes):
    arguments = {"student": Perceptron((12,)), "teacher": Perceptron((16,)), "augment": Call(data.gaussian_noise, 0.7)}
    fixed = {"name": "sklearn_digits", "imbalance_factors": (50.0,), "seeds": (0,), "meta_size": 100, "steps": 20}
    return comparison.Setting(**fixed | arguments | changes)


def distilled(objective, **arguments):
    return Method(model=Call(bikd.DistillationModel, STUDENT, TEACHER, objective), **arguments)


def guided(**arguments):
    rate = arguments.pop("rate", 1e-3)
    meta_optimizer = Call(keras.optimizers.Adam, rate)
    return Method(
        model=Call(bikd.BiKDModel, STUDENT, TEACHER, **arguments), compile_arguments={"meta_optimizer": meta_optimizer}
    )


def halves(first, second):
    return Call(objectives.WeightedSum, objectives=(first, second), weights=(0.5, 0.5))


HARD, SOFT = objectives.CrossEntropy(), Call(objectives.SoftTargets, class_counts=Part("teacher_counts"))
KD = objectives.KnowledgeDistillation
CHANGES = {
    "temperature": (distilled(KD()), distilled(KD(temperature=2.0))),
    "objective": (distilled(KD()), distilled(objectives.WeightedSoftLabels())),
    "part": (distilled(SOFT), distilled(Call(objectives.SoftTargets, class_counts=Part("counts")))),
    "inside a sum": (distilled(halves(HARD, SOFT)), distilled(halves(SOFT, SOFT))),
    "model": (guided(), Method(model=Call(bikd.RWKDModel, STUDENT, TEACHER))),
    "inner steps": (guided(), guided(inner_steps=1)),
    "meta learning rate": (guided(), guided(rate=1e-2)),
    "weight network": (guided(), guided(weight_net=Call(bikd.MetaWeightNet, (8,)))),
    "order of the losses": (
        guided(candidate_losses={"hard": HARD, "soft": SOFT}),
        guided(candidate_losses={"soft": SOFT, "hard": HARD}),
    ),
    "first run": (distilled(KD(), before=guided()), distilled(KD(), before=guided(inner_steps=1))),
    "stored teacher": (distilled(KD()), distilled(KD(), teacher_views=10)),
    "callback": (distilled(KD()), distilled(KD(), callbacks=(Call(keras.callbacks.TerminateOnNaN),))),
    "finish": tuple(
        distilled(KD(), finish=Call(comparison.retrain_last_layer, STUDENT, Part("clean_meta"), steps=steps))
        for steps in (400, 40)
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_method_does_not_meet_the_row_of_the_old_one(tmp_path, name):
    cell = comparison.Cell("digits", 50.0, "same name", 0)
    old, new = CHANGES[name]
    results.save_row(cell.path(tmp_path), {"config": cell.config(setting(), old)})
    assert comparison.row_of(cell, lambda cell: (setting(), old), tmp_path) is not None
    assert comparison.row_of(cell, lambda cell: (setting(), new), tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [
        {"student": Perceptron((13,))},
        {"student": CifarResNet(8, (4, 4, 8, 16))},
        {"teacher": Perceptron((16,), l2=0.0)},
        {"augment": Call(data.gaussian_noise, 0.8)},
        {"augment": Call(data.pad_crop_flip, 1)},
        {"steps": None, "passes": 20},
    ],
)
def test_a_changed_setting_does_not_meet_the_row_of_the_old_one(tmp_path, change):
    cell, method = comparison.Cell("digits", 50.0, "KD", 0), distilled(KD())
    results.save_row(cell.path(tmp_path), {"config": cell.config(setting(), method)})
    assert comparison.row_of(cell, lambda cell: (setting(**change), method), tmp_path) is None
    more = setting(seeds=(0, 1), imbalance_factors=(10.0, 50.0))  # more cells, the same result
    assert comparison.row_of(cell, lambda cell: (more, method), tmp_path) is not None


def test_a_row_without_a_description_counts_as_missing(tmp_path):
    cell = comparison.Cell("digits", 50.0, "KD", 0)
    results.save_row(cell.path(tmp_path), {"method": "KD", "overall": 70.0})
    assert comparison.row_of(cell, lambda cell: (setting(), distilled(KD())), tmp_path) is None


OBJECTIVE = """
import keras

def scaled(labels, teacher_logits, student_logits):
    loss = keras.losses.sparse_categorical_crossentropy(labels, student_logits, from_logits=True)
    return {factor} * loss
"""


def test_an_edited_function_of_a_user_does_not_meet_its_old_row(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    seen = []
    for factor in (1, 2, 1):
        (tmp_path / "own_objective.py").write_text(OBJECTIVE.format(factor=factor))
        sys.modules.pop("own_objective", None)
        importlib.invalidate_caches()
        module = importlib.import_module("own_objective")
        seen.append(config_of(distilled(module.scaled)))
    assert seen[0] != seen[1]
    assert seen[0] == seen[2]


def test_arguments_left_out_are_described_too():
    config = config_of(guided())["arguments"]
    assert config["model"]["call"] == "keras_bikd.BiKDModel"
    assert config["model"]["arguments"]["temperature"] == 4.0
    assert config["compile_arguments"]["meta_optimizer"]["arguments"]["beta_1"] == 0.9
    by_name = Call(bikd.DistillationModel, student=STUDENT, teacher=TEACHER, objective=KD())
    assert config_of(Method(model=by_name)) == config_of(distilled(KD()))
    assert config_of(KD(temperature=2.0)) == config_of(Call(KD, temperature=2.0))


class Halved:
    """An objective of a user, without any way to save it."""

    def __init__(self, factor=0.5):
        self.factor = factor

    def __call__(self, labels, teacher_logits, student_logits):
        return self.factor * HARD(labels, teacher_logits, student_logits)


def test_a_call_makes_a_new_object_for_every_training():
    parts = comparison.Parts(*[None] * 2, [3, 2, 1], [30, 20, 10], *[None] * 6)
    value = {"own": (Call(Halved, 0.25), 4), "soft": [SOFT], "optimizer": Call(keras.optimizers.Adam, 0.5)}
    first, second = make(value, parts), make(value, parts)
    assert first["own"][0].factor == 0.25
    assert first["own"][1] == 4
    assert first["soft"][0].class_counts == (30, 20, 10)
    assert first["optimizer"] is not second["optimizer"]
    assert make(Part("counts"), parts) == [3, 2, 1]


def test_a_method_can_be_sent_to_another_process():
    method = guided(inner_steps=2, candidate_losses={"soft": SOFT})
    assert config_of(pickle.loads(pickle.dumps(method))) == config_of(method)  # noqa: S301
    text = repr(method.model)
    assert "Call(BiKDModel, Part('student'), Part('teacher'), inner_steps=2" in text


def inner(scale):
    return lambda labels, teacher_logits, student_logits: scale


@dataclasses.dataclass(frozen=True)
class Lazy:
    loss: object


REFUSED = {
    "objective with state": (lambda: distilled(Halved()), r"Received: <.*Halved.*write `Call\(Halved, \.\.\.\)`"),
    "weight network": (lambda: guided(weight_net=bikd.MetaWeightNet()), r"write `Call\(MetaWeightNet, \.\.\.\)`"),
    "lambda": (lambda: distilled(lambda labels, teacher, student: 0.0), "must stand at the top level.*lambda"),
    "inner function": (lambda: distilled(inner(2.0)), "must stand at the top level"),
    "augmentation": (lambda: setting(augment=lambda images, seed: images).config(), "top level.*lambda"),
    "within a dataclass": (lambda: distilled(Lazy(Halved())), r"Call\(Halved, \.\.\.\)"),
    "array": (lambda: distilled(Call(KD, temperature=keras.ops.ones(()))), "is made of data"),
    "no source": (lambda: Call(dict, a=1), "source.*must be readable.*dict"),
    "instance as function": (lambda: Call(Halved()), "takes a class or a function.*Received: function=<"),
    "partial": (lambda: Call(functools.partial(KD, temperature=2.0)), "takes a class or a function"),
    "argument": (lambda: Call(KD, temp=1), "KnowledgeDistillation.*'temp'.*The function takes .*temperature"),
    "part": (lambda: Part("studnet"), "takes one of student, teacher, .*name='studnet'"),
    "model": (lambda: Method(model=bikd.BiKDModel), r"Method\(model=.*takes a `Call`.*BiKDModel"),
    "compile": (
        lambda: dataclasses.replace(guided(), compile_arguments={"metrics": [keras.metrics.Mean()]}),
        r"Method\(compile_arguments=\.\.\.\).*Mean",
    ),
    "teacher": (lambda: distilled(KD(), teacher="best"), "teacher='best'"),
    "budget": (lambda: distilled(KD(), budget=0), "budget=0"),
    "no length": (lambda: setting(steps=None), "`steps` or `passes`.*steps=None and passes=None"),
    "two lengths": (lambda: setting(passes=3), "steps=20 and passes=3"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_row_cannot_describe_is_refused(name):
    build, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        build()


@pytest.mark.parametrize(
    ("budget", "quick", "steps"),
    [(1, False, 2000), (2, False, 4000), (0.25, False, 500), (1e-9, False, 10), (1, True, 20)],
)
def test_a_training_has_ten_epochs_of_equal_length(budget, quick, steps):
    digits = setting(steps=2007, test_size=500)
    cell = comparison.Cell("digits", 50.0, "KD", 0, quick)
    assert steps_of(digits, load_data(digits, cell), cell, budget) == steps
