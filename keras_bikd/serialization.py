"""How the Keras objects of the library are saved and revived."""

from typing import Any, Self

import keras

__all__ = ["Serializable"]


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
