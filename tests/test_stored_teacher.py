"""Logits of a teacher in the place of the teacher: in the target of a batch, and computed once in a file."""

import dataclasses
import functools
import json
import sys

import keras
import numpy as np
import pytest

import keras_bikd as bikd
import models
from keras_bikd.batches.grain_data import IndexedBatches
from keras_bikd.data import Arrays, gaussian_noise, grain_pipeline, pad_crop_flip, precompute_teacher

pytestmark = [
    pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning"),  # Keras, where the length is unknown
    pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning"),  # torch, of its own arrays
]

BATCH, COUNTS = 8, [24, 11, 5, 2]
META = models.learnable(12, seed=5)
GROUPS = bikd.long_tail.class_groups(COUNTS, num_groups=2)


@pytest.fixture(autouse=True)
def quiet():
    keras.config.disable_interactive_logging()
    yield
    keras.config.enable_interactive_logging()


def load(augment=None, seed=0, scale=1.0, **kwargs):
    x, y = models.arrays(160)
    with pytest.MonkeyPatch.context() as patch:
        if not dataclasses.is_dataclass(augment):  # a user's function may take NumPy arrays alone
            patch.setattr("keras_bikd.data.loader._pipeline", lambda: grain_pipeline)
        return bikd.data.load(Arrays(scale * x, y), 10, meta_size=8, test_size=40, augment=augment, seed=seed, **kwargs)


def teacher(seed=1, **kwargs):
    keras.utils.set_random_seed(seed)
    return models.perceptron(**kwargs)


def experts():
    keras.utils.set_random_seed(2)
    return bikd.Experts([models.perceptron(classes=len(group)) for group in GROUPS], GROUPS)


class Raising(keras.Model):
    """A teacher that must not run."""

    def __init__(self):
        super().__init__()
        self.built = True

    def call(self, inputs, training=None):
        raise AssertionError("the teacher ran")


def shifted(images, seed):
    """A user's own augmentation."""
    return images + np.float32(0.1) * (np.asarray(seed)[1] % 7)


def bikd_model(net, **kwargs):
    models.reseed()
    return models.compiled(teacher=net, inner_steps=2, **kwargs)


def distilled(net, objective=None):
    models.reseed()
    student = models.perceptron()
    model = bikd.DistillationModel(student, net, objective or bikd.objectives.KnowledgeDistillation(temperature=4.0))
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=models.EAGERLY, metrics=["accuracy"])
    return model


def rwkd(net):
    models.reseed()
    model = bikd.RWKDModel(models.perceptron(), net)
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=models.EAGERLY)
    return model


def lfme(net):
    return distilled(net, bikd.objectives.ExpertsObjective(COUNTS, num_groups=2))


def target(net, data):
    """Arrays with the teacher's logits."""
    x, y = data
    return x, {"labels": y, "teacher_logits": net.predict(x, verbose=0)}


def labels_alone(batches):
    return batches.map(lambda batch: (batch[0], batch[1]["labels"]))


def assert_weights(model, other, rtol=1e-6):
    for ours, theirs in zip(model.student.get_weights(), other.student.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=1e-7)


KINDS = {
    "BiKD": (bikd_model, teacher, False, META),
    "BiKD, mixed": (lambda net: bikd_model(net, meta_loss="mixed"), teacher, True, META),
    "KD": (distilled, teacher, False, None),
    "RW-KD": (rwkd, teacher, False, META),
    "LFME": (lfme, experts, False, None),
}


