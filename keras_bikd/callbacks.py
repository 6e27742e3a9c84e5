"""Callbacks that look at a training and write down what they see; `DeferredObjective` and `ExactBackup` steer it.

What they put into the logs of an epoch reaches `History`, `CSVLogger` and `TensorBoard`: list them before those.
"""

import csv
import itertools
import os
import pathlib
import shutil

import keras
import numpy as np

from keras_bikd import plots
from keras_bikd.data.pairing import batches
from keras_bikd.long_tail import shot_groups


class _AtEpochs(keras.callbacks.Callback):
    """Calls `look(epoch, logs)` after every so many epochs, and after the last one."""

    def __init__(self, every):
        super().__init__()
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise ValueError(f"`every` takes a number of epochs of at least 1, or None. Received: every={every!r}")
        self.every = every

    def on_epoch_end(self, epoch, logs=None):
        self._last = epoch
        if self._is_due(epoch):
            self.look(epoch, logs)

    def on_train_end(self, logs=None):
        if not self._is_due(self._last):
            self.look(self._last, logs)

    def _is_due(self, epoch):
        return self.every is not None and (epoch + 1) % self.every == 0

    def look(self, epoch, logs):
        raise NotImplementedError(f"{type(self).__name__} must define `look`.")


def _seen(callback):
    """Losses and weights of `callback.data`, or of one epoch of the training data."""
    data = callback.data
    if data is None:
        data = itertools.islice(batches(callback.model.training_samples), callback.params["steps"])
    return callback.model.sample_weights(data)


class WeightMap(_AtEpochs):
    """Draw the weights of all training samples over teacher loss and student loss, as Figure 3 of the paper.

    Writes `weight_map_<epoch>.png` and the numbers behind it as `.npz`. One inference pass over the data, at the end
    of the chosen epochs; nothing is added to the training step.

    Args:
        directory: Where to write; created if missing.
        data: Batched data set of `(x, y)` to draw, such as the training set without `repeat()`. By default one epoch
            of the training data of `fit`; going through it once more makes a shuffled pipeline continue in another
            order than without the callback.
        every: Draw after every so many epochs. The last epoch is always drawn.

    Examples:
        >>> callback = WeightMap("runs/weights", every=10)

    Reference: arXiv 2605.17839, Figure 3.
    """

    def __init__(self, directory, data=None, every=None):
        super().__init__(every)
        self.directory, self.data = pathlib.Path(directory), data

    def look(self, epoch, logs):
        seen = _seen(self)
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"weight_map_{epoch + 1:04d}"
        np.savez_compressed(path.with_suffix(".npz"), **seen._asdict())
        names = tuple(self.model.candidate_losses)
        figure = plots.weight_map(seen.teacher_losses, seen.student_losses, seen.weights, names)
        figure.savefig(path.with_suffix(".png"), dpi=150)


class WeightHistory(_AtEpochs):
    """Write down how the weights of many, medium and few classes move: mean and quantiles, per epoch.

    One row per epoch, weight and class group in a CSV file; the means also go to the logs, as `hard_weight_few` and
    so on. One inference pass over the data at the end of the chosen epochs.

    Args:
        path: CSV file; rows are appended, so that a resumed run goes on.
        class_counts: Training images per class.
        data: Batched data set of `(x, y)`; by default the training data of `fit`, one epoch of it.
        every: Look after every so many epochs.
        many_above: Classes with more images than this are many.
        few_below: Classes with fewer images than this are few.

    Examples:
        >>> callback = WeightHistory("runs/weights.csv", class_counts=[500, 50, 5])
    """

    QUANTILES = (0.1, 0.5, 0.9)

    def __init__(self, path, class_counts, data=None, every=1, many_above=100, few_below=20):
        super().__init__(every)
        self.path, self.data = pathlib.Path(path), data
        self.groups = {name: ids for name, ids in shot_groups(class_counts, many_above, few_below).items() if len(ids)}

    def look(self, epoch, logs):
        seen = _seen(self)
        labels = seen.labels.argmax(axis=-1) if seen.labels.ndim == 2 else seen.labels
        rows = []
        for (group, ids), (column, weight) in itertools.product(
            self.groups.items(), enumerate(self.model.candidate_losses)
        ):
            values = seen.weights[np.isin(labels, ids), column]
            if not len(values):
                continue
            quantiles = {
                f"q{100 * q:.0f}": value for q, value in zip(self.QUANTILES, np.quantile(values, self.QUANTILES))
            }
            rows.append({"epoch": epoch, "weight": weight, "group": group, "mean": values.mean(), **quantiles})
            if logs is not None:
                logs[f"{weight}_weight_{group}"] = float(values.mean())
        _append_csv(self.path, rows)


