"""The preprocessor of a model, such as classifiers of keras-hub have, in front of every kind of data.

Such a model prepares raw images or strings in its own `fit`, `evaluate` and `predict`, and not when it is called.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops, tree

from keras_bikd.batches.adapters import ChangedBatches, adapter_of, is_tf_dataset
from keras_bikd.batches.pairs import is_pair

Preprocessing = Callable[..., Any] | None
"""`(x, y=None, sample_weight=None) -> batch`, or nothing to do."""


def preprocessing_of(model: Any) -> Preprocessing:
    """The function that prepares batches for a model with a preprocessor; `None` for any other model."""
    function = getattr(model, "preprocess_samples", None)
    return function if getattr(model, "preprocessor", function) is not None else None


def preprocessed(data: Any, preprocessing: Preprocessing) -> Any:
    """A data set of raw batches, or of pairs of them, as one of batches that the model takes."""
    if preprocessing is None:
        return data
    if is_tf_dataset(data):
        return data.map(lambda *batch: _applied(preprocessing, batch), num_parallel_calls=-1)  # tf.data.AUTOTUNE
    return ChangedBatches(adapter_of(data), lambda batch: _as_arrays(_applied(preprocessing, batch)))


def preprocessed_batch(batch: Any, preprocessing: Preprocessing) -> Any:
    """As `preprocessed`, for one batch or one pair."""
    return batch if preprocessing is None else _as_arrays(_applied(preprocessing, batch))


def _applied(preprocessing: Callable[..., Any], batch: Any) -> Any:
    if is_pair(batch):
        return tuple(preprocessing(*part) for part in batch[:2])
    return preprocessing(*batch) if isinstance(batch, (tuple, list)) else preprocessing(batch)


def _as_arrays(batch: Any) -> Any:
    return tree.map_structure(lambda part: None if part is None else ops.convert_to_numpy(part), batch)


def require_same_preprocessing(student: Any, teacher: Any) -> None:
    """Raise if a teacher has a preprocessor of its own, since it is given what the student is given."""
    own, other = (getattr(model, "preprocessor", None) for model in (student, teacher))
    if other is None or preprocessing_of(teacher) is None or own is other or _description(own) == _description(other):
        return
    raise ValueError(
        "The teacher has a preprocessor, and the student has "
        + ("none" if own is None else "another one")
        + ", but both receive the same inputs: those that the student's preprocessor returns, if it has one. Give both "
        "the same preprocessor, or set `teacher.preprocessor = None` if the teacher can take the student's inputs. "
        f"Received: teacher.preprocessor={other!r}, student.preprocessor={own!r}"
    )


def _description(preprocessor: Any) -> Any:
    """What a preprocessor does, in a form that can be compared."""
    tokenizer = getattr(preprocessor, "tokenizer", None)  # keras-hub keeps its vocabulary out of the config
    return _without_names(keras.saving.serialize_keras_object(preprocessor)), (tokenizer and tokenizer.get_vocabulary())


def _without_names(config: Any) -> Any:
    if isinstance(config, dict):
        left_out = ("name", "build_config", "shared_object_id")
        return {key: _without_names(value) for key, value in config.items() if key not in left_out}
    return [_without_names(item) for item in config] if isinstance(config, (list, tuple)) else config
