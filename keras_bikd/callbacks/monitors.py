"""Monitors of a training: weights, hypergradients and per-class results, in files, logs and TensorBoard."""

import csv
import itertools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_bikd import checks, plots
from keras_bikd.batches.adapters import (
    as_batches,
    batches,
    first_rows,
    is_dataset,
    reads_once,
    require_end,
    require_samples,
)
from keras_bikd.batches.fit_arguments import example_of
from keras_bikd.batches.pairs import is_pair
from keras_bikd.keras_private import tensorboard_writer
from keras_bikd.long_tail import shot_groups
from keras_bikd.losses import class_ids, class_logits
from keras_bikd.models.bikd import BiKDModel, SampleWeights
from keras_bikd.results import Row, write_csv
from keras_bikd.types import Counts, Logs, labels_and_logits


class _AtEpochs(keras.callbacks.Callback):
    """Calls `_look(epoch, logs)` after every `every` epochs, and after the last one."""

    def __init__(self, every: int | None) -> None:
        super().__init__()
        self.every = None if every is None else checks.integer(type(self).__name__, "every", every)
        self._last: int | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._last = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._last = epoch
        if self._is_due(epoch):
            self._look(epoch, logs)

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self._last is not None and not self._is_due(self._last):
            self._look(self._last, logs)

    def _is_due(self, epoch: int) -> bool:
        return self.every is not None and (epoch + 1) % self.every == 0

    def _look(self, epoch: int, logs: Logs | None) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define `_look`.")


class _OfWeights(keras.callbacks.Callback):
    """Mixin for callbacks that need a `BiKDModel`: refuses any other model before training starts."""

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if not isinstance(self.model, BiKDModel):
            raise ValueError(
                f"`{type(self).__name__}` looks at the weights of a `BiKDModel`. Received: a model of type "
                f"{type(self.model).__name__}. Leave the callback out."
            )
        super().on_train_begin(logs)


class _OfSampleWeights(_OfWeights):
    """Mixin for callbacks that look at the weights of `data`, by default of the training data."""

    data: Any

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        if self.data is not None:
            _check_labels(type(self).__name__, self.data, self.model)
        elif reads_once(self.model.training_samples):
            raise ValueError(
                f"`{type(self).__name__}` reads the training data again, and a generator can be read only once. Pass "
                f"`{type(self).__name__}(data=...)`, or a data set to `fit`. Received: data=None"
            )

    def _sample_weights(self) -> SampleWeights:
        """Losses and weights of the data, or of one epoch of the training data."""
        if self.data is not None:
            return self.model.sample_weights(self.data)
        return self.model.sample_weights(itertools.islice(batches(self.model.training_samples), self.params["steps"]))

    def _weight_map(self, seen: SampleWeights) -> Any:
        """The figure of what `_sample_weights` has returned."""
        names = tuple(self.model.candidate_losses)
        return plots.weight_map(seen.teacher_losses, seen.student_losses, seen.weights, names)


class WeightMap(_OfSampleWeights, _AtEpochs):
    """Plot the weights of all training samples over teacher loss and student loss, as Figure 3 of the paper.

    Writes `weight_map_<epoch>.png` and its data as `.npz`. This takes one inference pass over the data at the end of
    the chosen epochs. The training step is not changed.

    Args:
        directory: Folder for the files; created if missing.
        data: Samples to plot, as arrays `(x, y)` or a batched data set without `repeat()`. By default one epoch of
            the training data of `fit`. This extra pass changes the order in which a shuffled pipeline continues.
        every: Number of epochs between two plots; by default only the last epoch is plotted, which always is.

    Raises:
        ValueError: If `every` is out of range, or, when training starts, if the model is no `BiKDModel`.
        ImportError: If matplotlib is missing.

    Examples:
        >>> callback = WeightMap("runs/weights", every=10)

    Reference: arXiv 2605.17839, Figure 3.
    """

    def __init__(self, directory: str | os.PathLike[str], data: Any = None, every: int | None = None) -> None:
        super().__init__(every)
        plots.require_matplotlib()
        self.directory, self.data = pathlib.Path(directory), _samples("WeightMap", data)

    def _look(self, epoch: int, logs: Logs | None) -> None:
        seen = self._sample_weights()
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / f"weight_map_{epoch + 1:04d}"
        np.savez_compressed(path.with_suffix(".npz"), **seen._asdict())
        self._weight_map(seen).savefig(path.with_suffix(".png"), dpi=150)