class HypergradientMonitor(keras.callbacks.Callback):
    """Log how steady the upper level is: size, direction and losses of the summed hypergradients.

    Four entries per epoch, means over the updates of the weight network: `hypergradient_norm`;
    `hypergradient_cosine` to the update before (near 1 is steady, near 0 is noise); `hypergradient_clipped`, the share
    of updates that the meta optimizer's `clipnorm`, `global_clipnorm` or `clipvalue` cut; `hypergradient_nonfinite`,
    the share of updates with a batch that was left out because it was not finite (under a loss scale the whole update
    is skipped). With `steps_per_execution` above `inner_steps`, only the last update of each execution is seen.

    Examples:
        >>> callback = HypergradientMonitor()
    """

    def on_train_begin(self, logs=None):
        self._previous, self._updates = None, self._count()

    def on_epoch_begin(self, epoch, logs=None):
        self._seen: dict[str, list] = {name: [] for name in ("norm", "cosine", "clipped", "nonfinite")}

    def on_train_batch_end(self, batch, logs=None):
        if self._count() == self._updates:
            return
        self._updates = self._count()
        optimizer = self.model.optimizer
        sums = [keras.ops.convert_to_numpy(v) for v in optimizer.last_hypergradients]
        current = np.concatenate([total.ravel() for total in sums])
        norm = np.linalg.norm(current)
        self._seen["norm"].append(norm)
        self._seen["clipped"].append(_is_clipped(sums, norm, optimizer.meta_optimizer))
        self._seen["nonfinite"].append(bool(keras.ops.convert_to_numpy(optimizer.last_overflow)))
        if self._previous is not None and norm > 0 and (before := np.linalg.norm(self._previous)) > 0:
            self._seen["cosine"].append(current @ self._previous / (norm * before))
        self._previous = current

    def on_epoch_end(self, epoch, logs=None):
        logs.update({f"hypergradient_{name}": float(np.mean(seen or [np.nan])) for name, seen in self._seen.items()})

    def _count(self):
        return int(self.model.optimizer.iterations) // self.model.inner_steps


def _is_clipped(sums, norm, optimizer):
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    if optimizer.global_clipnorm is not None:
        return norm > optimizer.global_clipnorm
    if optimizer.clipnorm is not None:
        return any(np.linalg.norm(total) > optimizer.clipnorm for total in sums)
    return optimizer.clipvalue is not None and any(np.abs(total).max() > optimizer.clipvalue for total in sums)


class PerClassReport(_AtEpochs):
    """Write a table of per-class accuracy and a confusion matrix, as Figure 4(a) of the paper.

    Writes `per_class_<epoch>.csv` and `confusion_<epoch>.png` and `.npz`. For any Keras classifier.

    Args:
        directory: Where to write; created if missing.
        data: Batched data set of `(x, y)` to report on, such as the validation set.
        class_names: Names of the classes; by default their ids.
        every: Report after every so many epochs. The last epoch is always reported.

    Examples:
        >>> callback = PerClassReport("runs/report", data=[(np.zeros((1, 4)), np.zeros(1, "int32"))])
    """

    def __init__(self, directory, data, class_names=None, every=None):
        super().__init__(every)
        self.directory, self.data, self.class_names = pathlib.Path(directory), data, class_names

    def look(self, epoch, logs):
        from sklearn.metrics import confusion_matrix

        labels, predicted = [], []
        for x, y, *_ in self.data:
            outputs = keras.ops.convert_to_numpy(self.model(x, training=False))
            truth = keras.ops.convert_to_numpy(y)
            labels.append(truth.argmax(axis=-1) if truth.shape == outputs.shape else truth.reshape(-1))
            predicted.append(outputs.argmax(axis=-1))
        classes = outputs.shape[-1]
        matrix = confusion_matrix(np.concatenate(labels), np.concatenate(predicted), labels=range(classes))
        names = self.class_names or [str(label) for label in range(classes)]
        self.directory.mkdir(parents=True, exist_ok=True)
        stem = f"{epoch + 1:04d}"
        np.savez_compressed(self.directory / f"confusion_{stem}.npz", matrix=matrix, class_names=names)
        plots.confusion_matrices({f"epoch {epoch + 1}": matrix}, names).savefig(
            self.directory / f"confusion_{stem}.png", dpi=150
        )
        path = self.directory / f"per_class_{stem}.csv"
        path.unlink(missing_ok=True)
        _append_csv(path, [_class_row(name, row, i) for i, (name, row) in enumerate(zip(names, matrix))])