@pytest.mark.parametrize(
    ("kind", "place"), [*((kind, "stored") for kind in KINDS), ("BiKD, mixed", "raising"), ("KD", "raising")]
)
def test_stored_logits_train_as_the_teacher_itself(kind, place, tmp_path):
    build, make, meta_needs_logits, meta = KINDS[kind]
    net = make()
    stored = precompute_teacher(net, load(), tmp_path / "teacher.npy", dtype="float32", batch_size=16)
    live, replaced = build(net), build(stored.teacher if place == "stored" else Raising())
    kwargs, callbacks = [{}, {}], [[], []]
    if meta is not None:
        kwargs = [{"meta_data": meta}, {"meta_data": target(net, meta) if meta_needs_logits else meta}]
    if kind == "LFME" and place == "stored":
        callbacks = [
            [bikd.callbacks.ExpertPacing(labels_alone(stored.batches(BATCH)), META)],
            [bikd.callbacks.ExpertPacing(stored.batches(BATCH), target(net, META))],
        ]
    batches = stored.batches(BATCH)
    for model, data, given, own in zip((live, replaced), (labels_alone(batches), batches), kwargs, callbacks):
        batches.position.assign(0)
        keras.utils.set_random_seed(3)
        model.fit(data, epochs=2, verbose=0, callbacks=own, validation_data=META, **given)
    assert_weights(replaced, live)
    assert live.history.history.keys() == replaced.history.history.keys()
    for name, values in live.history.history.items():
        np.testing.assert_allclose(replaced.history.history[name], values, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("sampling", ["instance", "class_balanced"])
@pytest.mark.parametrize("augment", [gaussian_noise(0.5), shifted], ids=["own", "of a user"])
def test_the_student_sees_what_the_teacher_saw(augment, sampling, tmp_path):
    net = teacher()
    data = load(augment, cut=bikd.data.LongTailCut(sampling=sampling))
    stored = precompute_teacher(net, data, tmp_path / "teacher.npy", views=3, dtype="float32", batch_size=16)
    assert stored.logits.shape == (3, data.class_counts.sum(), 4)
    batches, passes = stored.batches(BATCH), []
    for _ in range(4):
        images, targets = zip(*batches)
        known = np.concatenate([own["teacher_logits"] for own in targets])
        np.testing.assert_allclose(known, net.predict(np.concatenate(images), verbose=0), rtol=1e-5, atol=1e-6)
        passes.append([image.tobytes() for image in np.concatenate(images)])
        labels = np.concatenate([own["labels"] for own in targets])
    assert passes[0] != passes[3]  # another order
    if sampling == "instance":
        assert sorted(passes[0]) == sorted(passes[3])  # the first view again
        assert not set(passes[0]) & set(passes[1])
        np.testing.assert_array_equal(np.bincount(labels), data.class_counts)


def test_batches_resume_at_any_position(tmp_path):
    stored = precompute_teacher(teacher(), load(gaussian_noise(0.5)), tmp_path / "teacher.npy", views=2, batch_size=64)
    stream, position = bikd.data.resumable(stored.batches(BATCH))
    expected = [own["teacher_logits"] for _, (_, own) in zip(range(20), stream)]
    position.assign(15)
    again = [own["teacher_logits"] for _, (_, own) in zip(range(5), stream)]
    for ours, theirs in zip(again, expected[15:], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_killed_run_resumes(tmp_path, monkeypatch):
    data, net = load(gaussian_noise(0.5)), teacher()
    whole = precompute_teacher(net, data, tmp_path / "whole.npy", views=3, batch_size=16)
    predict, calls = net.predict_on_batch, []

    def predict_some(images):
        calls.append(len(images))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return predict(images)

    monkeypatch.setattr(net, "predict_on_batch", predict_some)
    with pytest.raises(KeyboardInterrupt):
        precompute_teacher(net, data, tmp_path / "killed.npy", views=3, batch_size=16)
    assert json.loads((tmp_path / "killed.npy.json").read_text())["views_done"] == 32
    resumed = precompute_teacher(net, data, tmp_path / "killed.npy", views=3, batch_size=16)
    assert (tmp_path / "killed.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert resumed.header == whole.header
    assert sum(calls[4:]) == np.prod(whole.header["shape"][:2]) - 32

    del calls[4:]
    precompute_teacher(net, data, tmp_path / "killed.npy", views=3)  # is there already
    assert len(calls) == 4


STALE = {
    "split": (lambda: ((teacher(), load(gaussian_noise(0.5), seed=1)), {}), ["split_ids_sha256: ", "seed: 0 there, 1"]),
    "images": (lambda: ((teacher(), load(gaussian_noise(0.5), scale=2.0)), {}), ["images_sha256: "]),
    "weights": (lambda: ((teacher(seed=9), load(gaussian_noise(0.5))), {}), ["teacher_sha256: "]),
    "augmentation": (lambda: ((teacher(), load(gaussian_noise(0.6))), {}), ["'stddev': 0.5", "'stddev': 0.6"]),
    "of a user": (
        lambda: ((teacher(), load(shifted)), {}),
        ["augmentation: .*'stddev': 0.5.* there, 'shifted [0-9a-f]+"],
    ),
    "views": (lambda: ((teacher(), load(gaussian_noise(0.5))), {"views": 3}), ["views: 2 there, 3 here"]),
    "dtype": (lambda: ((teacher(), load(gaussian_noise(0.5))), {"dtype": "float32"}), ["dtype: 'float16' there"]),
}


@pytest.mark.parametrize("name", STALE)
def test_a_stale_file_is_an_error_that_says_what_differs(name, tmp_path):
    path = tmp_path / "teacher.npy"
    precompute_teacher(teacher(), load(gaussian_noise(0.5)), path, views=2)
    before = path.read_bytes()
    build, messages = STALE[name]
    (net, data), kwargs = build()
    with pytest.raises(ValueError, match=r"Delete the file, or pass another path\.") as raised:
        precompute_teacher(net, data, path, **{"views": 2, **kwargs})
    for message in messages:
        assert raised.match(message)
    if name == "views":
        assert str(raised.value).count(" there, ") == 1
    assert path.read_bytes() == before


def test_a_teacher_is_known_by_what_it_computes(tmp_path):
    """Not by the names of its layers or by whether it is frozen; also when it comes from a file."""
    path, data = tmp_path / "teacher.npy", load()
    net = teacher()
    stored = precompute_teacher(net, data, path)
    twin = teacher()
    assert twin.layers[0].name != net.layers[0].name
    twin.trainable = False
    twin.save(tmp_path / "teacher.keras")
    for same in (twin, tmp_path / "teacher.keras", str(tmp_path / "teacher.keras")):
        assert precompute_teacher(same, data, path).header == stored.header
    other = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(4)]
    )  # the same weights, another activation
    other.set_weights(net.get_weights())
    with pytest.raises(ValueError, match="teacher_sha256"):
        precompute_teacher(other, data, path)


def two_outputs():
    inputs = keras.Input((6,))
    return keras.Model(inputs, [keras.layers.Dense(4)(inputs), keras.layers.Dense(4)(inputs)])


REFUSED = {
    "softmax": (lambda: (keras.Sequential([teacher(), keras.layers.Softmax()]), load()), {}, "are probabilities"),
    "two outputs": (
        lambda: (two_outputs(), load()),
        {},
        r"one tensor of logits.*\(8, 4\).*keras.Model\(teacher.inputs, teacher.outputs\[0\]\)",
    ),
    "data": (lambda: (teacher(), META), {}, r"data=.*takes what `keras_bikd.data.load` returns.*Received: tuple"),
    "teacher": (lambda: (3, load()), {}, r"teacher=.*Received: teacher=3"),
    "views": (lambda: (teacher(), load()), {"views": 0}, r"views=0"),
    "dtype": (lambda: (teacher(), load()), {"dtype": "int8"}, r"takes one of 'float16', 'float32'.*int8"),
    "drawn": (
        lambda: (teacher(), load(cut=bikd.data.LongTailCut(meta_in_train=0.5))),
        {},
        r"Received: meta_in_train=0\.5",
    ),
    "lambda": (lambda: (teacher(), load(lambda images, seed: images)), {}, "top level of a module.*lambda"),
    "random": (
        lambda: (teacher(), load(lambda images, seed: images + np.random.normal())),
        {},
        "must be a function of images and seed",
    ),
    "object": (lambda: (teacher(), load(functools.partial(shifted))), {}, "must describe the augmentation.*partial"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_a_file_is_written(name, tmp_path):
    build, kwargs, message = REFUSED[name]
    net, data = build()
    with pytest.raises(ValueError, match=f"(?s){message}"):
        precompute_teacher(net, data, tmp_path / "teacher.npy", **kwargs)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("bias", "message"), [(7e4, r'too large for float16.*dtype="float32".*size 7\d{4}'), (np.nan, "must be finite")]
)
def test_logits_that_do_not_fit(bias, message, tmp_path):
    net = teacher()
    net.layers[-1].bias.assign([0.0, bias, 0.0, 0.0])
    with pytest.raises(ValueError, match=message):
        precompute_teacher(net, load(), tmp_path / "teacher.npy")


def test_a_teacher_with_a_preprocessor_is_refused(tmp_path):
    net = teacher()
    net.preprocessor = keras.layers.Rescaling(2.0)
    net.preprocess_samples = lambda x, y=None, sample_weight=None: (net.preprocessor(x), y)
    with pytest.raises(ValueError, match=r"without a preprocessor of its own.*preprocessor = None"):
        precompute_teacher(net, load(), tmp_path / "teacher.npy")


def test_a_file_without_a_header_is_left_alone(tmp_path):
    (tmp_path / "teacher.npy").write_text("mine")
    with pytest.raises(ValueError, match="without a header"):
        precompute_teacher(teacher(), load(), tmp_path / "teacher.npy")
    assert (tmp_path / "teacher.npy").read_text() == "mine"


def test_without_grain(monkeypatch, tmp_path):
    data = load(gaussian_noise(0.5))
    monkeypatch.delattr(bikd.data, "grain_pipeline")
    monkeypatch.delitem(sys.modules, "keras_bikd.data.grain_pipeline")
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(ImportError, match=r"keras_bikd\[grain\]"):
        precompute_teacher(teacher(), data, tmp_path / "teacher.npy")


def test_the_header_is_readable(tmp_path):
    x, y = np.zeros((40, 8, 8, 1), "uint8"), np.arange(40) % 4
    augment = pad_crop_flip(2, flip=False)
    data = bikd.data.load(Arrays(x, y), None, meta_size=8, test_size=8, augment=augment)
    net = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(4)])
    header = precompute_teacher(net, data, tmp_path / "teacher.npy", views=2).header
    assert json.loads((tmp_path / "teacher.npy.json").read_text()) == header
    assert header["augmentation"] == {"call": "keras_bikd._PadCropFlip", "arguments": {"padding": 2, "flip": False}}
    assert (header["shape"], header["views_done"]) == ([2, 24, 4], 48)
    assert dataclasses.asdict(augment) == {"padding": 2, "flip": False}


