"""Every kind of data that `keras.Model.fit` takes, in the same batches: the same weights, the same errors."""

import functools

import keras
import numpy as np
import pytest

import keras_bikd as bikd
import models
from keras_bikd.batches.adapters import batches

pytestmark = [
    pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning"),  # Keras, where the length is unknown
    pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning"),  # torch, of its own arrays
]

TRAIN, META = models.arrays(24), models.arrays(24, seed=1)
BATCH = 4


def in_batches(data, size=BATCH):
    x, y = data
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(y), size)]


def frames(data):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame(data[0]), pandas.Series(data[1])


def tensors(data):
    return keras.ops.convert_to_tensor(data[0]), keras.ops.convert_to_tensor(data[1])


def loader(data):
    torch = pytest.importorskip("torch")
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*map(torch.tensor, data)), batch_size=BATCH)


def grain_map(data):
    grain = pytest.importorskip("grain")
    return grain.MapDataset.source(list(zip(*data))).batch(BATCH)


ARRAYS = {
    "arrays": lambda data: data,
    "labels in a list": lambda data: (data[0], data[1].tolist()),
    "float64": lambda data: (data[0].astype("float64"), data[1].astype("float64")),
    "pandas": frames,
    "tensors": tensors,
}
DATA_SETS = {
    "tf.data": models.dataset,
    "PyDataset": models.Batches,
    "PyDataset with workers": lambda data: models.Batches(data, workers=2),
    "DataLoader": loader,
    "grain.MapDataset": grain_map,
    "grain.IterDataset": lambda data: grain_map(data).to_iter_dataset(),
    "generator": lambda data: (batch for batch in in_batches(data)),
    "list of batches": in_batches,
}
KINDS = {**ARRAYS, **DATA_SETS}
UNKNOWN_LENGTH = (
    "generator",
    "grain.MapDataset",
    "grain.IterDataset",
)  # so the meta set is shuffled


def fit(model, kind, train=TRAIN, **kwargs):
    data = KINDS[kind](train)
    if kind in ARRAYS:
        return model.fit(*data, batch_size=BATCH, shuffle=False, verbose=0, **kwargs)
    if "meta_data" in kwargs:
        kwargs["meta_data"] = in_batches(META)
    return model.fit(data, shuffle=False, verbose=0, **kwargs)


def bikd_model(kind="arrays", **nets):
    """Without `nets` the same model, as it was made."""
    models.reseed()
    return models.compiled(inner_steps=4, **nets) if nets else models.anew(traced_bikd_model, kind == "pandas")


def distilled(kind="arrays", **nets):
    """Without `nets` the same model, as it was made."""
    models.reseed()
    return models.distilled(**nets) if nets else models.anew(traced_distilled, kind == "pandas")


# Labels in a column have a model of their own: TensorFlow traces again for labels of any rank, and Keras stops.
def traced_bikd_model(are_labels_a_column):
    return models.compiled(inner_steps=4, compile_arguments=models.GRAPH)


def traced_distilled(are_labels_a_column):
    return models.distilled(compile_arguments=models.GRAPH)


@pytest.fixture(scope="module")
def expected():
    model = bikd_model()
    fit(model, "arrays", meta_data=META)
    plain = distilled()
    fit(plain, "arrays")
    return {"BiKD": model.get_weights(), "KD": plain.get_weights()}


CLASS_WEIGHTS = np.array([3.0, 1.0, 0.5, 0.0])


@functools.cache
def weighted_by_hand(build):
    model, guide = build(), {"meta_data": META} if build is bikd_model else {}
    model.fit(*TRAIN, sample_weight=CLASS_WEIGHTS[TRAIN[1]], batch_size=BATCH, shuffle=False, verbose=0, **guide)
    return model.get_weights()


def skip_lost_batches(kind):
    """With workers, plain Keras too loses the batches that it looks at first, on JAX and PyTorch."""
    if keras.backend.backend() != "tensorflow" and kind == "PyDataset with workers":
        pytest.skip("Keras loses the first batches")


def assert_weights(model, expected):
    for ours, theirs in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.backend
@pytest.mark.parametrize("kind", KINDS)
def test_training_data(kind, expected):
    model = bikd_model(kind)
    fit(model, kind, meta_data=META)
    assert int(model.optimizer.iterations) == 6
    if kind not in UNKNOWN_LENGTH:
        assert_weights(model, expected["BiKD"])


@pytest.mark.parametrize("kind", KINDS)
def test_meta_data_of_another_kind(kind, expected):
    # Here the labels of one batch are a column, and those of the other are not.
    model = models.anew(traced_bikd_model, "meta") if kind == "pandas" else bikd_model(kind)
    fit(model, "arrays", meta_data=KINDS[kind](META))
    if kind not in UNKNOWN_LENGTH:
        assert_weights(model, expected["BiKD"])


