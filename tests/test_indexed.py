"""The loaders in Grain, which need no TensorFlow: the same images as in `tf.data`, in orders and views by index."""

import grain
import keras
import numpy as np
import pytest
from test_data import FEW_GLYPHS, arrays, write_folder

import keras_bikd as bikd
from keras_bikd.batches.grain_data import IndexedBatches
from keras_bikd.data import Arrays, Folder, LongTailCut, Tfds, grain_pipeline, tf_pipeline
from keras_bikd.data.tfds_records import _prepare, prepared_builder


@pytest.fixture(autouse=True)
def quiet():
    keras.config.disable_interactive_logging()
    yield
    keras.config.enable_interactive_logging()


def load(source="sklearn_digits", imbalance_factor=50, *, in_grain=True, **kwargs):
    sizes = {"meta_size": 100, "test_size": 500, "batch_size": 64} if isinstance(source, str) else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keras_bikd.data.loader._pipeline", lambda: grain_pipeline if in_grain else tf_pipeline)
        return bikd.data.load(source, imbalance_factor, **{**sizes, **kwargs})


def samples(data_set):
    """All images and labels of one pass."""
    images, labels = zip(*data_set)
    return np.concatenate([np.asarray(part) for part in images]), np.concatenate([np.asarray(y) for y in labels])


def content(data_set):
    return sorted((int(label), image.tobytes()) for image, label in zip(*samples(data_set)))


def sources(folder):
    write_folder(folder / "images", size=(8, 8))
    sizes = {"meta_size": 9, "test_size": 9, "validation_size": 6, "batch_size": 7}
    return {
        "digits": lambda **kwargs: load(validation_size=50, **kwargs),
        "arrays": lambda **kwargs: load(Arrays(*arrays()), 10, **sizes, **kwargs),
        "folder": lambda **kwargs: load(Folder(folder / "images", (8, 8)), None, **sizes, **kwargs),
    }


@pytest.mark.parametrize("name", ["digits", "arrays", "folder"])
@pytest.mark.parametrize("cut", [LongTailCut(), LongTailCut(meta_in_train=True)])
def test_the_same_images_and_labels_as_in_tf_data(name, cut, tmp_path):
    load_it = sources(tmp_path)[name]
    ours, theirs = (load_it(cut=cut, in_grain=in_grain) for in_grain in (True, False))
    assert ours.manifest == theirs.manifest
    for part in ("train", "meta", "validation", "test"):
        mine, other = getattr(ours, part), getattr(theirs, part)
        assert content(mine) == content(other)
        assert len(mine) == len(other)
        assert [len(y) for _, y in mine] == [len(y) for _, y in other]  # the last batch is shorter
    x, y = next(iter(ours.train))
    assert (x.dtype, x.shape[1:], y.dtype) == ("float32", ours.sample_shape, "int64")
    assert ours.sample_shape == theirs.sample_shape


