"""`OutgrowTeacher`: when the teacher is left out, and that it stays out."""

import keras
import numpy as np
import pytest

import keras_bikd as bikd
import models
from keras_bikd.callbacks import OutgrowTeacher

CLASSES = models.CLASSES
LABELS = np.arange(8) % CLASSES


def reads(columns):
    """A network whose logits are some of its inputs, times a weight that starts at one."""
    network = keras.Sequential([keras.Input((2 * CLASSES,)), keras.layers.Dense(CLASSES, use_bias=False)])
    network.set_weights([np.eye(2 * CLASSES)[:, columns]])
    return network


def votes(right):
    """Logits of eight samples, of which `right` are those of the labels."""
    ids = np.where(np.arange(8) < right, LABELS, (LABELS + 1) % CLASSES)
    return 2 * np.eye(CLASSES)[ids]


def samples(student_right, teacher_right, boost=0.0):
    """A meta set on which student and teacher are right on the first so many samples; `boost` favours class 0."""
    teacher = votes(teacher_right) + boost * np.eye(CLASSES)[0]
    return np.concatenate([votes(student_right), teacher], axis=1).astype("float32"), LABELS


def model(rate=0.0, meta_optimizer=None, **kwargs):
    """A student that does not move, by default, with a teacher."""
    student, teacher = reads(range(CLASSES)), reads(range(CLASSES, 2 * CLASSES))
    built = bikd.BiKDModel(student, teacher, bikd.MetaWeightNet((8,)), inner_steps=1, **kwargs)
    built.compile(keras.optimizers.SGD(rate), meta_optimizer=meta_optimizer, run_eagerly=models.EAGERLY)
    return built


def fit(model, judged, epochs=1, **kwargs):
    """Training on samples that both get right; the callback judges by others."""
    train, meta = samples(8, 8), samples(8, 8)
    callbacks = [OutgrowTeacher(judged, **kwargs)]
    return model.fit(*train, meta_data=meta, epochs=epochs, callbacks=callbacks, verbose=0).history


def soft_weights(model):
    return model.sample_weights([samples(8, 8)]).weights[:, 1]


@pytest.mark.parametrize(("student", "teacher", "better"), [(4, 0, False), (5, 0, True), (8, 4, False), (8, 3, True)])
def test_the_student_is_better_by_the_sign_test(student, teacher, better):
    """Four wins of four happen by chance in one of 16 cases, five of five in one of 32."""
    trained = model()
    assert fit(trained, samples(student, teacher))["teacher_left_out"] == [float(better)]
    assert (soft_weights(trained) < 1e-10).all() == better


def test_a_better_teacher_or_an_equal_one_changes_nothing():
    assert fit(model(), samples(0, 8))["teacher_left_out"] == [0.0]
    assert fit(model(), samples(8, 8))["teacher_left_out"] == [0.0]
    with_it, without = model(rate=0.1), model(rate=0.1)
    without.weight_net.set_weights(with_it.weight_net.get_weights())
    models.reseed()
    fit(with_it, samples(0, 8), epochs=2)
    models.reseed()
    without.fit(*samples(8, 8), meta_data=samples(8, 8), epochs=2, verbose=0)
    models.assert_same_state(with_it, without)


def test_significance_is_the_bound():
    assert fit(model(), samples(4, 0), significance=0.07)["teacher_left_out"] == [1.0]
    assert fit(model(), samples(5, 0), significance=0.03)["teacher_left_out"] == [0.0]


def test_the_teacher_is_judged_as_its_loss_sees_it():
    """A teacher that always says class 0 is right once the prior of class 0 is removed."""
    judged = samples(8, 8, boost=3.0)
    assert fit(model(), judged)["teacher_left_out"] == [1.0]
    assert fit(model(class_counts=[2000, 20, 20, 20]), judged)["teacher_left_out"] == [0.0]


def test_the_teacher_stays_out_under_momentum():
    trained = model(meta_optimizer=keras.optimizers.SGD(1.0, momentum=0.99))
    fit(trained, samples(8, 8), epochs=3)
    assert soft_weights(trained).min() > 1e-3
    fit(trained, samples(8, 0), epochs=5)
    assert soft_weights(trained).max() < 1e-10


