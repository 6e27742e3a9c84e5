"""Keras Tuner over BiKD: what a trial leaves on disk, what a NaN does, what a kill leaves behind."""

import collections
import importlib.metadata
import os
import pathlib
import time

import keras
import keras_tuner
import numpy as np
import pytest
from keras_tuner.errors import FatalValueError
from search_worker import TRIALS

import forks
import keras_bikd as bikd
import models

pytestmark = [
    pytest.mark.tensorflow,  # on JAX a search takes many times as long
    # Keras Tuner's own.
    pytest.mark.filterwarnings("ignore:currentThread:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:getName:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


def test_the_extra_brings_what_keras_tuner_imports_undeclared():
    required = [line.partition(";") for line in importlib.metadata.requires("keras_bikd")]
    names = [name.partition(">")[0] for name, _, condition in required if 'extra == "tuner"' in condition]
    assert names == ["keras-tuner", "tensorboard"]


def data():
    # As many meta as training batches: then their order is fixed.
    (x, y), meta, validation = models.arrays(24), models.arrays(24, seed=1), models.arrays(16, seed=2)
    return {"x": x, "y": y, "meta_data": meta, "validation_data": validation, "shuffle": False, "verbose": 0}


def hypermodel(teacher=None, **kwargs):
    """Its trials run eagerly: they are a few steps long, and tracing them takes longer."""
    kwargs = {"compile_arguments": {"run_eagerly": True}, **kwargs}
    return bikd.tuner.BiKDHyperModel(
        lambda hp: models.perceptron(), teacher or models.perceptron(), models.CLASSES, **kwargs
    )


def random_search(model, folder, trials=2, **kwargs):
    options = {"objective": bikd.tuner.OBJECTIVE, "max_trials": trials, "seed": 0, "directory": folder}
    return keras_tuner.RandomSearch(model, **{**options, **kwargs})


def size(folder):
    return sum(path.stat().st_size for path in pathlib.Path(folder).rglob("checkpoint*.h5"))


def test_search_finds_and_reloads_the_best(tmp_path):
    teacher = models.perceptron()
    before = [v.numpy() for v in teacher.variables]
    search = random_search(hypermodel(teacher), tmp_path, trials=3)
    search.search(**data(), epochs=2)
    trials = search.oracle.get_best_trials(3)
    assert [trial.status for trial in trials] == ["COMPLETED"] * 3
    for trial in trials:
        values = trial.hyperparameters.values
        assert 1 <= values["inner_steps"] <= 20
        assert 1 <= values["temperature"] <= 10
        assert 1e-4 <= values["meta_learning_rate"] <= 1e-2
    best = search.get_best_models()[0]
    assert best.inner_steps == trials[0].hyperparameters.values["inner_steps"]
    scored = best.evaluate(*data()["validation_data"], verbose=0, return_dict=True)["balanced_accuracy"]
    assert scored == pytest.approx(trials[0].score)
    best.student.save(tmp_path / "student.keras")
    with pytest.raises(ValueError, match=r"would be lost. Save `model.student`"):
        best.save(tmp_path / "model.keras")
    for old, new in zip(before, teacher.variables):
        np.testing.assert_array_equal(old, new.numpy())


def test_disk_use_does_not_grow_with_the_teacher(tmp_path):
    for units in (4, 4096):
        search = random_search(hypermodel(models.perceptron(units=units)), tmp_path / str(units), trials=1)
        search.search(**data(), epochs=1)
    small, large = size(tmp_path / "4"), size(tmp_path / "4096")
    assert small == pytest.approx(large, abs=64)
    assert 10_000 < small < 200_000


def test_space():
    """What is named beforehand is taken from there; the rest has a range of its own, or is fixed."""
    hp = keras_tuner.HyperParameters()
    hp.Fixed("inner_steps", 3)
    hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
    hp.Choice("hidden_units", [16, 64])
    model = hypermodel(model_arguments={"class_counts": (9, 5, 3, 1)}).build(hp)
    searched = {entry.name for entry in hp.space if not isinstance(entry, keras_tuner.engine.hyperparameters.Fixed)}
    assert searched == {"temperature", "meta_learning_rate", "learning_rate", "hidden_units"}
    assert (model.inner_steps, model.temperature, model.weight_net.hidden_units) == (3, 4.0, (16, 16))
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)
    assert type(model.candidate_losses["hard"]).__name__ == "BalancedSoftmax"


def test_a_trial_that_diverges_fails_and_the_search_goes_on(tmp_path):
    hp = keras_tuner.HyperParameters()
    hp.Fixed("inner_steps", 1)
    hp.Float("learning_rate", 1e-2, 1e30, sampling="log")
    search = random_search(hypermodel(), tmp_path, trials=4, max_consecutive_failed_trials=100, hyperparameters=hp)
    search.search(**data(), epochs=2)
    statuses = collections.Counter(trial.status for trial in search.oracle.trials.values())
    assert set(statuses) == {"COMPLETED", "FAILED"}
    assert sum(statuses.values()) == 4
    best = search.oracle.get_best_trials(1)[0]
    assert best.status == "COMPLETED"
    failed = next(trial for trial in search.oracle.trials.values() if trial.status == "FAILED")
    assert "diverged" in failed.message


MISTAKES = {
    "no validation data": (lambda model: model, {"validation_data": None}, "validation_data=None"),
    "no meta data": (lambda model: model, {"meta_data": None}, "meta_data"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_stops_the_search_at_once(tmp_path, case):
    _, change, message = MISTAKES[case]
    search = random_search(hypermodel(), tmp_path)
    with pytest.raises(FatalValueError, match=message):
        search.search(**{**data(), **change}, epochs=1)


def test_a_student_that_is_not_built_is_refused():
    builder = lambda hp: keras.Sequential([keras.layers.Dense(4)])
    model = bikd.tuner.BiKDHyperModel(builder, models.perceptron(), 4)
    with pytest.raises(FatalValueError, match=r"built `keras.Model`.*Received: <Sequential"):
        model.build(keras_tuner.HyperParameters())


@pytest.mark.slow
def test_hyperband_goes_on_where_a_trial_was(tmp_path):
    """A trial that was promoted ends as one that was trained in one go: both optimizers, sums and counter."""
    hp = keras_tuner.HyperParameters()
    hp.Fixed("inner_steps", 5)
    options = {"hyperparameters": hp, "objective": bikd.tuner.OBJECTIVE, "seed": 0, "directory": tmp_path}
    search = keras_tuner.Hyperband(hypermodel(), max_epochs=2, factor=2, **options)
    search.search(**data(), batch_size=4)
    promoted = [t for t in search.oracle.trials.values() if t.hyperparameters.values.get("tuner/trial_id")]
    last = max(promoted, key=lambda trial: trial.hyperparameters.values["tuner/epochs"])
    chain = [last]
    while before := chain[-1].hyperparameters.values.get("tuner/trial_id"):
        chain.append(search.oracle.trials[before])
    folder = lambda trial: pathlib.Path(search.get_trial_dir(trial.trial_id))

    hp = chain[-1].hyperparameters
    go_through = search.hypermodel.build(hp)
    first = search.hypermodel.build(hp)
    first.load_weights(folder(chain[-1]) / "last.weights.h5")
    ended = search.hypermodel.build(hp)
    ended.load_weights(folder(last) / "last.weights.h5")
    epochs = last.hyperparameters.values["tuner/epochs"]
    assert int(ended.optimizer.iterations) == 6 * epochs
    assert int(first.optimizer.iterations) == 6 * chain[-1].hyperparameters.values["tuner/epochs"]
    # From the state that the first bracket left, the remaining epochs in one go.
    done = chain[-1].hyperparameters.values["tuner/epochs"]
    go_through.load_weights(folder(chain[-1]) / "last.weights.h5")
    arguments = {key: value for key, value in data().items() if key != "validation_data"}
    go_through.fit(**arguments, batch_size=4, epochs=epochs, initial_epoch=done)
    models.assert_same_state(go_through, ended)


def start(directory, log, name=None, port=None, held=TRIALS + 1):
    """The search as a process of its own, alone or as one of several; `held`: see search_worker.py."""
    variables = {"KERASTUNER_TUNER_ID": name, "KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": port}
    own = {key: str(value) for key, value in variables.items() if name}
    return forks.start("search_worker.py", directory, log, held, **own)


def wait_for(condition, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)


def events(log):
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


@pytest.mark.slow
def test_a_killed_search_goes_on(tmp_path):
    log = tmp_path / "log"
    process = start(tmp_path, log, held=3)
    wait_for(lambda: sum(what == "starts" for _, _, what, _ in events(log)) == 3)
    process.kill()
    process.wait()
    ended = {trial for _, _, what, trial in events(log) if what == "ends"}
    assert start(tmp_path, log).wait() == 0
    after = [trial for _, pid, what, trial in events(log) if what == "starts" and pid != str(process.pid)]
    assert not ended & set(after)
    assert len(ended) + len(after) == TRIALS
    assert len((tmp_path / "done").read_text().split()) == TRIALS


@pytest.mark.slow
def test_a_chief_and_two_workers_lose_no_trial_when_one_is_killed(tmp_path):
    log, port = tmp_path / "log", 20_000 + os.getpid() % 20_000
    chief = start(tmp_path, log, "chief", port)
    workers = {name: start(tmp_path, log, name, port, held=1) for name in ("worker0", "worker1")}
    try:
        wait_for(lambda: any(what == "starts" for _, _, what, _ in events(log)))
        name = events(log)[0][0]
        workers[name].kill()  # in its first trial
        workers[name].wait()
        (tmp_path / "go").touch()
        workers[name] = start(tmp_path, log, name, port)  # under its id it gets the trial back
        chief.wait()
        ended = collections.Counter(trial for _, _, what, trial in events(log) if what == "ends")
        assert len(ended) == TRIALS
        assert set(ended.values()) == {1}
        assert len((tmp_path / "done").read_text().split()) == TRIALS
    finally:
        for process in (chief, *workers.values()):
            process.kill()
            process.wait()
