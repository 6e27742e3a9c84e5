"""A student with a preprocessor, as keras-hub's classifiers have one, is given raw data as in its own `fit`."""

import keras
import numpy as np
import pytest

import keras_bikd as bikd
import models
from keras_bikd.objectives import ExpertsObjective, KnowledgeDistillation

KINDS = ("DistillationModel", "BiKDModel", "RWKDModel")
SCALE = 0.25
X, Y = models.arrays(24)
RAW = X / SCALE


@keras.saving.register_keras_serializable(package="tests")
class Classifier(keras.Model):
    """The protocol of `keras_hub.models.Task`: `preprocessor`, and `preprocess_samples` in front of every batch."""

    def __init__(self, scale=SCALE, classes=models.CLASSES, **kwargs):
        super().__init__(**kwargs)
        self.scale, self.classes = scale, classes
        self.preprocessor = scale and keras.layers.Rescaling(scale)
        self.dense = keras.layers.Dense(classes)
        self.dense.build((None, models.FEATURES))
        self.built = True

    def preprocess_samples(self, x, y=None, sample_weight=None):
        return keras.utils.pack_x_y_sample_weight(self.preprocessor(x), y, sample_weight)

    def call(self, inputs):
        return self.dense(inputs)

    def get_config(self):
        return {"scale": self.scale, "classes": self.classes}


def build(kind, scale, teacher_scale=None):
    """Of the same arguments the same model, as it was made."""
    return models.anew(traced, kind, scale, teacher_scale)


def traced(kind, scale, teacher_scale):
    own = [KnowledgeDistillation()] if kind == "DistillationModel" else []
    model = getattr(bikd, kind)(Classifier(scale), Classifier(teacher_scale), *own)
    model.compile(keras.optimizers.SGD(0.1), metrics=["accuracy"])
    return model


FORMS = {
    "arrays": lambda x: (x, Y, 4),
    "tf.data": lambda x: (models.dataset((x, Y)),),
    "PyDataset": lambda x: (models.Batches((x, Y)),),
    "list of batches": lambda x: ([(x[i : i + 4], Y[i : i + 4]) for i in range(0, 24, 4)],),
}


def assert_same_training(raw, prepared):
    assert raw.history.history.keys() == prepared.history.history.keys()
    for name, values in raw.history.history.items():
        np.testing.assert_allclose(values, prepared.history.history[name], rtol=1e-4, atol=1e-6, err_msg=name)
    for a, b in zip(raw.get_weights(), prepared.get_weights()):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("form", FORMS)