def test_resized_and_jpeg_images_are_close_to_those_in_tf_data(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(5):
            blocks = np.kron(generator.integers(0, 256, (5, 6, 3)), np.ones((4, 4, 1)))
            keras.utils.save_img(tmp_path / name / f"{i}.jpg", blocks, scale=False, quality=95)
    source = Folder(tmp_path, (9, 12))
    ours, theirs = (load(source, None, meta_size=2, test_size=4, in_grain=own).test for own in (True, False))
    difference = np.abs(samples(ours)[0] - samples(theirs)[0]) * 255
    assert difference.mean() < 2.5  # of 256 levels, with colours that change abruptly
    assert difference.max() < 15


def test_a_tfds_set_lives_in_both_formats_side_by_side(tmp_path):
    source = Tfds("sklearn_digits", data_dir=tmp_path, image_size=(6, 4))
    rows = source.rows(np.arange(1797), source.labels)
    streamed = tf_pipeline.samples(source, np.arange(1797), source.labels, None).as_numpy_iterator()
    for own, other in zip(rows, streamed, strict=True):
        assert own[1] == other[1]
        assert own[0].shape == other[0].shape == (6, 4, 1)
        np.testing.assert_allclose(own[0].astype(int), other[0], atol=2)
    assert {path.name for path in tmp_path.iterdir()} >= {"array_record", "sklearn_digits"}
    prepared = prepared_builder("sklearn_digits", tmp_path / "array_record", indexed=True)  # read where it is
    assert prepared.data_dir_root == tmp_path / "array_record"


def test_glyphs_have_the_same_order_in_both_formats():
    source = Tfds(FEW_GLYPHS)
    np.testing.assert_array_equal(source.indexed.labels("train"), source.streamed.labels("train"))
    own, test = source.test_rows(), tf_pipeline.own_test_samples(source).take(20).as_numpy_iterator()
    assert len(own) == source.test_size
    for position, (image, label) in enumerate(test):
        np.testing.assert_array_equal(own[position][0], image)
        assert own[position][1] == label
    data = load(FEW_GLYPHS, 100, test_size=None)
    assert data.manifest == load(FEW_GLYPHS, 100, test_size=None, in_grain=False).manifest
    np.testing.assert_array_equal(samples(data.test)[1][:20], own.labels[:20])


def test_a_set_that_tfds_cannot_prepare_without_tensorflow():
    class Builder:
        name, data_dir_root = "cifar10", "folder"
        info = type("Info", (), {"full_name": "cifar10/3.0.2"})

        def download_and_prepare(self):
            raise ModuleNotFoundError("Failed to encode example: ...\nNo module named 'tensorflow'")

    with pytest.raises(ImportError, match="tfds build cifar10 --file_format=array_record --data_dir=folder"):
        _prepare(Builder())


def test_every_pass_has_its_own_order_which_the_seed_decides():
    first, second, other = (load(seed=seed) for seed in (0, 0, 1))
    passes = [samples(first.train) for _ in range(3)]
    for images, labels in passes:
        x, y = samples(second.train)
        np.testing.assert_array_equal(x, images)
        np.testing.assert_array_equal(y, labels)
        assert np.bincount(labels).tolist() == first.class_counts.tolist()
    assert not np.array_equal(passes[0][1], passes[1][1])
    assert not np.array_equal(passes[1][1], passes[2][1])
    assert not np.array_equal(samples(other.train)[1], passes[0][1])
    assert len(first.train) == len(list(first.train)) == 5
    np.testing.assert_array_equal(samples(first.test)[0], samples(first.test)[0])
    endless = [y for _, (_, y) in zip(range(15), load().train.repeat())]
    np.testing.assert_array_equal(np.concatenate(endless), np.concatenate([labels for _, labels in passes]))


def test_fit_goes_through_one_pass_per_epoch():
    """Also of a plain Keras model; Keras knows the length, or it would warn."""
    data, steps = load(augment=bikd.data.gaussian_noise(0.1)), []
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(batch))
    model.fit(data.train, epochs=2, validation_data=data.test, callbacks=[count], verbose=0)
    assert steps == [0, 1, 2, 3, 4] * 2
    student = bikd.BiKDModel(model, keras.models.clone_model(model), bikd.MetaWeightNet((8,)))
    student.compile("sgd", metrics=[bikd.metrics.BalancedAccuracy(10)])
    student.fit(data.train, meta_data=data.meta, epochs=2, validation_data=data.test, verbose=0)
    assert int(student.optimizer.iterations) == 10
    student.fit(data.train.repeat(), meta_data=data.meta, steps_per_epoch=3, epochs=2, verbose=0)
    assert int(student.optimizer.iterations) == 16
    assert set(student.evaluate(data.test, return_dict=True, verbose=0)) >= {"balanced_accuracy"}
    with pytest.raises(ValueError, match="never ends"):
        student.fit(data.train.repeat(), meta_data=data.meta)


def rows_of(ids, labels=None):
    labels = np.arange(50) if labels is None else labels
    return bikd.data.sources.Rows(lambda i: np.full((4, 4, 1), i, "uint8"), np.array(ids), labels, keep=True)


def test_a_view_is_a_function_of_seed_image_and_pass():
    noise = bikd.data.gaussian_noise(0.5)
    here, there = (grain_pipeline.views(rows_of(ids), 7, noise) for ids in ([3, 9, 41], [41, 3]))
    for visit in (0, 1, 5):
        np.testing.assert_array_equal(here[3 * visit + 2][0], there[2 * visit][0])  # image 41
        np.testing.assert_array_equal(here[3 * visit][0], there[2 * visit + 1][0])  # image 3
    assert not np.array_equal(here[2][0], here[5][0])  # two passes
    assert not np.array_equal(here[2][0], grain_pipeline.views(rows_of([41]), 8, noise)[0][0])
    image = np.full((4, 4, 1), 41 / 255, "float32")
    np.testing.assert_allclose(noise(image[None], np.array([7, 2 * 50 + 41]))[0], here[8][0], rtol=1e-6)
    drawn = [next(iter(load(augment=noise).train))[0] for _ in range(2)]
    np.testing.assert_array_equal(*drawn)
    data = load(augment=(noise, None))
    assert len({image.tobytes() for _ in range(2) for x, _ in data.train for image in x}) == 2 * 314
    assert content(data.meta) == content(load().meta)


