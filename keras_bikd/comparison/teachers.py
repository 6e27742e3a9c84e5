"""Teachers of a comparison: each is trained once, on the same images as its students, and kept on disk."""

import pathlib
from typing import Any

import keras

from keras_bikd import data as long_tailed
from keras_bikd import results
from keras_bikd.comparison.method import Method
from keras_bikd.comparison.setting import Cell, Setting, load_data, network, sgd, steps_of
from keras_bikd.files import atomic_write
from keras_bikd.long_tail import class_groups
from keras_bikd.losses import BalancedSoftmaxLoss, hard_loss
from keras_bikd.teachers import Experts


def teacher_of(
    cell: Cell, setting: Setting, method: Method, data: long_tailed.LongTailedData, folder: pathlib.Path
) -> tuple[keras.Model, list[int]]:
    """Load the teacher of a cell, or train it if it is not there yet.

    Args:
        cell: The `Cell`.
        setting: Its `Setting`.
        method: Its `Method`.
        data: The images of the student; the teacher is trained on the same.
        folder: Where teachers are kept.

    Returns:
        `(teacher, class_counts)`, the model, and how many images of each class it was trained on.
    """
    in_train = bool(method.meta_in_train)
    elsewhere = setting.taught
    if elsewhere is not None:
        setting, cell = elsewhere, cell._replace(imbalance_factor=elsewhere.imbalance_factors[0])
    # A share of the meta set is for the student; the teacher sees every image once per pass.
    if method.meta_in_train != in_train or elsewhere is not None:
        data = load_data(setting, cell, meta_in_train=in_train)
    counts = data.class_counts.tolist()
    path = _path(cell, method, folder)
    protocol = path.with_suffix(".setting.json")
    if path.with_suffix(".json").exists() and results.load_row(protocol) == setting.config():  # written last
        long_tailed.check_manifest(path.with_suffix(".json"), data)
        return keras.saving.load_model(path), counts
    if method.teacher == "experts":
        teacher = _train_experts(cell, setting, counts)
    else:
        losses = {"ce": hard_loss, "balanced_softmax": BalancedSoftmaxLoss(counts)}
        own = load_data(setting, cell, meta_in_train=in_train)  # the student's stream must stay at its beginning
        teacher = _train_teacher(cell, setting, own, losses[method.teacher], steps_of(setting, own, cell))
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in (path.with_suffix(".json"), *folder.glob(f"{path.stem}_views_*")):  # of the teacher before
        stale.unlink(missing_ok=True)
    with atomic_write(path) as unfinished:
        teacher.save(unfinished)
    results.save_row(protocol, setting.config())
    long_tailed.save_manifest(path.with_suffix(".json"), data)
    return teacher, counts


def stored_teacher(
    cell: Cell, method: Method, teacher: keras.Model, data: long_tailed.LongTailedData, folder: pathlib.Path
) -> long_tailed.PrecomputedTeacher:
    """Compute the logits of the teacher of a cell, or find them in the file next to it.

    Args:
        cell: The `Cell`.
        method: Its `Method`, with `teacher_views`.
        teacher: What `teacher_of` returned.
        data: The images of the student.
        folder: Where teachers are kept.
    """
    path = _path(cell, method, folder)
    path = path.with_name(f"{path.stem}_views_{method.teacher_views}.npy")
    return long_tailed.precompute_teacher(teacher, data, path, views=method.teacher_views or 1)


def _path(cell: Cell, method: Method, folder: pathlib.Path) -> pathlib.Path:
    options = f"{'_meta' if method.meta_in_train else ''}_{cell.seed}{'_quick' if cell.quick else ''}"
    return folder / f"teacher_{method.teacher}{options}.keras"


def _train_teacher(
    cell: Cell, setting: Setting, data: long_tailed.LongTailedData, loss: Any, steps: int
) -> keras.Model:
    keras.utils.set_random_seed(cell.seed + 500)
    teacher = network(setting.teacher, data)
    teacher.compile(sgd(setting.learning_rate, steps), loss)
    teacher.fit(data.train.repeat(), shuffle=False, epochs=1, steps_per_epoch=steps, verbose=0)
    return teacher


def _train_experts(cell: Cell, setting: Setting, class_counts: list[int]) -> Experts:
    """Three experts on the images of their own classes, each with a third of the steps of one teacher."""
    groups = class_groups(class_counts)
    experts = []
    for group in groups:
        data = load_data(setting, cell)
        part = long_tailed.only_classes(data, group, setting.batch_size)
        steps = steps_of(setting, data, cell) // len(groups)
        experts.append(_train_teacher(cell, setting, part, hard_loss, steps))
    return Experts(experts, groups)
