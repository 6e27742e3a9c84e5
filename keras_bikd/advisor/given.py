"""What `compare` was given, read and checked before anything is trained."""

import contextlib
import dataclasses
import hashlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np

from keras_bikd.advisor.candidates import needs_teacher
from keras_bikd.advisor.protocol import Protocol
from keras_bikd.advisor.samples import Batches, Samples, Subset, of_long_tailed, samples_of
from keras_bikd.advisor.training import clear_session
from keras_bikd.comparison import Method

GivenTeacher: TypeAlias = Callable[[], keras.Model] | keras.Model | tuple[keras.Model, Sequence[int]] | None
"""A teacher's builder, a trained teacher, one with the class counts of its training, or none."""


class Data(NamedTuple):
    """The samples of a comparison.

    Attributes:
        train: All that may be trained on.
        validation: Given validation samples, or `None`.
        meta: Given meta samples, or `None`.
        test: Given test samples, or `None`.
    """

    train: Samples
    validation: Subset | None
    meta: Subset | None
    test: Subset | None

    def hashes(self) -> dict[str, str | None]:
        """What tells these data from others."""
        parts = {"validation": self.validation, "meta": self.meta, "test": self.test}
        given = {name: None if part is None else part.samples.sha256[:16] for name, part in parts.items()}
        return {"train": self.train.sha256[:16], **given}


class Networks(NamedTuple):
    """The networks of a comparison.

    Attributes:
        student: Makes an untrained student.
        build_teacher: Makes an untrained teacher; `None` if there is a trained one, or none.
        trained_teacher: A trained teacher and the class counts of its training, or `None`.
    """

    student: Callable[[], keras.Model]
    build_teacher: Callable[[], keras.Model] | None
    trained_teacher: tuple[keras.Model, list[int]] | None

    @property
    def has_teacher(self) -> bool:
        """Whether there is a teacher, or will be one."""
        return self.build_teacher is not None or self.trained_teacher is not None

    def made(self) -> dict[str, keras.Model]:
        """Student and teacher, to look at."""
        models = {"student": self.student()}
        if self.trained_teacher is not None:
            models["teacher"] = self.trained_teacher[0]
        elif self.build_teacher is not None:
            models["teacher"] = self.build_teacher()
        return models

    def hashes(self) -> dict[str, str]:
        """What tells these networks from others: how they are built, and for a trained teacher what it has learned."""
        clear_session()  # layers are numbered from the start
        found = {role: _architecture(model) for role, model in self.made().items()}
        if self.trained_teacher is not None:  # its layers were numbered before
            teacher, counts = self.trained_teacher
            learned = hashlib.sha256(repr(counts).encode())
            for weight in teacher.get_weights():
                learned.update(str(weight.shape).encode() + weight.tobytes())
            found["teacher"] = learned.hexdigest()[:16]
        return found


def data_of(data: Any, validation_data: Any, meta_data: Any, test_data: Any) -> Data:
    """Read and check the data.

    Args:
        data: As in `compare`.
        validation_data: As in `compare`.
        meta_data: As in `compare`.
        test_data: As in `compare`.

    Returns:
        The `Data`.

    Raises:
        ValueError: If a class is empty, there are fewer than two, or the classes differ.
    """
    own: dict[str, Subset | None] = {}
    if type(data).__name__ == "LongTailedData":
        train, own = of_long_tailed(data)
    else:
        train = samples_of("data", data)
    given = {"validation_data": validation_data, "meta_data": meta_data, "test_data": test_data}
    held = {
        argument: own.get(argument) if part is None else samples_of(argument, part, train.class_names).all()
        for argument, part in given.items()
    }
    _check_classes(train, held)
    return Data(train, held["validation_data"], held["meta_data"], held["test_data"])