def test_raw_data_train_as_prepared_data_do(form, kind):
    ends = []
    for scale, x in ((SCALE, RAW), (None, X)):
        model = build(kind, scale)
        validation = FORMS[form](x)[:2] if form == "arrays" else FORMS[form](x)[0]
        meta = {} if kind == "DistillationModel" else {"meta_data": validation}
        model.fit(*FORMS[form](x), epochs=2, shuffle=False, verbose=0, validation_data=validation, **meta)
        ends.append(model)
    assert_same_training(*ends)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_split_of_raw_arrays(kind):
    ends = []
    for scale, x in ((SCALE, RAW), (None, X)):
        model = build(kind, scale)
        meta = {} if kind == "DistillationModel" else {"meta_data": (x, Y)}
        weights = np.linspace(0, 1, 24)
        model.fit(x, Y, 4, verbose=0, shuffle=False, validation_split=0.5, sample_weight=weights, **meta)
        ends.append(model)
    assert_same_training(*ends)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluate_predict_and_single_batches(kind):
    raw, prepared = build(kind, SCALE), build(kind, None)
    for form in (FORMS["arrays"], FORMS["tf.data"], FORMS["PyDataset"]):
        expected = prepared.evaluate(*form(X), verbose=0)
        np.testing.assert_allclose(raw.evaluate(*form(RAW), verbose=0), expected, rtol=1e-5)
        expected = prepared.predict(form(X)[0], verbose=0)
        np.testing.assert_allclose(raw.predict(form(RAW)[0], verbose=0), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(raw.predict_on_batch(RAW), prepared.predict_on_batch(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(raw.test_on_batch(RAW, Y), prepared.test_on_batch(X, Y), rtol=1e-5)
    batches = [(x, Y) if kind == "DistillationModel" else ((x, Y), (x, Y)) for x in (RAW, X)]
    np.testing.assert_allclose(raw.train_on_batch(*batches[0]), prepared.train_on_batch(*batches[1]), rtol=1e-4)


def test_sample_weights_hypergradients_and_callbacks(tmp_path):
    raw, prepared = build("BiKDModel", SCALE), build("BiKDModel", None)
    for a, b in zip(raw.sample_weights((RAW, Y)), prepared.sample_weights((X, Y))):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    pairs = [((x[:8], Y[:8]), (x[8:], Y[8:])) for x in (RAW, X)]
    np.testing.assert_allclose(raw.hypergradient(*pairs[0])[0], prepared.hypergradient(*pairs[1])[0], rtol=1e-5)
    for name, model, x in (("raw", raw, RAW), ("prepared", prepared, X)):
        watching = [
            bikd.callbacks.PerClassReport(tmp_path / name, (x, Y)),
            bikd.callbacks.WeightHistory(tmp_path / f"{name}.csv", [9, 7, 5, 3]),
        ]
        model.fit(x, Y, meta_data=(x, Y), shuffle=False, verbose=0, callbacks=watching)
    assert_same_training(raw, prepared)
    reports = [(tmp_path / name / "per_class_0001.csv").read_text() for name in ("raw", "prepared")]
    assert reports[0] == reports[1]


def test_experts_and_their_pace():
    ends = []
    for scale, x in ((SCALE, RAW), (None, X)):
        models.reseed()
        experts = bikd.Experts([Classifier(scale, 2), Classifier(scale, 2)], [[0, 1], [2, 3]])
        model = bikd.DistillationModel(Classifier(scale), experts, ExpertsObjective([9, 7, 5, 3], num_groups=2))
        model.compile("sgd", run_eagerly=models.EAGERLY)
        model.fit(x, Y, verbose=0, shuffle=False, callbacks=[bikd.callbacks.ExpertPacing((x, Y), (x, Y))])
        ends.append(model)
    assert_same_training(*ends)


@pytest.mark.parametrize(("student", "teacher"), [(SCALE, 1.0), (None, SCALE)])
@pytest.mark.parametrize("form", ["model", "path", "experts"])
def test_a_teacher_with_another_preprocessor_is_refused(form, student, teacher, tmp_path):
    own = {"model": Classifier(teacher)}
    own["path"] = tmp_path / "teacher.keras"
    own["model"].save(own["path"])
    own["experts"] = bikd.Experts([Classifier(teacher, 2), Classifier(teacher, 2)], [[0, 1], [2, 3]])
    model = bikd.DistillationModel(Classifier(student), own[form], KnowledgeDistillation())
    model.compile("sgd")
    with pytest.raises(ValueError, match=r"teacher has a preprocessor.*`teacher.preprocessor = None`.*Received: "):
        model.fit(RAW, Y, verbose=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_with_the_same_preprocessor(kind, tmp_path):
    model, twin = build(kind, SCALE, SCALE), build(kind, SCALE)
    for trained in (model, twin):
        meta = {} if kind == "DistillationModel" else {"meta_data": (RAW, Y)}
        trained.fit(RAW, Y, verbose=0, shuffle=False, **meta)
    assert_same_training(model, twin)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(RAW, verbose=0), model.predict(RAW, verbose=0), rtol=1e-6)


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d"]
TEXTS = ["a b", "b c", "c d", "d a"] * 6


def text_classifier(preprocessor=True, words=WORDS):
    hub = pytest.importorskip("keras_hub").models
    prepare = hub.BertTextClassifierPreprocessor(hub.BertTokenizer(vocabulary=words), sequence_length=6)
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 8, "max_sequence_length": 6}
    backbone = hub.BertBackbone(vocabulary_size=len(words), **sizes)
    return hub.BertTextClassifier(backbone, num_classes=4, preprocessor=prepare if preprocessor else None)


def image_classifier(preprocessor=True):
    hub = pytest.importorskip("keras_hub")
    prepare = hub.models.ResNetImageClassifierPreprocessor(
        hub.layers.ResNetImageConverter(image_size=(8, 8), scale=1 / 255, interpolation="nearest")
    )
    backbone = hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64],
        stackwise_num_blocks=[1],
        stackwise_num_strides=[1],
        block_type="basic_block",
        image_shape=(8, 8, 3),
    )
    return hub.models.ResNetImageClassifier(backbone, 4, preprocessor=prepare if preprocessor else None)


IMAGES = np.random.default_rng(0).integers(0, 255, (24, 12, 12, 3)).astype("uint8")
HUB = {
    "strings": (text_classifier, TEXTS),
    "an array of strings": (text_classifier, np.array(TEXTS)),
    "images": (image_classifier, IMAGES),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", HUB)
def test_classifiers_of_keras_hub(name, kind):
    net, raw = HUB[name]
    student, teacher = net(), net(preprocessor=False)
    own = [KnowledgeDistillation()] if kind == "DistillationModel" else []
    model = getattr(bikd, kind)(student, teacher, *own)
    model.compile("sgd", metrics=["accuracy"], run_eagerly=models.EAGERLY)
    meta = {} if kind == "DistillationModel" else {"meta_data": (raw, Y)}
    model.fit(raw, Y, 8, verbose=0, validation_split=0.5, **meta)
    given = raw.astype(object) if name == "an array of strings" else raw
    np.testing.assert_allclose(model.predict(raw, verbose=0), student.predict(given, verbose=0), rtol=1e-4, atol=1e-5)
    accuracy = (student.predict(given, verbose=0).argmax(axis=-1) == Y).mean()
    np.testing.assert_allclose(model.evaluate(raw, Y, verbose=0, return_dict=True)["accuracy"], accuracy, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_another_vocabulary_is_another_preprocessor():
    model = bikd.DistillationModel(
        text_classifier(), text_classifier(words=[*WORDS[:-2], "d", "c"]), KnowledgeDistillation()
    )
    model.compile("sgd")
    with pytest.raises(ValueError, match="another one"):
        model.fit(TEXTS, Y, verbose=0)
