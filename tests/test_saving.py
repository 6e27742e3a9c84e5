"""What files hold: the teacher or a reference to it, everything on a model that was never called, the student alone."""

import pathlib

import keras
import numpy as np
import pytest

import keras_bikd as bikd
import models


def trained(teacher, **kwargs):
    model = bikd.BiKDModel(models.perceptron(), teacher, bikd.MetaWeightNet((4,)), inner_steps=3)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), meta_optimizer=keras.optimizers.Adam(0.01), **kwargs)
    model.fit(*models.arrays(20), meta_data=models.arrays(20, seed=1), batch_size=4, shuffle=False, verbose=0)
    return model


def go_on(model):
    """Logs of one more epoch: what a state is good for."""
    train, meta = models.arrays(20, seed=2), models.arrays(20, seed=3)
    return model.fit(*train, meta_data=meta, batch_size=4, shuffle=False, verbose=0).history


@pytest.fixture
def teacher_file(tmp_path):
    models.perceptron(units=512).save(tmp_path / "teacher.keras")
    return tmp_path / "teacher.keras"


def test_a_reference_keeps_the_teacher_out_of_every_file(tmp_path, teacher_file):
    with_teacher = trained(keras.saving.load_model(teacher_file))
    models.reseed()
    model = trained(bikd.TeacherReference(teacher_file))
    sizes = {}
    for name, saved in (("whole", with_teacher), ("slim", model)):
        saved.save(tmp_path / f"{name}.keras")
        saved.save_weights(tmp_path / f"{name}.weights.h5")
        sizes[name] = [(tmp_path / f"{name}{end}").stat().st_size for end in (".keras", ".weights.h5")]
    assert all(whole - slim > 4 * 512 * 10 for whole, slim in zip(sizes["whole"], sizes["slim"]))
    loaded = keras.saving.load_model(tmp_path / "slim.keras")
    x, _ = models.arrays()
    teacher = keras.saving.load_model(teacher_file)
    ours, theirs = (net.predict(x, verbose=0) for net in (loaded.teacher, teacher))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)  # two programs, on JAX
    assert go_on(loaded) == go_on(model)


@pytest.mark.backend
def test_a_reference_trains_as_the_teacher_itself(teacher_file):
    results = []
    for teacher in (keras.saving.load_model(teacher_file), bikd.TeacherReference(teacher_file)):
        models.reseed()
        results.append(trained(teacher).student.get_weights())
    for a, b in zip(*results):
        # On JAX the two steps are compiled apart, and may differ in the last bit.
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_another_teacher_under_the_same_name_is_refused(tmp_path, teacher_file):
    trained(bikd.TeacherReference(teacher_file)).save(tmp_path / "slim.keras")
    models.perceptron(units=16).save(teacher_file)
    with pytest.raises(ValueError, match=r"is not the file that was meant: its SHA-256 is \w+, expected \w+"):
        keras.saving.load_model(tmp_path / "slim.keras")
    teacher_file.unlink()
    with pytest.raises(ValueError, match=r"path of a `\.keras` file"):
        keras.saving.load_model(tmp_path / "slim.keras")


@pytest.mark.parametrize("supported", [True, False])
def test_a_reference_tells_what_xla_cannot_compile(supported):
    teacher = models.perceptron(keras.layers.Dropout(0.5))
    teacher.layers[1].supports_jit = supported
    assert bikd.TeacherReference(teacher).supports_jit is supported


def test_a_reference_to_nothing():
    with pytest.raises(ValueError, match=r"teacher=3$"):
        bikd.TeacherReference(3)


def test_weights_are_restored_on_a_model_that_was_never_called(tmp_path):
    model = trained(models.perceptron())
    model.save_weights(tmp_path / "all.weights.h5")
    fresh = bikd.BiKDModel(models.perceptron(), models.perceptron(), bikd.MetaWeightNet((4,)), inner_steps=3)
    fresh.compile(keras.optimizers.SGD(0.1, momentum=0.9), meta_optimizer=keras.optimizers.Adam(0.01))
    fresh.load_weights(tmp_path / "all.weights.h5")
    assert go_on(fresh) == go_on(model)


def test_the_state_tree_holds_both_optimizers_and_restores_them():
    """What Orbax checkpoints are made of."""
    built = []
    for _ in range(2):
        keras.utils.clear_session()  # the tree goes by names, which a new process gives in the same way
        built.append(trained(models.perceptron()))
    model, other = built
    go_on(other)
    tree = model.get_state_tree(value_format="numpy_array")
    assert len(keras.tree.flatten(tree["optimizer_variables"])) == len(model.optimizer.variables)
    other.set_state_tree(tree)
    assert go_on(other) == go_on(model)


@pytest.mark.parametrize("damage", ["truncated", "emptied"])
def test_a_damaged_file_leaves_the_live_model_as_it_is(tmp_path, damage):
    model = trained(models.perceptron())
    path = tmp_path / "all.weights.h5"
    model.save_weights(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    before = [v.numpy() for v in [*model.variables, *model.optimizer.variables]]
    with pytest.raises(OSError, match=r"[Uu]nable to.*open file"):
        model.load_weights(path)
    for old, variable in zip(before, [*model.variables, *model.optimizer.variables]):
        np.testing.assert_array_equal(old, variable.numpy())


@pytest.mark.backend
@models.exports_saved_models
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_student_alone_is_exported(tmp_path):
    import tensorflow as tf

    model = trained(models.perceptron(units=512))
    x, _ = models.arrays(4)
    model.export(tmp_path / "saved_model", verbose=False)
    served = tf.saved_model.load(tmp_path / "saved_model")
    np.testing.assert_allclose(served.serve(x), model.student.predict(x, verbose=0), rtol=1e-5, atol=1e-6)
    variables = sum(path.stat().st_size for path in pathlib.Path(tmp_path / "saved_model" / "variables").iterdir())
    assert variables < 4 * 512 * 10


@models.tensorflow_only
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_exported_lite_model_gives_the_logits_of_the_student(tmp_path):
    import tensorflow as tf

    model, (x, _) = trained(models.perceptron()), models.arrays(1)
    model.export(tmp_path / "student.tflite", format="litert", verbose=False)
    lite = tf.lite.Interpreter(model_path=str(tmp_path / "student.tflite"))
    lite.allocate_tensors()
    lite.set_tensor(lite.get_input_details()[0]["index"], x)
    lite.invoke()
    logits = lite.get_tensor(lite.get_output_details()[0]["index"])
    np.testing.assert_allclose(logits, model.student.predict(x, verbose=0), rtol=1e-5, atol=1e-6)


class _Student(keras.callbacks.Callback):
    """Keeps the student's weights as they are after every batch."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.model.student.get_weights())


@pytest.mark.parametrize(
    ("when", "saved"), [({"monitor": "accuracy", "save_best_only": True}, 5), ({"save_freq": 4}, 3)]
)
def test_student_checkpoint_in_fit(tmp_path, when, saved):
    """It knows the metrics of the whole model, and holds the student as it is in the middle of an epoch."""
    model, record = models.compiled(compile_arguments={"metrics": ["accuracy"]}), _Student()
    checkpoint = bikd.callbacks.StudentCheckpoint(tmp_path / "student.keras", **when)
    arguments = {"meta_data": models.arrays(8), "batch_size": 4, "verbose": 0, "callbacks": [checkpoint, record]}
    model.fit(*models.arrays(24), **arguments)
    for a, b in zip(keras.saving.load_model(tmp_path / "student.keras").get_weights(), record.seen[saved]):
        np.testing.assert_array_equal(a, b)
