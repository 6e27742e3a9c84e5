"""A training that is killed, with SIGKILL or SIGTERM, ends bit for bit as one that never was.

`python tests/test_resume.py 20` kills twenty times, at random moments, and prints what came of it.
"""

import os
import pathlib
import random
import signal
import sys
import tempfile
import time

import grain
import keras
import numpy as np
import pytest
import resume_worker

import forks
import keras_bikd as bikd
import models
from small_runs import StopAfter, small, train_small


def start(folder, every, *slow):
    return forks.start("resume_worker.py", folder, every, *slow, backend=keras.backend.backend())


def run_with_kills(folder, every, kills, generator):
    """Run to the end, killing `kills` times, each at a random moment after a backup has been written."""
    done = []
    for _ in range(kills):
        process = start(folder, every, "slow")
        known = {path.name for path in (folder / "backup").glob("step_*")}
        while process.poll() is None and known == {path.name for path in (folder / "backup").glob("step_*")}:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.6))
        process.kill()
        if process.wait() == 0:
            break  # it was faster
        done.append(max((path.name for path in (folder / "backup").glob("step_*")), default="none"))
    assert start(folder, every).wait() == 0
    return done


def run_with_sigterm(folder):
    """Terminate in the second epoch; backups are made at the end of each."""
    process = start(folder, "epoch", "slow")
    while not (folder / "epochs.csv").exists():
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait() == os.EX_TEMPFAIL
    (backup,) = (folder / "backup").glob("step_*")
    assert int(backup.name[5:17]) % resume_worker.STEPS
    assert start(folder, "epoch").wait() == 0


def epochs(folder):
    """The logs of every epoch, as they were last written."""
    lines = (folder / "epochs.csv").read_text().splitlines()
    return {line.split(",")[0]: line for line in lines}


def assert_same_end(folder, reference):
    with np.load(folder / "state.npz") as a, np.load(reference / "state.npz") as b:
        assert a.files == b.files
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name])
    assert epochs(folder) == epochs(reference)