def networks_of(student: Any, teacher: GivenTeacher, train: Samples) -> Networks:
    """Take the networks and check that they have an output for each class.

    Args:
        student: As in `compare`.
        teacher: As in `compare`.
        train: The training samples.

    Returns:
        The `Networks`.

    Raises:
        ValueError: If one of them is no network, or has other outputs.
    """
    build: Callable[[], keras.Model] | None = None
    trained: tuple[keras.Model, list[int]] | None = None
    if isinstance(teacher, keras.Model):
        trained = teacher, train.class_counts.tolist()
    elif isinstance(teacher, tuple):
        trained = teacher[0], [int(count) for count in teacher[1]]
    else:
        build = teacher
    for role, builder in (("student", student), ("teacher", build)):
        if builder is not None and (not callable(builder) or isinstance(builder, keras.Model)):
            raise ValueError(
                f"`compare({role}=...)` takes a function without arguments that returns an untrained `keras.Model`: "
                f"every training starts from a fresh one. Received: {builder!r}"
            )
    networks = Networks(student, build, trained)
    inputs, _ = Batches(Subset(train, np.arange(min(4, len(train)))), 4)[0]
    for role, model in networks.made().items():
        _check_outputs(role, model, inputs, len(train.class_names))
    return networks


def chosen_methods(protocol: Protocol, networks: Networks) -> dict[str, Method]:
    """The methods of a protocol; without a teacher, those of the default ones that need none.

    Raises:
        ValueError: If a method that was asked for needs a teacher, and there is none.
    """
    methods = protocol.chosen_methods
    _check_fields(methods)
    if networks.has_teacher:
        return methods
    left = {name: method for name, method in methods.items() if not needs_teacher(method)}
    if protocol.methods is not None and len(left) < len(methods):
        raise ValueError(
            f"`compare(teacher=...)` is needed for {', '.join(name for name in methods if name not in left)}. Pass a "
            "function that returns an untrained teacher, or a trained model. Received: teacher=None"
        )
    return left


def _check_fields(methods: dict[str, Method]) -> None:
    """Refuse methods that ask for what only `keras_bikd.comparison.train` does."""
    defaults = {field.name: field.default for field in dataclasses.fields(Method)}
    for name, method in methods.items():
        for field in ("teacher", "sampling", "budget", "meta_share", "teacher_views", "finish"):
            if getattr(method, field) != defaults[field]:
                raise ValueError(
                    f"`compare` trains all methods alike, so it cannot honour `Method({field}=...)`. Leave it out. "
                    f"Received: {field}={getattr(method, field)!r} in method {name!r}"
                )


def _check_classes(train: Samples, held: dict[str, Subset | None]) -> None:
    counts = train.class_counts
    if len(counts) < 2:
        raise ValueError(
            f"`compare(data=...)` needs samples of at least two classes. Received: class counts {counts.tolist()}"
        )
    if empty := [name for name, count in zip(train.class_names, counts) if not count]:
        raise ValueError(f"`compare(data=...)` has no sample of {', '.join(empty[:10])}. Leave these classes out.")
    for argument, subset in held.items():
        if subset is not None and subset.samples.class_names != train.class_names:
            raise ValueError(
                f"`compare({argument}=...)` must have the classes of the training data, {train.class_names}. "
                f"Received: {subset.samples.class_names}"
            )
    single = [name for name, count in zip(train.class_names, counts) if count == 1]
    if single and held["validation_data"] is None:
        warnings.warn(
            f"{len(single)} classes have a single sample, which is trained on, and cannot be judged: "
            f"{', '.join(single[:10])}. Pass `validation_data` with samples of them.",
            stacklevel=5,  # where `compare` was called
        )


def _check_outputs(role: str, model: Any, inputs: Any, num_classes: int) -> None:
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"`compare({role}=...)` takes a function without arguments that returns a `keras.Model`. "
            f"Received: a function that returns {model!r}"
        )
    outputs = model(inputs, training=False)
    if outputs.shape[-1] != num_classes and not (num_classes == 2 and outputs.shape[-1] == 1):
        raise ValueError(
            f"`compare({role}=...)` needs a model with one logit for each of the {num_classes} classes. "
            f"Received: a model with outputs of shape {tuple(outputs.shape)}"
        )


def _architecture(model: keras.Model) -> str:
    text = f"{type(model).__qualname__} {[tuple(variable.shape) for variable in model.variables]}"
    with contextlib.suppress(NotImplementedError):  # a subclassed model without `get_config`
        text = model.to_json()
    return hashlib.sha256(text.encode()).hexdigest()[:16]
