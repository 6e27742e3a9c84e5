"""How the objects of the library are saved and revived, and how functions are described in files."""

import dataclasses
import functools
import hashlib
import inspect
from typing import Any, Self

import keras


def for_every_backend(config: Any) -> Any:
    """A config of Keras objects whose optimizers are named by their public classes.

    On PyTorch Keras names the classes of its PyTorch optimizers, which cannot train on another backend.

    Args:
        config: What `keras.saving.serialize_keras_object` returned, or a part of it.

    Returns:
        A copy of `config`.

    Examples:
        >>> sgd = {
        ...     "module": "keras.src.backend.torch.optimizers.torch_sgd",
        ...     "class_name": "SGD",
        ...     "config": {},
        ... }
        >>> for_every_backend({"optimizer": sgd})["optimizer"]["module"]
        'keras.optimizers'
    """
    if isinstance(config, (list, tuple)):
        return [for_every_backend(item) for item in config]
    if not isinstance(config, dict):
        return config
    config = {key: for_every_backend(value) for key, value in config.items()}
    if str(config.get("module")).startswith("keras.src.backend.torch.optimizers"):
        config.update(module="keras.optimizers", registered_name=None)
    return config


class Serializable:
    """Mixin: the config of an object is that of its base class plus the attributes named in `ARGUMENTS`.

    Keras serialises and revives the models, layers, optimizers, objectives and functions among them, also those inside
    dicts and tuples.
    """

    ARGUMENTS: tuple[str, ...] = ()

    def get_config(self) -> dict[str, Any]:
        """What the constructor takes, ready for JSON."""
        own = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in self.ARGUMENTS}
        return {**super().get_config(), **own}  # type: ignore[misc]

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """Revive an object from what `get_config` returned."""
        return cls(**keras.saving.deserialize_keras_object(config, custom_objects))


def described(value: Any) -> Any:
    """Describe a class, a function or a frozen dataclass, as `default` of `json.dumps`.

    Classes and functions of Keras and of this library are described by their names, those of a user by name and a hash
    of their source.

    Args:
        value: A class, a function or a dataclass.

    Returns:
        A string, or a dict whose values may need describing in turn.

    Raises:
        TypeError: If the value is anything else.
        ValueError: If a function is not at the top level of a module, or its source cannot be read.

    Examples:
        >>> described(for_every_backend)
        'keras_bikd.for_every_backend'
    """
    if isinstance(value, type) or inspect.isfunction(value):
        return _name(value)
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        kind: Any = type(value)
        return {"call": _name(kind), "arguments": fields}
    raise TypeError(f"Received: {value!r} of type {type(value).__name__}")


@functools.cache  # the source as it was imported, even if the file is edited meanwhile
def _name(function: Any) -> str:
    if "<" in function.__qualname__:
        raise ValueError(
            "A class or function that a file describes must stand at the top level of a module: its name cannot say "
            "what a lambda or an inner function has taken from its surroundings. Move it there, and pass what it needs "
            "as arguments, or as fields of a frozen dataclass. "
            f"Received: {function!r}"
        )
    package = function.__module__.partition(".")[0]
    if package in ("keras", "keras_bikd"):
        return f"{package}.{function.__qualname__}"
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        raise ValueError(
            "The source of a class or function that a file describes must be readable: its hash tells an old version "
            f"from a new one. Define it in a file. Received: {function!r}"
        ) from None
    return f"{function.__qualname__} {hashlib.sha256(source.encode()).hexdigest()[:12]}"
