"""What one row of a comparison trains, and how: a record of data, without code of its own."""

import dataclasses
from typing import Any

from keras_bikd import checks
from keras_bikd.comparison.calls import Call, Part, config_of

TEACHERS = ("ce", "balanced_softmax", "experts")
TRAIN = Part("train")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """How a row of the table is trained.

    Every field is data (see `Call`), so the record decides which stored rows are its own: a row that was trained with
    any other hyper-parameter is not.

    Args:
        model: `Call` that makes a model with an attribute `student`, such as `BiKDModel` or `DistillationModel`.
        compile_arguments: Dict of arguments of `compile`, besides the optimizer of the student.
        train_on: `Part("train")`, or `Part("meta")` to train on the meta images alone.
        meta_data: What `fit` receives as `meta_data`: `Part("meta")`, or a `Call` such as one of `altered_meta`. `None`
            for models that take none.
        callbacks: Tuple of `Call`s that make the callbacks of `fit`.
        finish: `Call` to make after the training, such as one of `retrain_last_layer`.
        before: Another method, to be trained first in the same way as for a row of its own. Its model is then
            `Part("before")`.
        teacher: Objective of the teacher: `"ce"` or `"balanced_softmax"`; or `"experts"`, one for many, medium and few.
        sampling: How training images are drawn, as in `keras_bikd.data.load`.
        meta_in_train: Whether student and teacher also train on the meta images, as in `keras_bikd.data.load`.
        budget: Length of the training, as a multiple of the setting's; rounded to ten epochs of whole steps.
        meta_share: Size of a meta batch, as a share of the setting's batch size.
        teacher_views: Number of views of every training image whose teacher logits are computed once and stored, as
            `keras_bikd.data.precompute_teacher` does. By default the teacher runs in every step.

    Raises:
        ValueError: If a field is not data, or out of range.

    Examples:
        >>> import keras_bikd as bikd
        >>> kd = bikd.objectives.KnowledgeDistillation(temperature=2.0)
        >>> method = Method(
        ...     model=Call(bikd.DistillationModel, Part("student"), Part("teacher"), kd)
        ... )
    """

    model: Call
    compile_arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    train_on: Part = TRAIN
    meta_data: Any = None
    callbacks: tuple[Call, ...] = ()
    finish: Call | None = None
    before: "Method | None" = None
    teacher: str = "ce"
    sampling: str = "instance"
    meta_in_train: bool | float = False
    budget: float = 1
    meta_share: float = 1.0
    teacher_views: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, Call):
            raise ValueError(
                "`Method(model=...)` takes a `Call` that makes the model, such as `Call(DistillationModel, "
                f'Part("student"), Part("teacher"), objective)`. Received: model={self.model!r}'
            )
        checks.one_of("Method", "teacher", self.teacher, TEACHERS)
        checks.number("Method", "budget", self.budget, above=0)
        checks.number("Method", "meta_share", self.meta_share, above=0)
        if self.teacher_views is not None:
            checks.integer("Method", "teacher_views", self.teacher_views)
        for field in dataclasses.fields(self):
            try:
                config_of(getattr(self, field.name))
            except ValueError as error:
                raise ValueError(f"`Method({field.name}=...)`: {error}") from None
