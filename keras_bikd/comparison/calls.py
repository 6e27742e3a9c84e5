"""Calls written down before they are made: what a method does, as data that can be compared and stored."""

import dataclasses
import inspect
import json
import operator
from collections.abc import Callable
from typing import Any

import keras

from keras_bikd.serialization import described

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclasses.dataclass(frozen=True)
class Parts:
    """What one training has at hand, for `Part` to refer to.

    Attributes:
        student: The untrained student.
        teacher: The trained teacher.
        counts: Training samples per class.
        teacher_counts: Likewise, of the images that the teacher was trained on.
        train: The training set, augmented, as an endless stream.
        meta: The meta set, augmented like the training set.
        clean_meta: The meta set, not augmented.
        num_classes: Number of classes.
        batch_size: Images per batch.
        seed: Seed of the cell.
        before: The trained model of `Method(before=...)`, or `None`.
    """

    student: keras.Model
    teacher: keras.Model
    counts: list[int]
    teacher_counts: list[int]
    train: Any
    meta: Any
    clean_meta: Any
    num_classes: int
    batch_size: int
    seed: int
    before: keras.Model | None = None


class Part:
    """A placeholder for something that only a training knows, such as its student or its class counts.

    Args:
        name: An attribute of `Parts`, or an attribute of one, as in `"before.weight_net"`.

    Raises:
        ValueError: If `Parts` has no such attribute.

    Examples:
        >>> Part("counts")
        Part('counts')
    """

    def __init__(self, name: str) -> None:
        known = [field.name for field in dataclasses.fields(Parts)]
        if name.partition(".")[0] not in known:
            raise ValueError(f"`Part` takes one of {', '.join(known)}. Received: name={name!r}")
        self.name = name

    def __repr__(self) -> str:
        return f"Part({self.name!r})"

    def config(self) -> dict[str, str]:
        """Return the placeholder as data for JSON."""
        return {"part": self.name}

    def make(self, parts: Parts | None) -> Any:
        """Return what the placeholder stands for."""
        return operator.attrgetter(self.name)(parts)


class Call:
    """A call of a class or function that is made later, afresh for every training.

    Arguments are numbers, names, `Part`s, further calls, frozen dataclasses (such as the objectives), or lists, tuples
    and dicts of these. So the call is data: it can be compared with that of a stored row, stored, and sent to another
    process.

    Args:
        function: A class or function. One of your own must stand at the top level of a module.
        *arguments: Positional arguments.
        **keywords: Keyword arguments.

    Raises:
        ValueError: If the function does not take these arguments, or one of them is not data.

    Examples:
        >>> from keras_bikd import objectives
        >>> loss = Call(objectives.SoftTargets, class_counts=Part("teacher_counts"))
        >>> loss.config()["arguments"]
        {'temperature': 4.0, 'class_counts': {'part': 'teacher_counts'}}
    """

    def __init__(self, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> None:
        if not isinstance(function, type) and not inspect.isfunction(function):
            raise ValueError(f"`Call(function, ...)` takes a class or a function. Received: function={function!r}")
        self.function, self.arguments, self.keywords = function, arguments, keywords
        self.config()  # complains here, and not in the middle of a comparison

    def __repr__(self) -> str:
        values = [repr(value) for value in self.arguments]
        values += [f"{name}={value!r}" for name, value in self.keywords.items()]
        return f"Call({', '.join([self.function.__qualname__, *values])})"

    def config(self) -> dict[str, Any]:
        """Return the call as data for JSON: name of the function and all its arguments, those left out too."""
        name, signature = described(self.function), inspect.signature(self.function)
        try:
            bound = signature.bind(*self.arguments, **self.keywords)
        except TypeError as error:
            raise ValueError(f"`Call({name}, ...)`: {error}. The function takes {signature}") from None
        bound.apply_defaults()
        variadic = {key for key, parameter in signature.parameters.items() if parameter.kind in _VARIADIC}
        given = {key: value for key, value in bound.arguments.items() if key not in variadic or value}
        return {"call": name, "arguments": config_of(given)}

    def make(self, parts: Parts | None) -> Any:
        """Make the call, with every `Part` and inner call replaced by what it stands for."""
        return self.function(*make(self.arguments, parts), **make(self.keywords, parts))


def make(value: Any, parts: Parts | None = None) -> Any:
    """Replace the calls and placeholders in a value by what they stand for.

    Args:
        value: A `Call`, a `Part`, or lists, tuples and dicts of them; anything else is returned as it is.
        parts: What the placeholders refer to; not needed where there are none.

    Returns:
        The value with everything made.

    Examples:
        >>> from keras_bikd import objectives
        >>> make({"soft": Call(objectives.SoftTargets, temperature=2.0)})
        {'soft': SoftTargets(temperature=2.0, class_counts=None)}
    """
    if isinstance(value, (Call, Part)):
        return value.make(parts)
    if isinstance(value, dict):
        return {key: make(inner, parts) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([make(inner, parts) for inner in value])
    return value


def config_of(value: Any) -> Any:
    """Describe a value by what JSON can hold, so that two values with the same description do the same.

    Classes and functions of Keras and of this library are described by their names, those of a user by name and a hash
    of their source. What they use besides their arguments (a global variable, a base class, another function) is not
    part of the description.

    Args:
        value: Numbers, names, `Call`s, `Part`s, frozen dataclasses, or lists, tuples and dicts of these.

    Returns:
        Dicts, lists, strings, numbers and `None`, as they would be read from a JSON file.

    Raises:
        ValueError: If the value holds anything else.

    Examples:
        >>> from keras_bikd import objectives
        >>> config_of(objectives.KnowledgeDistillation(temperature=2.0))["arguments"]
        {'temperature': 2.0, 'hard_weight': 0.5, 'soft_weight': 0.5}
    """
    return json.loads(json.dumps(value, default=_described))


def _described(value: Any) -> Any:
    if isinstance(value, (Call, Part)):
        return value.config()
    try:
        return described(value)
    except TypeError:
        kind = type(value).__name__
        raise ValueError(
            "A method of a comparison is made of data: numbers, names, `Part`s, frozen dataclasses such as the "
            f"objectives, and `Call`s. Received: {value!r} of type {kind}. Every training needs an object of its own, "
            f"and every row must say which: write `Call({kind}, ...)` with the arguments that make it."
        ) from None
