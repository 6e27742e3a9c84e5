"""How long the methods of a comparison are trained, and how."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_bikd import checks
from keras_bikd.comparison.methods import METHODS, Build, Method, as_methods
from keras_bikd.comparison.samples import Augmentation
from keras_bikd.comparison.store import described


def adam(steps: int) -> keras.optimizers.Optimizer:
    """Adam with a learning rate that falls from 2e-3 to zero along a cosine."""
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """How the methods are compared; the same for all of them.

    Args:
        methods: What to compare, from the cheapest to the most expensive: names of default methods, or a dict of name
            to a function that builds a model, or to a `keras_bikd.comparison.Method`. By default all of
            `keras_bikd.comparison.METHODS`; and, where checked meta data are given and many labels look wrong, BiKD in
            two runs.
        seeds: One round of trainings for each. If no validation data are given, every round holds out other samples.
        steps: Steps of every training. By default thirty passes over the training data, at least 500 steps and at most
            5,000.
        minutes: Time for the whole comparison in one process, in place of `steps`: the methods are timed first. Less is
            taken where every training has two hundred passes over the data.
        batch_size: Samples per step.
        optimizer: Function from a number of steps to an optimizer for teacher and student.
        augment: Function `(inputs, seed) -> inputs` of a batch, such as `keras_bikd.data.pad_crop_flip()`.
        validation_share: Share of every class that a round holds out, if no validation data are given.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> protocol = Protocol(methods=("cross-entropy", "KD"), seeds=(0,), steps=200)
        >>> list(protocol.chosen_methods)
        ['cross-entropy', 'KD']
    """

    methods: tuple[str, ...] | Mapping[str, Method | Build] | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 64
    optimizer: Callable[[int], keras.optimizers.Optimizer] = adam
    augment: Augmentation | None = None
    validation_share: float = 0.2

    def __post_init__(self) -> None:
        owner = "Protocol"
        if not self.seeds:
            raise ValueError(f"`Protocol(seeds=...)` takes at least one seed. Received: seeds={self.seeds!r}")
        for seed in self.seeds:
            checks.integer(owner, "seeds", seed, at_least=0)
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"`Protocol(seeds=...)` takes every seed once. Received: seeds={self.seeds!r}")
        checks.integer(owner, "batch_size", self.batch_size)
        checks.number(owner, "validation_share", self.validation_share, above=0, below=1)
        if self.steps is not None:
            checks.integer(owner, "steps", self.steps)
        if self.minutes is not None:
            checks.number(owner, "minutes", self.minutes, above=0)
        if self.steps is not None and self.minutes is not None:
            raise ValueError(
                "`Protocol` takes `steps` or `minutes`, one of the two. "
                f"Received: steps={self.steps!r} and minutes={self.minutes!r}"
            )
        self.chosen_methods  # noqa: B018 (complains about unknown names)

    @property
    def chosen_methods(self) -> dict[str, Method]:
        """Name to `Method`, in their order."""
        if isinstance(self.methods, Mapping):
            return as_methods(self.methods)
        for name in self.methods or ():
            checks.one_of("Protocol", "methods", name, tuple(METHODS))
        return as_methods({name: METHODS[name] for name in METHODS if self.methods is None or name in self.methods})

    def config(self) -> dict[str, Any]:
        """What every result depends on, whatever its method and seed."""
        optimizer = keras.optimizers.serialize(self.optimizer(1000))
        optimizer["config"].pop("name", None)  # Keras numbers them
        return {
            "budget": {"steps": self.steps, "minutes": self.minutes},
            "batch_size": self.batch_size,
            "optimizer": optimizer,
            "augment": described(self.augment),
            "validation_share": self.validation_share,
        }