@pytest.mark.slow
def test_three_kills_and_a_sigterm(tmp_path):
    resume_worker.main(tmp_path / "whole", "epoch")
    assert len(epochs(tmp_path / "whole")) == 8
    places = run_with_kills(tmp_path / "killed", 7, 3, random.Random(0))
    assert len(places) == 3
    assert_same_end(tmp_path / "killed", tmp_path / "whole")
    run_with_sigterm(tmp_path / "terminated")
    assert_same_end(tmp_path / "terminated", tmp_path / "whole")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that was never stopped."""
    return train_small(tmp_path_factory.mktemp("whole"), None)


@pytest.mark.backend
@pytest.mark.parametrize(("every", "stop"), [(1, 1), (1, 13), (2, 5), (2, 6), (None, 8), (None, 13)])
def test_any_keras_model_goes_on_at_its_batch(tmp_path, every, stop, whole):
    """Stopped after any batch, with a backup after every batch, every second, or every epoch."""
    model, expected = whole
    with pytest.raises(KeyboardInterrupt):
        train_small(tmp_path / "stopped", every, StopAfter(stop))
    resumed, rows = train_small(tmp_path / "stopped", every)
    for a, b in zip(model.variables, resumed.variables):
        np.testing.assert_array_equal(a, b)
    assert int(resumed.optimizer.iterations) == 18
    assert rows == expected[-len(rows) :]
    assert not (tmp_path / "stopped").exists()


@pytest.mark.parametrize("stop", [8])
def test_what_multiplies_at_the_start_of_an_epoch_and_metrics_of_one_name(tmp_path, stop):
    """A schedule is not applied twice to the epoch that was interrupted, and no metric loses its sums."""
    from keras_bikd.callbacks import ExactBackup, MetaLearningRateScheduler
    from keras_bikd.data import pair, resumable

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)) == stop:
                raise KeyboardInterrupt

    def train(folder, *callbacks):
        models.reseed()
        model = bikd.BiKDModel(models.perceptron(), models.perceptron())
        mean = [keras.metrics.SparseCategoricalAccuracy("same"), keras.metrics.SparseTopKCategoricalAccuracy(3, "same")]
        model.compile(keras.optimizers.SGD(0.1), metrics=mean)
        stream, position = resumable(pair(models.dataset(models.arrays(24)), models.dataset(models.arrays(8))))
        halve = lambda epoch, rate: rate / 2
        schedules = [keras.callbacks.LearningRateScheduler(halve), MetaLearningRateScheduler(halve)]
        backup = ExactBackup(folder, position, every=1)
        callbacks = [backup, *schedules, *callbacks]
        rows = model.fit(stream, steps_per_epoch=6, epochs=3, verbose=0, callbacks=callbacks).history
        return model, {name: values[-1] for name, values in rows.items()}

    whole, expected = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", Stop())
    resumed, logs = train(tmp_path / "stopped")
    models.assert_same_state(whole, resumed)
    assert float(resumed.optimizer.learning_rate) == pytest.approx(0.1 / 8)
    assert logs == expected


def test_a_second_training_begins_at_its_own_beginning(tmp_path):
    from keras_bikd.callbacks import ExactBackup
    from keras_bikd.data import resumable

    model, batches = small()
    stream, position = resumable(batches)
    for _ in range(2):
        history = model.fit(
            stream,
            shuffle=False,
            steps_per_epoch=6,
            epochs=2,
            verbose=0,
            callbacks=[ExactBackup(tmp_path / "backup", position)],
        )
        assert history.epoch == [0, 1]
    assert int(model.optimizer.iterations) == 24


def test_after_a_resumed_training_files_of_others_stay_and_the_next_begins_at_its_beginning(tmp_path):
    from keras_bikd.callbacks import ExactBackup
    from keras_bikd.data import resumable

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    (tmp_path / "maps").mkdir()
    (tmp_path / "log.csv").write_text("mine")

    def train(*callbacks):
        model, batches = small()
        stream, position = resumable(batches)
        callbacks = [ExactBackup(tmp_path, position), *callbacks]
        history = model.fit(stream, shuffle=False, steps_per_epoch=6, epochs=2, verbose=0, callbacks=callbacks)
        return model, batches, history

    with pytest.raises(KeyboardInterrupt):
        train(Stop())
    assert not list(tmp_path.glob("unfinished_*"))
    (tmp_path / "unfinished_1_step_000000000012.weights.h5").write_text("of a process that was killed")
    model, batches, history = train()
    assert history.epoch == [1]
    assert {path.name for path in tmp_path.iterdir()} == {"maps", "log.csv"}
    assert model.fit(batches, shuffle=False, epochs=1, verbose=0).epoch == [0]


@pytest.mark.parametrize(("stop", "separate"), [(5, False), (8, True)])
def test_without_tf_data(tmp_path, stop, separate):
    """Training and meta batches in Grain, as pairs or apart, each with its own order on every pass."""
    from keras_bikd.batches.grain_data import IndexedBatches
    from keras_bikd.callbacks import ExactBackup
    from keras_bikd.data import pair, resumable

    def train(*callbacks):
        models.reseed()
        model = models.compiled(inner_steps=2)
        data, meta = (
            IndexedBatches(grain.MapDataset.source(list(zip(*models.arrays(count)))).shuffle(seed=count).batch(4))
            for count in (22, 10)
        )
        stream, position = resumable(data if separate else pair(data, meta))
        callbacks = [ExactBackup(tmp_path / str(bool(callbacks)), position, every=1), *callbacks]
        extra = {"meta_data": meta} if separate else {}
        model.fit(stream, steps_per_epoch=6, epochs=2, verbose=0, callbacks=callbacks, **extra)
        return model

    whole = train()
    with pytest.raises(KeyboardInterrupt):
        train(StopAfter(stop))
    resumed = train(keras.callbacks.Callback())
    models.assert_same_state(resumed, whole)
    assert int(resumed.optimizer.iterations) == 12


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras takes one step per execution on PyTorch")
def test_steps_per_execution_must_divide_the_epoch(tmp_path):
    from keras_bikd.callbacks import ExactBackup
    from keras_bikd.data import resumable

    model, batches = small()
    model.compile("sgd", "mse", steps_per_execution=4)
    stream, position = resumable(batches)
    with pytest.raises(ValueError, match="steps_per_epoch=6 and steps_per_execution=4"):
        model.fit(stream, shuffle=False, steps_per_epoch=6, callbacks=[ExactBackup(tmp_path, position)])


def test_bad_input(tmp_path):
    from keras_bikd.callbacks import ExactBackup
    from keras_bikd.data import resumable

    with pytest.raises(ValueError, match="every=0"):
        ExactBackup(tmp_path, None, every=0)
    with pytest.raises(ValueError, match=r"resumable\(data=...\).*list"):
        resumable([1])


if __name__ == "__main__":
    generator = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        start(folder / "whole", "epoch").wait()
        for every in ("epoch", 7):
            places = run_with_kills(folder / f"killed_{every}", every, int(sys.argv[1]) // 2, generator)
            assert_same_end(folder / f"killed_{every}", folder / "whole")
            print(f"backup every {every}: killed {len(places)} times, last backups {places}; the end is the same")