class WeightHistory(_OfSampleWeights, _AtEpochs):
    """Record the weights of many, medium and few classes over the epochs: mean and quantiles.

    Writes one row per epoch, weight and class group to a CSV file, and logs the means as `hard_weight_few` and so on.
    This takes one inference pass over the data at the end of the chosen epochs.

    Args:
        path: CSV file; rows are appended, so that a resumed run continues the file.
        class_counts: Training samples per class.
        data: Arrays `(x, y)`, or a batched data set; by default one epoch of the training data of `fit`.
        every: Number of epochs between two records. The last epoch is always recorded.
        many_above: Classes with more images than this are many.
        few_below: Classes with fewer images than this are few.

    Raises:
        ValueError: If an argument is out of range, or, when training starts, if the model is no `BiKDModel` or has
            another number of classes.

    Examples:
        >>> callback = WeightHistory("runs/weights.csv", class_counts=[500, 50, 5])
    """

    QUANTILES = {0.1: "q10", 0.5: "q50", 0.9: "q90"}

    def __init__(
        self,
        path: str | os.PathLike[str],
        class_counts: Counts,
        data: Any = None,
        every: int | None = 1,
        many_above: int = 100,
        few_below: int = 20,
    ) -> None:
        super().__init__(every)
        class_counts = checks.class_counts("WeightHistory", "class_counts", class_counts)
        self.path, self.data = pathlib.Path(path), _samples("WeightHistory", data)
        self.num_classes = len(class_counts)
        self.groups = {name: ids for name, ids in shot_groups(class_counts, many_above, few_below).items() if len(ids)}

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        if self.model.num_classes != self.num_classes:
            raise ValueError(
                f"`WeightHistory(class_counts=...)` takes one number per class, and the student has "
                f"{self.model.num_classes} outputs. Received: {self.num_classes} numbers"
            )

    def _look(self, epoch: int, logs: Logs | None) -> None:
        seen = self._sample_weights()
        labels = keras.ops.convert_to_numpy(class_ids(seen.labels, self.num_classes))
        rows = []
        for group, ids in self.groups.items():
            of_group = seen.weights[np.isin(labels, ids)]
            for weight, values in zip(self.model.candidate_losses, of_group.T if len(of_group) else ()):
                quantiles = dict(zip(self.QUANTILES.values(), np.quantile(values, [*self.QUANTILES])))
                rows.append({"epoch": epoch, "weight": weight, "group": group, "mean": values.mean(), **quantiles})
                if logs is not None:
                    logs[f"{weight}_weight_{group}"] = float(values.mean())
        _append_csv(self.path, rows)


class HypergradientMonitor(_OfWeights):
    """Log how steady the upper level is: norm and direction of the summed hypergradients, clipping and overflows.

    Logs four means per epoch over the updates of the weight network:

    - `hypergradient_norm`;
    - `hypergradient_cosine`, the cosine to the previous update: near 1 is steady, near 0 is noise;
    - `hypergradient_clipped`, the share of updates that `clipnorm`, `global_clipnorm` or `clipvalue` of the meta
      optimizer clipped;
    - `hypergradient_nonfinite`, the share of updates with a batch that was left out because its hypergradient was not
      finite. Under a loss scale the whole update is skipped.

    With `steps_per_execution` above `inner_steps`, only the last update of each execution is observed.

    Raises:
        ValueError: When training starts, if the model is no `BiKDModel`.

    Examples:
        >>> callback = HypergradientMonitor()
    """

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self._previous: np.ndarray | None = None
        self._updates = self._count()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._seen: dict[str, list[float]] = {name: [] for name in ("norm", "cosine", "clipped", "nonfinite")}

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if self._count() == self._updates:
            return
        self._updates = self._count()
        optimizer = self.model.optimizer
        sums = [keras.ops.convert_to_numpy(v) for v in optimizer.last_hypergradients]
        current = np.concatenate([total.ravel() for total in sums])
        norm = float(np.linalg.norm(current))
        self._seen["norm"].append(norm)
        self._seen["clipped"].append(_is_clipped(sums, norm, optimizer.meta_optimizer))
        self._seen["nonfinite"].append(bool(keras.ops.convert_to_numpy(optimizer.last_overflow)))
        if self._previous is not None and norm > 0 and (before := np.linalg.norm(self._previous)) > 0:
            self._seen["cosine"].append(current @ self._previous / (norm * before))
        self._previous = current

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        means = {f"hypergradient_{name}": float(np.mean(seen or [np.nan])) for name, seen in self._seen.items()}
        if logs is not None:
            logs.update(means)

    def _count(self) -> int:
        return int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)) // self.model.inner_steps