@pytest.mark.backend
@pytest.mark.parametrize("kind", KINDS)
def test_distillation_model(kind, expected):
    skip_lost_batches(kind)
    model = distilled(kind)
    fit(model, kind)
    assert_weights(model, expected["KD"])


@pytest.mark.parametrize("as_array", [False, True])
@pytest.mark.parametrize("kind", ["arrays", *DATA_SETS])
def test_class_weight(kind, as_array):
    """Sample weights by label, in a dict or as scikit-learn's `compute_class_weight` gives them."""
    skip_lost_batches(kind)
    given = CLASS_WEIGHTS if as_array else dict(enumerate(CLASS_WEIGHTS.tolist()))
    for build, kwargs in ((bikd_model, {"meta_data": META}), (distilled, {})):
        by_hand, weighted = weighted_by_hand(build), build(kind)
        fit(weighted, kind, class_weight=given, **kwargs)
        if kind not in UNKNOWN_LENGTH or build is distilled:
            assert_weights(weighted, by_hand)


@pytest.mark.backend
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("build", [bikd_model, distilled])
def test_labels_out_of_range_in_any_batch(kind, build):
    """The last label, so that no look at the first batches finds it."""
    x, y = TRAIN
    wrong = np.append(y[:-1], 4)
    kwargs = {"meta_data": META} if build is bikd_model else {}
    with pytest.raises(Exception, match=r"The training labels must lie in 0\.\.3"):  # TensorFlow's, in a pipeline
        fit(build(kind), kind, (x, wrong), **kwargs)
    with pytest.raises(Exception, match=r"The validation labels must lie in 0\.\.3"):
        fit(build(kind), "arrays", validation_data=KINDS[kind]((x, wrong)), **kwargs)


def test_inputs_in_a_list():
    inputs = [keras.Input((3,)), keras.Input((3,))]
    student, teacher = (
        keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Concatenate()(inputs))) for _ in range(2)
    )
    x, y = TRAIN
    halves = [x[:, :3], x[:, 3:]]
    model = models.compiled(student, teacher)
    model.fit(halves, y, meta_data=(halves, y), batch_size=BATCH, verbose=0)
    assert int(model.optimizer.iterations) == 6


SPARSE = np.where(TRAIN[0] > 0, TRAIN[0], 0)


def sparse_tensors(data):
    return models.tf.sparse.from_dense(data[0]), data[1]


def csr(data):
    return pytest.importorskip("scipy.sparse").csr_matrix(data[0]), data[1]


@pytest.mark.parametrize("validation_split", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["DistillationModel", "BiKDModel"])
@pytest.mark.parametrize("form", [csr, sparse_tensors])
def test_sparse_arrays(form, kind, validation_split):
    """The weights are those of the same numbers in dense arrays."""
    ends = []
    for data in ((SPARSE, TRAIN[1]), form((SPARSE, TRAIN[1]))):
        model = distilled() if kind == "DistillationModel" else bikd_model()
        guide = {} if kind == "DistillationModel" else {"meta_data": data}
        model.fit(*data, BATCH, verbose=0, shuffle=False, validation_split=validation_split, **guide)
        ends.append(model.get_weights())
    for dense, sparse in zip(*ends):
        np.testing.assert_allclose(dense, sparse, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("build", [bikd_model, distilled])
def test_batches_of_sparse_matrices_in_lists(build):
    """A `PyDataset` may yield lists, and batches of SciPy, where Keras itself stops."""

    class Lists(models.Batches):
        def __getitem__(self, index):
            return list(csr(super().__getitem__(index)))

    ends = []
    for data in (models.Batches((SPARSE, TRAIN[1])), Lists((SPARSE, TRAIN[1]))):
        model = build()
        model.fit(data, verbose=0, shuffle=False, **({"meta_data": data} if build is bikd_model else {}))
        ends.append(model.get_weights())
    for dense, sparse in zip(*ends):
        np.testing.assert_allclose(dense, sparse, rtol=1e-5, atol=1e-6)


def sequence_net():
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(5, 4),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(4),
        ]
    )


@models.tensorflow_only
@pytest.mark.parametrize("kind", ["sparse", "ragged", "from arrays"])
@pytest.mark.parametrize("build", [bikd_model, distilled])
def test_pipelines_of_sparse_and_ragged_tensors(build, kind):
    ids = models.tf.ragged.constant([[j % 5 for j in range(1 + i % 7)] for i in range(24)], "int32")
    nets = (
        {"student": models.perceptron()} if kind == "sparse" else {"student": sequence_net(), "teacher": sequence_net()}
    )
    x = models.tf.sparse.from_dense(SPARSE) if kind == "sparse" else ids
    data = (x, TRAIN[1]) if kind == "from arrays" else (models.dataset((x, TRAIN[1])),)
    model = build(**nets)
    meta = data if kind == "from arrays" else data[0]
    model.fit(*data, verbose=0, **({"meta_data": meta} if build is bikd_model else {}))
    assert np.isfinite(model.history.history["loss"]).all()
    assert int(model.optimizer.iterations) == (1 if kind == "from arrays" else 6)


