"""What a comparison trains, and how: methods, the default ones, and the protocol that all of them share."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import keras

from keras_bikd import checks, objectives
from keras_bikd.bilevel.weight_net import MetaWeightNet
from keras_bikd.comparison.samples import Augmentation, Batches
from keras_bikd.comparison.store import described
from keras_bikd.models import BiKDModel, DistillationModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """What a method builds its model from, made anew for every training.

    Attributes:
        student: The untrained student.
        teacher: The trained teacher. Without one, a model whose logits are all zero.
        class_counts: Training samples per class.
        teacher_counts: Likewise, of the samples that the teacher was trained on.
        train: Training batches, as many as the training has steps.
        meta: Batches of the meta samples, likewise, augmented as the training batches are.
        clean_meta: The meta samples once, in order and not augmented.
        optimizer: The optimizer of the student, for methods that compile their model themselves.
        before: The trained model of `Method(before=...)`, or `None`.
    """

    student: keras.Model
    teacher: keras.Model
    class_counts: list[int]
    teacher_counts: list[int]
    train: Batches
    meta: Batches
    clean_meta: Batches
    optimizer: keras.optimizers.Optimizer
    before: keras.Model | None = None


Build: TypeAlias = Callable[[Parts], keras.Model]
"""Function that makes the model of a method, such as a `BiKDModel` or a `DistillationModel`."""


@dataclasses.dataclass(frozen=True)
class Method:
    """A method that needs more than a function which builds its model.

    Args:
        build: Function from `Parts` to a model with an attribute `student`. A model that is not compiled is compiled
            with the optimizer of the protocol; one that is was compiled with `parts.optimizer`.
        fit: Function from `Parts` to a dict of arguments of `fit`, such as `callbacks`; `x` replaces the training
            batches, and `meta_data` the meta batches of models that are guided by them.
        before: Another method, trained first in the same way. Its model is `parts.before`.
        teacher: Which teacher, where a round has several.
        meta_in_train: Whether to train on meta samples that were given, too. A number between 0 and 1 is their share of
            what the student sees.
        budget: Length of the training, as a multiple of that of the others.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> def mine(parts):
        ...     return BiKDModel(parts.student, parts.teacher, inner_steps=1)
        >>> Method(mine, budget=2).meta_in_train
        True
    """

    build: Build
    fit: Callable[[Parts], dict[str, Any]] | None = None
    before: "Method | None" = None
    teacher: str = "teacher"
    meta_in_train: bool | float = True
    budget: float = 1

    def __post_init__(self) -> None:
        for name in ("build", "fit"):
            value = getattr(self, name)
            if not callable(value) and (name, value) != ("fit", None):
                raise ValueError(f"`Method({name}=...)` takes a function of `Parts`. Received: {name}={value!r}")
        checks.number("Method", "budget", self.budget, above=0)
        if not isinstance(self.meta_in_train, bool):
            checks.number("Method", "meta_in_train", self.meta_in_train, above=0, below=1)

    @property
    def runs(self) -> "tuple[Method, ...]":
        """What is trained, one after the other: the method before, and this one."""
        return (self,) if self.before is None else (*self.before.runs, self)


def _cross_entropy(parts: Parts) -> keras.Model:
    return DistillationModel(parts.student, parts.teacher, objectives.CrossEntropy())


def _balanced_softmax(parts: Parts) -> keras.Model:
    return DistillationModel(parts.student, parts.teacher, objectives.BalancedSoftmax(class_counts=parts.class_counts))


def _kd(parts: Parts) -> keras.Model:
    return DistillationModel(parts.student, parts.teacher, objectives.KnowledgeDistillation())


def _candidates(parts: Parts) -> dict[str, Callable[..., Any]]:
    """The two losses of BiKD with class counts; the teacher may have been trained on other counts than the student."""
    return {
        "hard": objectives.BalancedSoftmax(class_counts=parts.class_counts),
        "soft": objectives.SoftTargets(class_counts=parts.teacher_counts),
    }


def _one_half_each(parts: Parts) -> keras.Model:
    both = objectives.WeightedSum(objectives=tuple(_candidates(parts).values()), weights=(0.5, 0.5))
    return DistillationModel(parts.student, parts.teacher, both)


def _bikd(parts: Parts) -> keras.Model:
    return BiKDModel(parts.student, parts.teacher)


def _bikd_with_class_counts(parts: Parts) -> keras.Model:
    return BiKDModel(parts.student, parts.teacher, candidate_losses=_candidates(parts))


def _first_run(parts: Parts) -> keras.Model:
    prior = MetaWeightNet(class_counts=parts.class_counts)
    return BiKDModel(parts.student, parts.teacher, prior, candidate_losses=_candidates(parts))


def _second_run(parts: Parts) -> keras.Model:
    doubled: dict[str, Callable[..., Any]] = {
        name: objectives.WeightedSum(objectives=(loss,), weights=(2.0,)) for name, loss in _candidates(parts).items()
    }
    learned: Any = parts.before
    return DistillationModel(parts.student, parts.teacher, objectives.LearnedWeights(learned.weight_net, doubled))


BASELINE = "cross-entropy"
"""What everything is compared with."""

SAFE_DEFAULT = "BiKD with class counts"
"""What loses least over many situations with nothing tuned."""

METHODS: dict[str, Method | Build] = {
    BASELINE: _cross_entropy,
    "balanced softmax": _balanced_softmax,
    "KD": _kd,
    "balanced softmax + corrected teacher": _one_half_each,
    "BiKD as published": _bikd,
    SAFE_DEFAULT: _bikd_with_class_counts,
}
"""The default methods of `compare`, from the cheapest to the most expensive."""

# The first run is guided by the checked samples and not trained on them; see the results, "Wrong labels".
TWO_RUNS = {"BiKD in two runs": Method(_second_run, before=Method(_first_run, meta_in_train=False), meta_in_train=0.5)}
"""For labels of which many are wrong, where checked samples were given."""


def as_methods(methods: Mapping[str, Method | Build]) -> dict[str, Method]:
    """Methods as records: a function is one without any options."""
    return {name: own if isinstance(own, Method) else Method(own) for name, own in methods.items()}


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
        for seed in self.seeds:
            checks.integer(owner, "seeds", seed, at_least=0)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"`Protocol(seeds=...)` takes seeds, each once. Received: seeds={self.seeds!r}")
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
