"""The target of a batch: labels, or labels with the logits of a teacher that were computed before."""

from typing import Any


def labels_and_logits(target: Any) -> tuple[Any, Any]:
    """Split the target of a batch into labels and the teacher's logits.

    Args:
        target: Labels, or a dict `{"labels": labels, "teacher_logits": logits}`.

    Returns:
        `(labels, logits)`; without logits in the target, `(target, None)`.

    Raises:
        ValueError: If the target is a dict with other keys.

    Examples:
        >>> labels_and_logits([0, 1])
        ([0, 1], None)
        >>> labels_and_logits(
        ...     {"labels": [0, 1], "teacher_logits": [[1.5, -0.5], [0.0, 2.0]]}
        ... )
        ([0, 1], [[1.5, -0.5], [0.0, 2.0]])
    """
    if not isinstance(target, dict):
        return target, None
    if set(target) != {"labels", "teacher_logits"}:
        raise ValueError(
            'A target is labels, or a dict {"labels": labels, "teacher_logits": logits}. '
            f"Received: a dict with the keys {sorted(map(str, target))}"
        )
    return target["labels"], target["teacher_logits"]


def weights_of_labels(sample_weight: Any) -> Any:
    """The sample weights of a batch. Keras gives those of arrays the structure of the target."""
    return sample_weight["labels"] if isinstance(sample_weight, dict) else sample_weight
