"""Teachers of a comparison: each is trained once, on the images that its students see, and kept."""

import os

import keras

from keras_bikd import data as long_tailed
from keras_bikd import results
from keras_bikd.comparison.setting import load_data, network, sgd, steps_of
from keras_bikd.long_tail import class_groups
from keras_bikd.losses import BalancedSoftmaxLoss, hard_loss
from keras_bikd.models.experts import Experts


def teacher_of(cell, setting, method, data, folder):
    """The teacher for a cell, trained once and kept, and its class counts. It sees the images that its students see."""
    in_train = bool(method.meta_in_train)
    if method.meta_in_train != in_train:  # the student draws more of the meta images
        data = load_data(setting, cell, meta_in_train=in_train)
    counts = data.class_counts.tolist()
    name = f"teacher_{method.teacher}{'_meta' if in_train else ''}_{cell.seed}{'_quick' if cell.quick else ''}"
    path = folder / f"{name}.keras"
    protocol = path.with_suffix(".setting.json")
    if path.with_suffix(".json").exists() and results.load_row(protocol) == setting.config():  # written last
        long_tailed.check_manifest(path.with_suffix(".json"), data)
        return keras.saving.load_model(path), counts
    if method.teacher == "experts":
        teacher = _train_experts(cell, setting, counts)
    else:
        losses = {"ce": hard_loss, "balanced_softmax": BalancedSoftmaxLoss(counts)}
        own = load_data(setting, cell, meta_in_train=in_train)  # nobody may have drawn from the student's own stream
        teacher = _train_teacher(cell, setting, own, losses[method.teacher], steps_of(setting, own, cell))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)  # it would vouch for another teacher
    unfinished = path.with_name(f"unfinished_{os.getpid()}_{path.name}")
    teacher.save(unfinished)
    os.replace(unfinished, path)
    results.save_row(protocol, setting.config())
    long_tailed.save_manifest(path.with_suffix(".json"), data)
    return teacher, counts


def _train_teacher(cell, setting, data, loss, steps):
    keras.utils.set_random_seed(cell.seed + 500)
    teacher = network(setting.teacher, setting.teacher_widths, data)
    teacher.compile(sgd(setting.learning_rate, steps), loss)
    teacher.fit(data.train.repeat(), shuffle=False, epochs=1, steps_per_epoch=steps, verbose=0)
    return teacher


def _train_experts(cell, setting, class_counts):
    """Three experts on the images of their own classes, each with a third of the steps of one teacher."""
    groups = class_groups(class_counts)
    experts = []
    for group in groups:
        data = load_data(setting, cell)
        part = long_tailed.only_classes(data, group, setting.batch_size)
        steps = steps_of(setting, data, cell) // len(groups)
        experts.append(_train_teacher(cell, setting, part, hard_loss, steps))
    return Experts(experts, groups)