def _class_row(name, row, label):
    total = int(row.sum())
    return {"class": name, "samples": total, "accuracy": row[label] / total if total else ""}


class MetaLearningRateScheduler(keras.callbacks.Callback):
    """Set the learning rate of the weight network at the start of every epoch, and log it.

    Keras' own `LearningRateScheduler` drives the student's. The authors' code multiplies the meta rate by 0.8 at
    epochs 80 and 100; the paper leaves it constant.

    Args:
        schedule: Function `(epoch, learning_rate) -> learning_rate`; by default the rate is left alone and only logged,
            as `meta_learning_rate`.

    Examples:
        >>> callback = MetaLearningRateScheduler(lambda epoch, rate: rate * 0.8 if epoch in (80, 100) else rate)
    """

    def __init__(self, schedule=None):
        super().__init__()
        self.schedule = schedule

    def on_epoch_begin(self, epoch, logs=None):
        if self.schedule is not None:
            optimizer = self.model.meta_optimizer
            optimizer.learning_rate = float(self.schedule(epoch, float(optimizer.learning_rate)))

    def on_epoch_end(self, epoch, logs=None):
        logs["meta_learning_rate"] = float(self.model.meta_optimizer.learning_rate)


class DeferredObjective(keras.callbacks.Callback):
    """Give a `DistillationModel` another objective from some epoch on: deferred re-weighting.

    BKD on CIFAR-10 distils without weights until epoch 160 of 200. A resumed run has the objective of its epoch.

    Args:
        objective: The later objective.
        epoch: Number of epochs to train with the model's own objective before.

    Examples:
        >>> from keras_bikd.objectives import BalancedKnowledgeDistillation
        >>> callback = DeferredObjective(BalancedKnowledgeDistillation(class_counts=(100, 10)), epoch=160)

    Reference: Cao et al., arXiv 1906.07413, section 3.3; Zhang et al., arXiv 2104.10510.
    """

    def __init__(self, objective, epoch):
        super().__init__()
        self.objective, self.epoch = objective, epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch >= self.epoch and self.model.objective is not self.objective:
            self.model.objective = self.objective
            self.model.make_train_function(force=True)  # the old objective is part of the compiled step


