"""Methods of a comparison: what a result was trained with decides whether it is still valid."""

import dataclasses
import functools
import importlib
import sys

import keras
import numpy as np
import pytest

import keras_bikd as bikd
from keras_bikd import objectives
from keras_bikd.comparison import Comparison, Method, Protocol, Round, Samples, Subset, described


def network():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


def rounds():
    samples = Samples(np.eye(12, 3, dtype="float32").__getitem__, np.arange(12) % 2, ["a", "b"], content=b"eye")
    part = [Subset(samples, np.arange(i, i + 4)) for i in (0, 4, 8)]
    return {0: Round(0, *part, teachers={"teacher": (network(), [6, 6])})}


def identity(tmp_path, method, **protocol):
    """What identifies the result of a method."""
    how = Protocol(methods={"mine": method}, steps=10, **protocol)
    comparison = Comparison(network, rounds(), how, folder=tmp_path, identity={})
    return comparison.identity_of(comparison.trainings(comparison.methods)[-1])


def distilled(objective, **fields):
    def build(parts):
        return bikd.DistillationModel(parts.student, parts.teacher, objective(parts))

    return Method(build, **fields)


def guided(rate=1e-3, losses=("hard", "soft"), **arguments):
    known = {"hard": objectives.CrossEntropy(), "soft": objectives.SoftTargets()}

    def build(parts):
        candidates = {name: known[name] for name in losses}
        model = bikd.BiKDModel(parts.student, parts.teacher, candidate_losses=candidates, **arguments)
        model.compile(parts.optimizer, meta_optimizer=keras.optimizers.Adam(rate))
        return model

    return Method(build)


def kd(parts):
    return objectives.KnowledgeDistillation()


def warm(parts):
    return objectives.KnowledgeDistillation(temperature=2.0)


def watched(parts):
    return {"callbacks": [keras.callbacks.TerminateOnNaN()]}


def corrected(parts):
    return objectives.SoftTargets(class_counts=parts.teacher_counts)


CHANGES = {
    "temperature": (distilled(kd), distilled(warm)),
    "class counts": (distilled(lambda parts: objectives.SoftTargets()), distilled(corrected)),
    "inner steps": (guided(), guided(inner_steps=1)),
    "meta learning rate": (guided(), guided(rate=1e-2)),
    "order of the losses": (guided(), guided(losses=("soft", "hard"))),
    "first run": (distilled(kd), distilled(kd, before=guided())),
    "before the first run": (distilled(kd, before=guided()), distilled(kd, before=guided(inner_steps=1))),
    "arguments of fit": (distilled(kd), distilled(kd, fit=watched)),
    "length": (distilled(kd), distilled(kd, budget=2)),
    "meta samples": (distilled(kd), distilled(kd, meta_in_train=False)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_method_does_not_meet_the_result_of_the_old_one(tmp_path, name):
    old, new = CHANGES[name]
    assert identity(tmp_path, old) != identity(tmp_path, new)


def test_the_same_method_meets_its_result(tmp_path):
    old, _ = CHANGES["before the first run"]
    assert identity(tmp_path, old) == identity(tmp_path, old)


OBJECTIVE = """
import keras
import keras_bikd as bikd

FACTOR = {factor}

def scaled(labels, teacher_logits, student_logits):
    loss = keras.losses.sparse_categorical_crossentropy(labels, student_logits, from_logits=True)
    return {inline} * FACTOR * loss

def mine(parts):
    return bikd.DistillationModel(parts.student, parts.teacher, scaled)
"""


def test_an_edited_function_of_a_user_does_not_meet_its_old_result(tmp_path, monkeypatch):
    """Nor does one that uses an edited function, or another number."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    seen = []
    for factor, inline in ((1, 1), (2, 1), (1, 2), (1, 1)):
        (tmp_path / "own_method.py").write_text(OBJECTIVE.format(factor=factor, inline=inline))
        sys.modules.pop("own_method", None)
        importlib.invalidate_caches()
        module = importlib.import_module("own_method")
        seen.append(identity(tmp_path / "results", module.mine))
    assert len({*seen}) == 3
    assert seen[0] == seen[3]


def test_arguments_left_out_are_described_too(tmp_path):
    how = Protocol(methods={"mine": guided()}, steps=10)
    (model,) = Comparison(network, rounds(), how, folder=tmp_path, identity={}).looked["mine"].config["models"]
    assert model["temperature"] == 4.0
    assert model["weight_net"]["class_name"] == "MetaWeightNet"


def test_a_function_that_calls_itself_can_be_described():
    def factorial(n):
        return n * factorial(n - 1) if n else 1

    assert described(factorial)["uses"]["factorial"].endswith("factorial")


def test_arrays_and_partial_functions_are_described_by_what_they_hold():
    first, second = (described(functools.partial(np.add, np.full(3, value))) for value in (1.0, 2.0))
    assert first != second
    assert first == described(functools.partial(np.add, np.ones(3)))


class Halved:
    """An object of a user that nothing describes."""

    def __call__(self, labels, teacher_logits, student_logits):
        return 0.5 * objectives.CrossEntropy()(labels, teacher_logits, student_logits)


@dataclasses.dataclass(frozen=True)
class Lazy:
    loss: object


HALVED = Halved()


def uses_a_global_object(parts):
    return bikd.DistillationModel(parts.student, parts.teacher, HALVED)


def builds_nothing(parts):
    return parts.student


REFUSED = {
    "object": (lambda: described(distilled(HALVED)), r"Halved.*which `distilled.<locals>.build` uses\. Make it inside"),
    "global object": (lambda: described(uses_a_global_object), "Halved.*which `uses_a_global_object` uses"),
    "within a dataclass": (lambda: described(Lazy(HALVED)), "cannot be described: .*Halved"),
    "no source": (lambda: described(eval("lambda parts: 1")), "source of this cannot be read.*Define it"),  # noqa: S307
    "no function": (lambda: Method("KD"), r"Method\(build=...\).*takes a function.*build='KD'"),
    "budget": (lambda: Method(network, budget=0), "budget=0"),
    "share": (lambda: Method(network, meta_in_train=1.5), "meta_in_train=1.5"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_described_is_refused(name):
    build, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        build()


def test_a_method_that_builds_no_model_with_a_student_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'mine' cannot build its model.*returns a model with a `student`"):
        identity(tmp_path, builds_nothing)


def test_names_that_would_share_files_are_refused(tmp_path):
    how = Protocol(methods={"KD, 1": distilled(kd), "KD+ 1": distilled(warm)}, steps=10)
    with pytest.raises(ValueError, match="differ in more than signs"):
        Comparison(network, rounds(), how, folder=tmp_path, identity={})