@models.tensorflow_only
@pytest.mark.parametrize("build", [bikd_model, distilled])
def test_images_of_any_size_and_windows_of_time(build, tmp_path):
    """What leaves axes open: images decoded without a size, batches of other sizes, windows of a series."""
    tf = models.tf
    for i in range(8):
        keras.utils.save_img(tmp_path / f"{i}.png", np.full((4, 4, 3), 20 * i), scale=False)
    names = tf.data.Dataset.from_tensor_slices(([str(tmp_path / f"{i}.png") for i in range(8)], np.arange(8) % 4))
    images = names.map(lambda name, y: (tf.cast(tf.io.decode_png(tf.io.read_file(name)), "float32"), y)).batch(4)
    sized = lambda *sizes: tf.data.Dataset.from_generator(
        lambda: ((np.ones((4, size, size, 3), "float32"), np.arange(4)) for size in sizes),
        output_signature=(tf.TensorSpec((None, None, None, 3)), tf.TensorSpec((None,), "int64")),
    )
    series = keras.utils.timeseries_dataset_from_array(
        np.zeros((12, 2), "float32"), np.arange(12) % 4, sequence_length=5, batch_size=4
    )
    pooled = lambda rank: keras.Sequential(
        [
            keras.Input((None,) * (rank - 2) + (2 if rank == 3 else 3,)),
            keras.layers.GlobalAveragePooling1D() if rank == 3 else keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4),
        ]
    )
    for train, meta, rank in ((images, images, 4), (sized(3, 5), sized(4), 4), (series, series, 3)):
        model = build(student=pooled(rank), teacher=pooled(rank))
        model.fit(train, verbose=0, shuffle=False, **({"meta_data": meta} if build is bikd_model else {}))
        assert int(model.optimizer.iterations) == 2


@models.tensorflow_only
@pytest.mark.parametrize("build", [models.compiled, models.distilled])
def test_class_weight_of_a_pipeline_without_shapes(build):
    tf = models.tf
    shapeless = models.dataset(TRAIN).map(lambda *batch: tf.py_function(lambda *b: b, batch, ("float32", "int64")))
    ends = []
    for data in (models.dataset(TRAIN), shapeless):
        models.reseed()
        model, guide = build(), {"meta_data": META} if build is models.compiled else {}
        model.fit(data, class_weight=CLASS_WEIGHTS, verbose=0, **guide)
        ends.append(model.get_weights())
    for known, open_ in zip(*ends):
        np.testing.assert_allclose(known, open_, rtol=1e-6)


@models.tensorflow_only
def test_strings():
    vectorize = keras.layers.TextVectorization(output_mode="count", vocabulary=["a", "b", "c", "d"])

    def net():
        return keras.Sequential([keras.Input((1,), dtype="string"), vectorize, keras.layers.Dense(4)])

    data = models.dataset((np.array([["a b"], ["b c"], ["c d"], ["d a"]] * 6), np.arange(24) % 4))
    model = models.compiled(net(), net())
    model.fit(data, meta_data=data, verbose=0)
    assert int(model.optimizer.iterations) == 6


def test_batches_of_different_lengths():
    """Sequences padded batch by batch, in a pipeline that does not know their lengths."""
    sequences = [(np.full((4, length), length % 5, "int32"), np.arange(4)) for length in (3, 7, 5)]
    model = models.compiled(sequence_net(), sequence_net())
    model.fit(sequences, meta_data=sequences[1:2], verbose=0)
    assert int(model.optimizer.iterations) == 3


@pytest.mark.parametrize("kind", ["tf.data", "PyDataset", "list of batches"])
@pytest.mark.parametrize("backwards", [False, True])
def test_no_batch_of_a_generator_is_lost(kind, backwards):
    """As the meta set it is repeated whole, over as many epochs as there are; as the training set, it is used up."""
    sets = {"generated": in_batches(TRAIN), "other": KINDS[kind](META)}
    generated = (batch for batch in sets["generated"])
    if backwards:
        pairs = bikd.data.pair(generated, sets["other"])
        seen = [list(batch[1]) for batch, _ in batches(pairs)]
        assert seen == [list(y) for _, y in sets["generated"]]
        return
    pairs = bikd.data.pair(sets["other"], generated)
    seen = [meta_x.tobytes() for _ in range(4) for _, (meta_x, _) in batches(pairs)]
    assert sorted(seen) == sorted(4 * [x.tobytes() for x, _ in sets["generated"]])


def test_what_reads_the_training_data_again_refuses_a_generator(tmp_path):
    model = bikd_model()
    before = model.student.get_weights()[0]
    with pytest.raises(ValueError, match=r"`WeightMap` reads the training data again.*`WeightMap\(data=...\)`"):
        fit(model, "generator", meta_data=META, callbacks=[bikd.callbacks.WeightMap(tmp_path)])
    np.testing.assert_array_equal(model.student.get_weights()[0], before)
