"""What looks at a training and writes down what it sees."""

import csv
import itertools
import pathlib

import keras
import numpy as np

from keras_bikd import plots
from keras_bikd.feed import batches
from keras_bikd.long_tail import shot_groups
from keras_bikd.losses import class_ids
from keras_bikd.models.bikd import BiKDModel


class _AtEpochs(keras.callbacks.Callback):
    """Calls `look(epoch, logs)` after every so many epochs, and after the last one."""

    def __init__(self, every):
        super().__init__()
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise ValueError(f"`every` takes a number of epochs of at least 1, or None. Received: every={every!r}")
        self.every, self._last = every, None

    def on_train_begin(self, logs=None):
        self._last = None

    def on_epoch_end(self, epoch, logs=None):
        self._last = epoch
        if self._is_due(epoch):
            self.look(epoch, logs)

    def on_train_end(self, logs=None):
        if self._last is not None and not self._is_due(self._last):
            self.look(self._last, logs)

    def _is_due(self, epoch):
        return self.every is not None and (epoch + 1) % self.every == 0

    def look(self, epoch, logs):
        raise NotImplementedError(f"{type(self).__name__} must define `look`.")


def _require_weights(callback):
    if not isinstance(callback.model, BiKDModel):
        raise ValueError(
            f"`{type(callback).__name__}` looks at the weights of a `BiKDModel`. Received: a model of type "
            f"{type(callback.model).__name__}. Leave the callback out."
        )


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
        plots.require_matplotlib()
        self.directory, self.data = pathlib.Path(directory), data

    def on_train_begin(self, logs=None):
        _require_weights(self)
        super().on_train_begin(logs)

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
        self.path, self.data, self.num_classes = pathlib.Path(path), data, len(class_counts)
        self.groups = {name: ids for name, ids in shot_groups(class_counts, many_above, few_below).items() if len(ids)}

    def on_train_begin(self, logs=None):
        _require_weights(self)
        super().on_train_begin(logs)

    def look(self, epoch, logs):
        seen = _seen(self)
        labels = keras.ops.convert_to_numpy(class_ids(seen.labels, self.num_classes))
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
        _require_weights(self)
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
        return int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)) // self.model.inner_steps


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
        plots.require_matplotlib()
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
        plots.require_matplotlib()
        self.data = data

    def on_train_begin(self, logs=None):
        _require_weights(self)
        super().on_train_begin(logs)

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