class ExactBackup(keras.callbacks.Callback):
    """Back up a training, and go on after a kill as if nothing had happened.

    What `keras.callbacks.BackupAndRestore` does, with three differences: the data go on at the batch where they were;
    an epoch that was interrupted is finished, with its metrics, and not repeated; a kill in the middle of writing does
    no harm. The backup is removed when the training ends. `History` and callbacks with a state of their own, such as
    `EarlyStopping`, begin anew, as with Keras' callback.

    Args:
        directory: Where to write; created if missing.
        position: The second result of `keras_bikd.data.resumable`; train on the first, with `steps_per_epoch`.
        every: Batches between two backups; by default the end of each epoch.

    Raises:
        ValueError: If the training has no fixed number of steps per epoch.

    Examples:
        >>> import numpy as np, tempfile, tensorflow as tf
        >>> keras.utils.set_random_seed(0)
        >>> batches = tf.data.Dataset.from_tensor_slices((np.ones((8, 3)), np.zeros(8))).shuffle(8).batch(2)
        >>> from keras_bikd.data import resumable
        >>> stream, position = resumable(batches)
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> backup = ExactBackup(tempfile.mkdtemp(), position, every=3)
        >>> _ = model.fit(stream, shuffle=False, steps_per_epoch=4, epochs=2, callbacks=[backup], verbose=0)
        >>> int(model.optimizer.iterations)
        8
    """

    def __init__(self, directory, position, every=None):
        super().__init__()
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise ValueError(f"`ExactBackup(every=...)` takes a number of batches, or None. Received: every={every!r}")
        self.directory, self.position, self.every = pathlib.Path(directory), position, every

    def on_train_begin(self, logs=None):
        self._steps = self.params["steps"]
        if self._steps is None:
            raise ValueError(
                "`ExactBackup` needs `fit(steps_per_epoch=...)`: the stream of `keras_bikd.data.resumable` has no end."
            )
        self._saved, self._metrics, self._cut_short = 0, {}, False
        if backups := sorted(self.directory.glob("step_*.weights.h5")):
            if not self.model.optimizer.built:
                self.model.optimizer.build(self.model.trainable_variables)
            self.model.load_weights(backups[-1])
            self._saved = int(backups[-1].name.removeprefix("step_").removesuffix(".weights.h5"))
        epoch, self._offset = divmod(self._saved, self._steps)
        if self._offset:
            self._metrics = dict(np.load(self._metrics_file(self._saved)))
        self.position.assign(self._saved)
        self.model._initial_epoch = epoch  # where `fit` begins; Keras' callback sets it too

    def on_epoch_begin(self, epoch, logs=None):
        self._first = epoch * self._steps + self._offset
        self._add_metrics()

    def on_train_batch_end(self, batch, logs=None):
        self._add_metrics()
        done = self._first + batch + 1
        if self.every is not None and done - self._saved >= self.every:
            self._save(done)
        if self._offset and done % self._steps == 0:
            self.model.stop_training = self._cut_short = True  # of this epoch alone: see `on_epoch_end`

    def _add_metrics(self):
        """Let an interrupted epoch go on with the metrics of its beginning, as soon as they exist; they are sums."""
        own = {variable.path: variable for variable in self.model.metrics_variables}
        if self._metrics and set(self._metrics) <= set(own):
            for path, value in self._metrics.items():
                own[path].assign_add(value)
            self._metrics = {}

    def on_epoch_end(self, epoch, logs=None):
        if self._cut_short:
            self.model.stop_training = self._cut_short = False
        self._offset = 0
        self._save((epoch + 1) * self._steps)

    def on_train_end(self, logs=None):
        shutil.rmtree(self.directory, ignore_errors=True)

    def _save(self, done):
        """Write whole, then put in place, then remove what is older."""
        self.directory.mkdir(parents=True, exist_ok=True)
        # No file of Keras holds the metrics.
        metrics, backup = self._metrics_file(done), self.directory / f"step_{done:012d}.weights.h5"
        np.savez(metrics, **{variable.path: variable.numpy() for variable in self.model.metrics_variables})
        unfinished = self.directory / "unfinished.weights.h5"
        self.model.save_weights(unfinished)
        os.replace(unfinished, backup)
        for other in self.directory.iterdir():
            if other not in (metrics, backup):
                other.unlink()
        self._saved = done

    def _metrics_file(self, done):
        return self.directory / f"metrics_{done:012d}.npz"


class StudentCheckpoint(keras.callbacks.ModelCheckpoint):
    """`keras.callbacks.ModelCheckpoint` for the student alone; the file holds neither teacher nor weight network.

    Args:
        filepath: As in `ModelCheckpoint`: `"student.keras"`, or `"student.weights.h5"` with `save_weights_only=True`.
        **kwargs: As in `ModelCheckpoint` (`monitor`, `mode`, `save_best_only`, ...).

    Examples:
        >>> best = {"monitor": "val_balanced_accuracy", "mode": "max", "save_best_only": True}
        >>> callback = StudentCheckpoint("student.keras", **best)
    """

    def set_model(self, model):
        super().set_model(model.student)


class TensorBoard(keras.callbacks.TensorBoard):
    """`keras.callbacks.TensorBoard` with histograms of the weights and the weight map as an image, in the same run.

    Args:
        log_dir: Folder of the run.
        data: Batched data set of `(x, y)` to look at; by default the training data of `fit`, one epoch of it.
        **kwargs: As in `keras.callbacks.TensorBoard`.

    Examples:
        >>> callback = TensorBoard("runs/board", histogram_freq=1)
    """

    def __init__(self, log_dir="logs", data=None, **kwargs):
        super().__init__(log_dir=log_dir, **kwargs)
        self.data = data

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        if not self.histogram_freq or epoch % self.histogram_freq:
            return
        seen = _seen(self)
        names = tuple(self.model.candidate_losses)
        image = plots.as_image(plots.weight_map(seen.teacher_losses, seen.student_losses, seen.weights, names))
        with self._train_writer.as_default():
            for column, weight in enumerate(self.model.candidate_losses):
                self.summary.histogram(f"{weight}_weight", seen.weights[:, column], step=epoch)
            self.summary.image("weight_map", image[None], step=epoch)


def _append_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        if is_new:
            writer.writeheader()
        writer.writerows(rows)