# Logits in the target, from anywhere.

TRAIN = models.arrays(24)


@pytest.mark.backend
@pytest.mark.parametrize("build", [bikd_model, distilled], ids=["BiKD", "KD"])
@pytest.mark.parametrize("form", ["arrays", "tf.data", "PyDataset", "list"])
def test_targets_with_logits(build, form):
    live, model = (models.anew(taught_by, build, make) for make in (teacher, bikd.StoredTeacher))
    x, y = target(live.teacher, TRAIN)
    parts = [(x[i : i + 4], {name: part[i : i + 4] for name, part in y.items()}) for i in range(0, 24, 4)]
    kwargs = {"meta_data": META} if build is bikd_model else {}
    weights = {0: 3.0, 2: 0.5}
    options = {"verbose": 0, "class_weight": weights, "shuffle": False, **kwargs}
    keras.utils.set_random_seed(3)
    live.fit(*TRAIN, batch_size=4, **options)
    keras.utils.set_random_seed(3)
    if form == "arrays":
        model.fit(x, y, batch_size=4, **options)
    else:
        model.fit({"tf.data": models.dataset((x, y)), "PyDataset": Parts(parts), "list": parts}[form], **options)
    if build is distilled or form == "arrays":
        assert_weights(model, live)  # else the meta batches are drawn in another order
    np.testing.assert_allclose(
        model.evaluate(x, y, verbose=0, return_dict=True)["loss"],
        model.evaluate(*TRAIN, verbose=0, return_dict=True)["loss"],
    )
    wrong = {**y, "labels": np.append(TRAIN[1][:-1], 4)}
    last = (x[20:], {name: part[20:] for name, part in wrong.items()})
    data = {
        "arrays": (x, wrong),
        "tf.data": (models.dataset((x, wrong)),),
        "PyDataset": (Parts([*parts, last]),),
        "list": ([*parts, last],),
    }
    with pytest.raises(Exception, match=r"The training labels must lie in 0\.\.3"):
        model.fit(*data[form], verbose=0, **kwargs)


