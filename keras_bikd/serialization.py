"""How the Keras objects of the library are saved and revived."""

from typing import Any, Self

import keras

__all__ = ["Serializable", "for_every_backend"]


def for_every_backend(config: Any) -> Any:
    """A config of Keras objects whose optimizers are named by their public classes.

    On PyTorch Keras names the classes of its PyTorch optimizers, which cannot train on another backend.

    Args:
        config: What `keras.saving.serialize_keras_object` returned, or a part of it.

    Returns:
        A copy of `config`.

    Examples:
        >>> sgd = {"module": "keras.src.backend.torch.optimizers.torch_sgd", "class_name": "SGD", "config": {}}
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
