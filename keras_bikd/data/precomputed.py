"""Teacher logits for a fixed number of views of every training image, computed once and kept in a file."""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_bikd import checks
from keras_bikd.data.loader import LongTailedData
from keras_bikd.results import Row, load_row, save_row
from keras_bikd.serialization import described
from keras_bikd.teachers import StoredTeacher, TeacherReference, require_no_preprocessor
from keras_bikd.types import Teacher

_PROBED = 8  # images that are compared and that the teacher's outputs are checked on
# Entries of the header that are for readers alone; in all others, the file must be as asked for.
_UNCOMPARED = ("keras_bikd", "shape", "views_done")


@dataclasses.dataclass(frozen=True, eq=False)
class PrecomputedTeacher:
    """What `precompute_teacher` returns.

    Attributes:
        path: The file of the logits.
        data: The `LongTailedData` whose training images they belong to.
        header: What is recorded about the file.
    """

    path: pathlib.Path
    data: LongTailedData
    header: Row

    @property
    def teacher(self) -> StoredTeacher:
        """What models take in place of the teacher."""
        return StoredTeacher(self.path, self.header["teacher_sha256"])

    @property
    def logits(self) -> np.ndarray:
        """The logits, read from the file as they are needed: `(views, images, outputs)`, in order of `split.train`."""
        return np.load(self.path, mmap_mode="r")

    def batches(self, batch_size: int) -> Any:
        """The training set in batches, in another order on every pass; on pass `p` with view `p % views`.

        Args:
            batch_size: Images per batch.

        Returns:
            A Grain data set of images and dicts of `labels` and `teacher_logits`, for `fit`, `pair` and
            `resumable`. The logits are float32.
        """
        from keras_bikd.data import grain_pipeline

        data, batch_size = self.data, checks.integer("batches", "batch_size", batch_size)
        return grain_pipeline.with_logits(data.source, data.split, batch_size, data.augment[0], self.logits)


def precompute_teacher(
    teacher: Teacher,
    data: LongTailedData,
    path: str | os.PathLike[str],
    *,
    views: int = 10,
    batch_size: int = 256,
    dtype: str = "float16",
) -> PrecomputedTeacher:
    """Compute the logits of a teacher for some augmented views of every training image, and keep them in a file.

    In a step of distillation the forward pass of a large teacher takes most of the time. Here it runs `views` times
    over the training set, for any number of epochs and students. View `v` of an image is a function of the seed of
    `data`, the image and `v`, so the student sees what the teacher saw.

    The file is an array of shape `(views, images, outputs)` in NumPy's format, which is read as it is needed. A header
    in JSON next to it, `<path>.json`, says what the logits belong to. A run that was killed resumes where it was. A
    complete file is used as it is. All of this needs Grain, on every backend: `pip install keras_bikd[grain]`.

    Args:
        teacher: `keras.Model` with one output, the logits; or the path of one.
        data: What `load` returned. The augmentation of the training images must be one of `keras_bikd.data`, or a
            function or frozen dataclass at the top level of a module, which here gets NumPy arrays.
        path: File to write, such as `"teacher.npy"`.
        views: Number of views of every image, one per epoch in turn. Without augmentation there is one.
        batch_size: Images per forward pass of the teacher.
        dtype: `"float16"`, with a relative error of 5e-4, or `"float32"`.

    Returns:
        A `PrecomputedTeacher`. Its `teacher` goes to the model, its `batches(batch_size)` to `fit`.

    Raises:
        ImportError: If Grain is missing.
        ValueError: If an argument is out of range, if the file belongs to other data, views, or another teacher (the
            message says what differs), or if a logit is not finite or too large for float16.

    Examples:
        >>> import tempfile
        >>> from keras_bikd.data import gaussian_noise, load
        >>> data = load(
        ...     "sklearn_digits",
        ...     50,
        ...     meta_size=100,
        ...     test_size=500,
        ...     augment=gaussian_noise(0.1),
        ... )
        sklearn_digits 1.0.0: 314 training samples in 10 classes of 114 to 2, ...
        >>> layers = [
        ...     keras.Input((8, 8, 1)),
        ...     keras.layers.Flatten(),
        ...     keras.layers.Dense(10),
        ... ]
        >>> path = pathlib.Path(tempfile.mkdtemp(), "teacher.npy")
        >>> keras.config.disable_interactive_logging()  # no progress bar
        >>> stored = precompute_teacher(keras.Sequential(layers), data, path, views=2)
        >>> keras.config.enable_interactive_logging()
        >>> images, target = next(iter(stored.batches(64)))
        >>> target["teacher_logits"].shape
        (64, 10)
    """
    from keras_bikd.data import grain_pipeline

    path = pathlib.Path(path)
    views = checks.integer("precompute_teacher", "views", views)
    batch_size = checks.integer("precompute_teacher", "batch_size", batch_size)
    checks.one_of("precompute_teacher", "dtype", dtype, ("float16", "float32"))
    split, augment = _checked_data(data).split, data.augment[0]
    rows = data.source.rows(split.train, split.labels)
    samples = grain_pipeline.views(rows, split.seed, augment)
    probed = np.stack([grain_pipeline.views(rows)[int(i)][0] for i in np.linspace(0, len(rows) - 1, _PROBED)])
    teacher = _loaded(teacher, probed)
    asked = {
        # What determines the images before their augmentation. The logits do not depend on the labels.
        "data_set": f"{split.data_set} {split.version}",
        "split_ids_sha256": split.ids_sha256,
        "images_sha256": hashlib.sha256(probed.tobytes()).hexdigest(),
        "images": len(split.train),
        "seed": split.seed,  # of the augmentation too
        "augmentation": _description(augment, samples),
        "views": 1 if augment is None else views,
        "teacher_sha256": _sha256(teacher),
        "dtype": dtype,
    }
    header = _recorded(path, asked)
    if header is None:
        logits = teacher.predict_on_batch(probed)
        checks.classes_of("teacher", teacher, logits)
        shape = [asked["views"], asked["images"], logits.shape[-1]]
        header = {"keras_bikd": importlib.metadata.version("keras_bikd"), **asked, "shape": shape, "views_done": 0}
    _compute(teacher, samples, path, header, batch_size)
    return PrecomputedTeacher(path, data, header)


