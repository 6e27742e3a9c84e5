"""A small search as a program of its own, to be killed: `search_worker.py DIRECTORY LOG [HELD]`.

From its trial number HELD on, each trial waits until there is a file DIRECTORY/go.
"""

import itertools
import os
import pathlib
import sys
import time

import keras
import keras_tuner

import keras_bikd as bikd
import models

TRIALS = 4


def main(directory, log, held=TRIALS + 1):
    keras.utils.set_random_seed(0)
    numbers, go = itertools.count(1), pathlib.Path(directory, "go")
    teacher, name = models.perceptron(), os.environ.get("KERASTUNER_TUNER_ID", "single")

    def tell(what, trial):
        with open(log, "a") as file:
            file.write(f"{name} {os.getpid()} {what} {trial.trial_id}\n")

    class Told(bikd.tuner.BiKDHyperModel):
        def fit(self, hp, model, *args, callbacks=(), **kwargs):
            trial = next(callback for callback in callbacks if getattr(callback, "tuner", None)).trial
            tell("starts", trial)
            waits = next(numbers) >= int(held)
            while waits and not go.exists():
                time.sleep(0.05)
            history = super().fit(hp, model, *args, callbacks=callbacks, **kwargs)
            tell("ends", trial)
            return history

    tuner = keras_tuner.RandomSearch(
        Told(lambda hp: models.perceptron(), teacher, models.CLASSES, compile_arguments={"run_eagerly": True}),
        objective=bikd.tuner.OBJECTIVE,
        max_trials=TRIALS,
        seed=0,
        directory=directory,
        project_name="search",
    )
    (x, y), meta, validation = models.arrays(24), models.arrays(8, seed=1), models.arrays(16, seed=2)
    tuner.search(x, y, meta_data=meta, validation_data=validation, epochs=1, verbose=0)
    if "worker" not in name:
        done = [trial.trial_id for trial in tuner.oracle.trials.values() if trial.status == "COMPLETED"]
        pathlib.Path(directory, "done").write_text(" ".join(sorted(done)))


if __name__ == "__main__":
    main(*sys.argv[1:])