def taught_by(build, make):
    return build(make())


class Parts(keras.utils.PyDataset):
    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def __len__(self):
        return len(self.parts)

    def __getitem__(self, index):
        return self.parts[index]


@pytest.mark.parametrize("build", [bikd_model, distilled], ids=["BiKD", "KD"])
def test_validation_split(build):
    x, y = target(teacher(), TRAIN)
    kwargs = {"meta_data": META} if build is bikd_model else {}
    history = build(bikd.StoredTeacher()).fit(x, y, validation_split=0.25, verbose=0, **kwargs).history
    assert "val_loss" in history


def no_logits(model, **kwargs):
    return model.fit(*TRAIN, verbose=0, **kwargs)


def with_logits(model, logits, **kwargs):
    return model.fit(TRAIN[0], {"labels": TRAIN[1], "teacher_logits": logits}, verbose=0, **kwargs)


MIXED = {"meta_loss": "mixed"}
LOGITS = np.random.default_rng(0).normal(size=(24, 4))
BAD = {
    "none, BiKD": (lambda: no_logits(bikd_model(bikd.StoredTeacher()), meta_data=META), "came without the logits"),
    "none, KD": (lambda: no_logits(distilled(bikd.StoredTeacher())), "came without the logits"),
    "none in the meta set": (
        lambda: with_logits(bikd_model(bikd.StoredTeacher(), **MIXED), LOGITS, meta_data=META),
        "came without the logits",
    ),
    "columns": (
        lambda: with_logits(distilled(bikd.StoredTeacher()), LOGITS[:, :3]),
        "`teacher_logits` with 3 outputs and a student with 4",
    ),
    "columns of the meta set": (
        lambda: with_logits(
            bikd_model(bikd.StoredTeacher(), **MIXED),
            LOGITS,
            meta_data=(META[0], {"labels": META[1], "teacher_logits": LOGITS[:12, :3]}),
        ),
        "`teacher_logits` with 3 outputs and a student with 4",
    ),
    "NaN": (lambda: with_logits(distilled(bikd.StoredTeacher()), LOGITS * np.nan), "finite.*96 of 96"),
    "probabilities": (
        lambda: with_logits(distilled(bikd.StoredTeacher()), np.full((24, 4), 0.25)),
        "its outputs are probabilities",
    ),
    "names": (
        lambda: distilled(bikd.StoredTeacher()).fit(TRAIN[0], {"y": TRAIN[1], "logits": LOGITS}, verbose=0),
        r"keys \['logits', 'y'\]",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_logits_that_are_missing_or_wrong(name):
    run, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        run()


def test_sample_weights_and_the_weight_map():
    net = teacher()
    x, y = target(net, TRAIN)
    live, model = bikd_model(net), bikd_model(bikd.StoredTeacher())
    for ours, theirs in zip(model.sample_weights([(x, y)]), live.sample_weights([TRAIN]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("build", [bikd_model, distilled, rwkd])
def test_save_and_load(build, tmp_path):
    x, y = target(teacher(), TRAIN)
    kwargs = {} if build is distilled else {"meta_data": META}
    model = build(bikd.StoredTeacher(tmp_path / "teacher.npy", sha256="ab12"))
    model.fit(x, y, verbose=0, **kwargs)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert (loaded.teacher.file, loaded.teacher.sha256) == (str(tmp_path / "teacher.npy"), "ab12")
    assert loaded.teacher.count_params() == 0
    np.testing.assert_allclose(loaded.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-6)
    loaded.fit(x, y, verbose=0, **kwargs)


def test_the_batches_are_indexed(tmp_path):
    stored = precompute_teacher(teacher(), load(), tmp_path / "teacher.npy")
    assert isinstance(stored.batches(BATCH), IndexedBatches)
    assert stored.header["views"] == 1  # without augmentation all would be the same