def test_the_teacher_stays_out_when_a_saved_run_goes_on(tmp_path):
    trained = model()
    fit(trained, samples(8, 0))
    trained.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert fit(loaded, samples(8, 8))["teacher_left_out"] == [1.0]
    assert soft_weights(loaded).max() < 1e-10


def test_without_its_teacher_the_student_learns_from_the_weighted_labels_alone():
    """Its step is that of a `DistillationModel` under the learned weight of the hard loss."""
    teacher_first = model()
    fit(teacher_first, samples(8, 0))
    x, y = samples(3, 8)
    weight = teacher_first.sample_weights([(x, y)]).weights[:, 0]
    student, teacher = reads(range(CLASSES)), reads(range(CLASSES, 2 * CLASSES))
    plain = bikd.DistillationModel(student, teacher, bikd.objectives.CrossEntropy())
    plain.compile(keras.optimizers.SGD(0.5), run_eagerly=models.EAGERLY)
    plain.fit(x, y, sample_weight=weight, batch_size=8, verbose=0)
    later = model(rate=0.5, meta_optimizer=keras.optimizers.SGD(0.0))
    later.weight_net.set_weights(teacher_first.weight_net.get_weights())
    later.fit(x, y, meta_data=samples(8, 8), batch_size=8, verbose=0)
    np.testing.assert_allclose(later.student.get_weights()[0], student.get_weights()[0], atol=1e-6)


def test_stored_teacher_logits_judge_as_the_teacher_does():
    x, y = samples(8, 0)
    stored = {"labels": y, "teacher_logits": x[:, CLASSES:]}
    right = {"labels": y, "teacher_logits": votes(8).astype("float32")}
    built = bikd.BiKDModel(reads(range(CLASSES)), bikd.StoredTeacher(), bikd.MetaWeightNet((8,)))
    built.compile("sgd", run_eagerly=models.EAGERLY)
    batches, meta = [(x, right)], [(x, y)]
    for target, left_out in ((right, 0.0), (stored, 1.0)):
        callbacks = [OutgrowTeacher([(x, target)])]
        history = built.fit(batches, meta_data=meta, callbacks=callbacks, verbose=0).history
        assert history["teacher_left_out"] == [left_out]


def test_several_losses_of_the_teacher():
    losses = {
        "hard": bikd.objectives.CrossEntropy(),
        "warm": bikd.objectives.SoftTargets(temperature=2.0),
        "hot": bikd.objectives.SoftTargets(temperature=8.0),
    }
    student, teacher = reads(range(CLASSES)), reads(range(CLASSES, 2 * CLASSES))
    built = bikd.BiKDModel(student, teacher, candidate_losses=losses)
    built.compile("sgd", run_eagerly=models.EAGERLY)
    fit(built, samples(8, 0), losses=["warm", "hot"])
    weights = built.sample_weights([samples(8, 8)]).weights
    assert (weights[:, 0] > 1e-3).all()
    assert weights[:, 1:].max() < 1e-10


WRONG = {
    "a name": ({"losses": "soft"}, r"OutgrowTeacher\(losses=.*\['hard', 'soft'\].*as a list.*losses='soft'"),
    "unknown": ({"losses": ["warm"]}, r"\['hard', 'soft'\].*losses=\['warm'\]"),
    "none": ({"losses": []}, r"losses=\[\]"),
    "significance": ({"significance": 1.0}, r"OutgrowTeacher\(significance=.*significance=1.0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input(case):
    arguments, message = WRONG[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        fit(model(), samples(8, 8), **arguments)


def test_other_models_and_endless_data_are_refused():
    with pytest.raises(ValueError, match=r"takes the training of a `BiKDModel`\. Received: <DistillationModel"):
        models.distilled().fit(*models.arrays(8), callbacks=[OutgrowTeacher(models.arrays(8))], verbose=0)
    with pytest.raises(ValueError, match=r"OutgrowTeacher\(meta=.*never ends"):
        OutgrowTeacher(models.dataset(models.arrays(8)).repeat())