def _is_clipped(sums: list[np.ndarray], norm: float, optimizer: keras.optimizers.Optimizer) -> bool:
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    if optimizer.global_clipnorm is not None:
        return bool(norm > optimizer.global_clipnorm)
    if optimizer.clipnorm is not None:
        return any(np.linalg.norm(total) > optimizer.clipnorm for total in sums)
    return optimizer.clipvalue is not None and any(np.abs(total).max() > optimizer.clipvalue for total in sums)


class PerClassReport(_AtEpochs):
    """Write a table of per-class accuracies and a confusion matrix, as Figure 4(a) of the paper.

    Writes `per_class_<epoch>.csv`, `confusion_<epoch>.png` and `confusion_<epoch>.npz`. For any Keras classifier.

    Args:
        directory: Folder for the files; created if missing.
        data: Samples to report on, such as the validation set: arrays `(x, y)`, or a batched data set.
        class_names: Names of the classes; by default their ids.
        every: Number of epochs between two reports; by default only the last epoch is reported, which always is.

    Raises:
        ValueError: If `every` is out of range.
        ImportError: If matplotlib is missing.

    Examples:
        >>> callback = PerClassReport(
        ...     "runs/report", data=[(np.zeros((1, 4)), np.zeros(1, "int32"))]
        ... )
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        data: Any,
        class_names: Sequence[str] | None = None,
        every: int | None = None,
    ) -> None:
        super().__init__(every)
        plots.require_matplotlib()
        self.directory, self.data = pathlib.Path(directory), _samples("PerClassReport", data)
        self.class_names = class_names

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        _check_labels("PerClassReport", self.data, self.model)

    def _look(self, epoch: int, logs: Logs | None) -> None:
        from sklearn.metrics import confusion_matrix

        labels, predicted = [], []
        for x, y, *_ in as_batches(self.data):
            outputs = keras.ops.convert_to_numpy(class_logits(self.model(x, training=False)))
            labels.append(keras.ops.convert_to_numpy(class_ids(labels_and_logits(y)[0], outputs.shape[-1])))
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
        rows: list[Row] = [
            {"class": name, "samples": total, "accuracy": right / total if total else ""}
            for name, total, right in zip(names, matrix.sum(axis=1).tolist(), np.diag(matrix))
        ]
        write_csv(self.directory / f"per_class_{stem}.csv", rows)


class TensorBoard(_OfSampleWeights, keras.callbacks.TensorBoard):
    """`keras.callbacks.TensorBoard` that also shows histograms of the weights, and the weight map as an image.

    Args:
        log_dir: Folder of the run.
        data: Arrays `(x, y)`, or a batched data set; by default one epoch of the training data of `fit`.
        **kwargs: As in `keras.callbacks.TensorBoard`. The weights are shown every `histogram_freq` epochs.

    Raises:
        ValueError: When training starts, if the model is no `BiKDModel`.
        ImportError: If matplotlib is missing.

    Examples:
        >>> callback = TensorBoard("runs/board", histogram_freq=1)
    """

    def __init__(self, log_dir: str | os.PathLike[str] = "logs", data: Any = None, **kwargs: Any) -> None:
        super().__init__(log_dir=log_dir, **kwargs)
        plots.require_matplotlib()
        self.data = _samples("TensorBoard", data)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        if not self.histogram_freq or epoch % self.histogram_freq:
            return
        seen = self._sample_weights()
        image = plots.as_image(self._weight_map(seen))
        with tensorboard_writer(self).as_default():
            for column, weight in enumerate(self.model.candidate_losses):
                self.summary.histogram(f"{weight}_weight", seen.weights[:, column], step=epoch)
            self.summary.image("weight_map", image[None], step=epoch)


def _samples(owner: str, data: Any) -> Any:
    """Checked `data` of a callback; those of a generator are kept in memory, to be read repeatedly."""
    if data is None:
        return None
    data = require_samples(f"{owner}(data=...)", data)
    require_end(f"{owner}(data=...)", data)
    return list(data) if reads_once(data) else data


def _check_labels(owner: str, data: Any, model: keras.Model) -> None:
    """Raise before training if the labels of arrays, or of a first batch, are none of the model's classes."""
    example = example_of(data) if is_dataset(data) else data
    if not isinstance(example, (tuple, list)) or len(example) < 2:
        raise ValueError(f"`{owner}(data=...)` takes batches `(x, y)`. Received: a data set without labels")
    x, labels, *_ = example[0] if is_pair(example) else example
    checks.batched(f"`{owner}`", labels)
    logits = class_logits(model(first_rows(x, 1), training=False))
    checks.labels_match(f"`{owner}`", labels, logits.shape[-1])


def _append_csv(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        if is_new:
            writer.writeheader()
        writer.writerows(rows)