def test_what_has_been_decoded_is_kept_if_it_is_small(tmp_path, monkeypatch):
    write_folder(tmp_path / "images")
    reads = []
    monkeypatch.setattr("keras_bikd.data.sources.decoded", lambda *args: reads.append(args) or np.zeros((8, 8, 3)))
    for limit, expected in ((2**30, 3), (0, 6)):
        monkeypatch.setattr("keras_bikd.data.sources._CACHE_BYTES", limit)
        source = Folder(tmp_path / "images", (8, 8))
        rows = source.rows(np.arange(3), source.labels)
        for _ in range(2):
            assert len(list(rows)) == 3
        assert len(reads) == expected
        reads.clear()


def test_class_balanced_sampling_and_shares_of_meta_images():
    for in_grain in (True, False):
        even = load(cut=LongTailCut(sampling="class_balanced"), in_grain=in_grain)
        labels = [samples(even.train)[1] for _ in range(2)]
        assert [len(own) for own in labels] == [314, 314]
        assert all(set(np.bincount(own)) <= {31, 32} for own in labels)
        assert not np.array_equal(*labels)
    assert even.class_counts.tolist() == load().class_counts.tolist()

    meta, mixed = {image for _, image in content(load().meta)}, load(cut=LongTailCut(meta_in_train=0.25))
    for _ in range(2):
        drawn = [image for _, image in content(mixed.train)]
        assert len(drawn) == 414
        assert sum(image in meta for image in drawn) == pytest.approx(414 / 4, abs=2)


@pytest.mark.parametrize("cut", [LongTailCut(), LongTailCut(sampling="class_balanced", meta_in_train=0.5)])
def test_some_classes_alone(cut, monkeypatch):
    monkeypatch.setattr("keras_bikd.data.loader._pipeline", lambda: grain_pipeline)
    data = bikd.data.load("sklearn_digits", 50, meta_size=100, test_size=500, batch_size=64, cut=cut)
    part = bikd.data.only_classes(data, [7, 2, 4], batch_size=16)
    assert (part.num_classes, part.class_counts.tolist()) == (3, data.class_counts[[7, 2, 4]].tolist())
    images, labels = samples(part.train)
    own = {image: label for label, image in content(load(cut=LongTailCut(meta_in_train=True)).train)}
    assert {own[image.tobytes()] for image in images[labels == 0]} == {7}
    assert {own[image.tobytes()] for image in images[labels == 2]} == {4}
    if cut == LongTailCut():
        np.testing.assert_array_equal(np.bincount(labels), part.class_counts)
    assert content(part.test) == content(data.test)


def labels_of(stream, count):
    return [np.asarray(y).tolist() for _, (_, y) in zip(range(count), stream)]


def test_streams_start_at_any_batch():
    data, whole = load(), labels_of(load().train.repeat(), 14)
    stream, position = bikd.data.resumable(data.train)
    assert labels_of(stream, 4) == labels_of(stream, 4) == whole[:4]
    position.assign(7)
    assert labels_of(stream, 7) == whole[7:]

    pairs = bikd.data.pair(data.train, data.meta)
    assert len(pairs) == 5
    of_pairs = [(y.tolist(), meta.tolist()) for _, ((_, y), (_, meta)) in zip(range(14), pairs.repeat())]
    assert [train for train, _ in of_pairs] == whole
    assert len({str(meta) for _, meta in of_pairs}) == 14  # in another order on every pass
    stream, position = bikd.data.resumable(pairs)
    position.assign(9)
    rest = [(y.tolist(), meta.tolist()) for _, ((_, y), (_, meta)) in zip(range(5), stream)]
    assert rest == of_pairs[9:]


@pytest.mark.parametrize("kind", ["map", "iter"])
def test_streams_of_any_grain_data_set_start_at_any_batch(kind):
    data = grain.MapDataset.range(7).shuffle(seed=3).map(lambda i: (i, i)).batch(2)
    data = data if kind == "map" else data.to_iter_dataset()
    stream, position = bikd.data.resumable(data)
    whole = labels_of(stream, 10)
    position.assign(6)
    assert labels_of(stream, 4) == whole[6:]
    assert (whole[:4] != whole[4:8]) == (kind == "map")  # Grain repeats an `IterDataset` as it is


def test_a_grain_data_set_is_more_than_batches_for_keras():
    data = IndexedBatches(grain.MapDataset.range(6).batch(2))
    assert [batch.tolist() for batch in data.map(lambda batch: batch + 1)] == [[1, 2], [3, 4], [5, 6]]
    iterator = iter(data)
    next(iterator)
    state, rest = iterator.get_state(), next(iterator).tolist()
    iterator.set_state(state)
    assert next(iterator).tolist() == rest