def _checked_data(data: Any) -> LongTailedData:
    if not isinstance(data, LongTailedData):
        raise ValueError(
            "`precompute_teacher(data=...)` takes what `keras_bikd.data.load` returns. Logits for other data can be "
            'passed to `fit` in the target: {"labels": labels, "teacher_logits": logits}. '
            f"Received: {type(data).__name__}"
        )
    drawn = data.split.cut.meta_in_train
    if not isinstance(drawn, bool):
        raise ValueError(
            "`precompute_teacher` takes data that are trained on the meta images always or never: "
            f"`LongTailCut(meta_in_train=True)` or `False`. Received: meta_in_train={drawn!r}"
        )
    return data


def _loaded(teacher: Teacher, images: np.ndarray) -> keras.Model:
    network = TeacherReference(teacher).network()
    require_no_preprocessor("precompute_teacher", "teacher", network)
    if not network.built:
        network(images, training=False)
    return network


def _description(augment: Any, samples: Any) -> Any:
    """The augmentation as data for JSON."""
    if not np.array_equal(samples[0][0], samples[0][0]):
        raise ValueError(
            "The augmentation of the training images must be a function of images and seed, so that the student sees "
            "what the teacher saw. It returned different images for the same seed. "
            f"Received: {augment!r}"
        )
    try:
        return json.loads(json.dumps(augment, default=described))
    except TypeError:
        raise ValueError(
            "The header of a file of logits must describe the augmentation of the training images: take one of "
            "`keras_bikd.data`, or a function or a frozen dataclass of numbers at the top level of a module. "
            f"Received: {augment!r}"
        ) from None


def _sha256(teacher: keras.Model) -> str:
    """Hash of the config, without the names of layers, which depend on what was made before, and of the weights."""
    try:
        config = keras.saving.serialize_keras_object(teacher.get_config())
    except NotImplementedError:  # a model of a user's own class, which says nothing about its arguments
        config = None
    digest = hashlib.sha256(json.dumps([type(teacher).__name__, _nameless(config, {})], default=str).encode())
    for weight in teacher.get_weights():
        digest.update(f"{weight.dtype}{weight.shape}".encode() + np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def _nameless(config: Any, numbers: dict[str, str]) -> Any:
    """A config with names replaced by numbers, in the order in which they appear, and without `trainable`."""
    if isinstance(config, dict):
        if isinstance(config.get("name"), str):
            numbers.setdefault(config["name"], f"#{len(numbers)}")
        return {key: _nameless(value, numbers) for key, value in config.items() if key != "trainable"}
    if isinstance(config, (list, tuple)):
        return [_nameless(value, numbers) for value in config]
    return numbers.get(config, config) if isinstance(config, str) else config


def _header_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + ".json")


def _recorded(path: pathlib.Path, asked: Row) -> Row | None:
    """The header of the file, `None` if there is no file yet; raise if it belongs to something else."""
    header = load_row(_header_path(path))
    if header is None and path.exists():
        raise ValueError(
            f"There is a file {str(path)!r} without a header of logits next to it. Delete it, or pass another path."
        )
    if header is None or not path.exists():
        return None
    names = [name for name in dict.fromkeys([*asked, *header]) if name not in _UNCOMPARED]
    if differing := [name for name in names if header.get(name) != asked.get(name)]:
        listed = "; ".join(f"{name}: {header.get(name)!r} there, {asked.get(name)!r} here" for name in differing)
        raise ValueError(
            f"The file {str(path)!r} holds other logits than asked for. {listed}. Delete the file, or pass another "
            "path."
        )
    return header


def _compute(teacher: keras.Model, samples: Any, path: pathlib.Path, header: Row, batch_size: int) -> None:
    """Write what is missing, and note in the header after every block how far it has come."""
    from keras_bikd.data import grain_pipeline

    done, total = header["views_done"], math.prod(header["shape"][:2])
    if done == total:
        return
    save_row(_header_path(path), header)  # first, so that logits never lie without a header
    mode: Any = "r+" if done else "w+"
    file = np.lib.format.open_memmap(path, mode, dtype=header["dtype"], shape=tuple(header["shape"]))
    rows = file.reshape(total, -1)
    verbose = int(keras.config.is_interactive_logging_enabled())
    progress = keras.utils.Progbar(total, unit_name="view", verbose=verbose)
    for images in grain_pipeline.inputs_between(samples, done, total, batch_size):
        logits = ops.convert_to_numpy(teacher.predict_on_batch(images))
        _check_range(logits, header["dtype"])
        rows[done : done + len(logits)] = logits
        file.flush()  # before the header says so
        done += len(logits)
        header["views_done"] = done
        save_row(_header_path(path), header)
        progress.update(done)


def _check_range(logits: np.ndarray, dtype: str) -> None:
    checks.finite_logits(logits)
    largest, limit = float(np.abs(logits).max()), float(np.finfo(dtype).max)
    if largest > limit:
        raise ValueError(
            f"A logit of the teacher is too large for {dtype}, whose largest number is {limit:g}. Pass "
            f'`precompute_teacher(dtype="float32")`. Received: a logit of size {largest:g}'
        )
