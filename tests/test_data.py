"""Long-tailed sets from tfds, arrays and folders: counts, disjointness, determinism, manifests."""

import contextlib
import dataclasses
import hashlib
import json
import shutil
from unittest import mock

import glyphs
import grain
import keras
import numpy as np
import pytest
import requests
import tensorflow as tf
import tensorflow_datasets as tfds
from wrong_labels import with_wrong_labels

import keras_bikd as bikd
from keras_bikd.batches.grain_data import IndexedBatches
from keras_bikd.data import Arrays, Folder, LongTailCut, Tfds, sklearn_digits, tfds_records

# `glyphs/h` with fewer images: to draw all 30,400 of them, once on a machine, takes half a minute.
FEW_GLYPHS = "glyphs/h_140"
glyphs.Glyphs.BUILDER_CONFIGS.append(
    dataclasses.replace(glyphs.Glyphs.BUILDER_CONFIGS[0], name="h_140", train_per_class=140, test_per_class=20)
)


@contextlib.contextmanager
def mock_data(num_examples):
    """tfds sets of a few invented examples, whose labels are not those of other mock data."""
    tfds_records.usable_labels.cache_clear()
    with (
        mock.patch.object(tfds_records, "_check_reachable"),
        tfds.testing.mock_data(num_examples=num_examples),
    ):
        yield
    tfds_records.usable_labels.cache_clear()


@pytest.fixture(autouse=True)
def quiet():
    keras.config.disable_interactive_logging()
    yield
    keras.config.enable_interactive_logging()


def load(seed=0, imbalance_factor=50, source="sklearn_digits", **kwargs):
    kwargs = {"meta_size": 100, "test_size": 500, "batch_size": 64, **kwargs}
    return bikd.data.load(source, imbalance_factor, seed=seed, **kwargs)


def images_and_labels(data_set):
    images, labels = zip(*data_set)
    return np.concatenate([np.asarray(part) for part in images]), np.concatenate([np.asarray(y) for y in labels])


def content(data_set):
    return {hashlib.sha256(image.tobytes()).hexdigest() for image in images_and_labels(data_set)[0]}


def test_a_set_that_another_process_prepares_meanwhile(tmp_path, monkeypatch):
    slow = sklearn_digits.SklearnDigits._generate_examples

    def overtaken(self):
        monkeypatch.setattr(sklearn_digits.SklearnDigits, "_generate_examples", slow)
        tfds.builder("sklearn_digits", data_dir=tmp_path).download_and_prepare()
        yield from slow(self)

    monkeypatch.setattr(sklearn_digits.SklearnDigits, "_generate_examples", overtaken)
    data = load(source=Tfds("sklearn_digits", data_dir=tmp_path))
    assert data.class_counts.tolist() == load().class_counts.tolist()
    assert content(data.train) == content(load().train)


def test_a_set_that_cannot_be_written(tmp_path):
    for folder in (tmp_path, tmp_path / "array_record"):
        folder.mkdir(exist_ok=True)
        (folder / "sklearn_digits").write_text("a file in the way")
    with pytest.raises(OSError, match="sklearn_digits"):
        Tfds("sklearn_digits", data_dir=tmp_path)


@pytest.mark.tensorflow
def test_nothing_waits_for_the_tuner_of_pipelines():
    data = load()
    arrays = np.zeros((4, 2), "float32"), np.zeros(4, "int32")
    read_by_keras = bikd.data.pair([arrays], data.meta).get_tf_dataset()
    pair = bikd.data.pair(data.train, data.meta)
    for part in (data.train, data.meta, data.test, data.train.repeat(), pair, read_by_keras):
        assert part.options().autotune.enabled is False


@pytest.mark.parametrize("imbalance_factor", [1, 10, 50, 100])
def test_counts(imbalance_factor):
    data = load(imbalance_factor=imbalance_factor)
    counts = bikd.long_tail.exponential_counts(114, imbalance_factor, 10)
    np.testing.assert_array_equal(data.class_counts, counts)
    np.testing.assert_array_equal(np.bincount(images_and_labels(data.train)[1]), counts)
    np.testing.assert_array_equal(np.bincount(images_and_labels(data.meta)[1]), [10] * 10)
    np.testing.assert_array_equal(np.bincount(images_and_labels(data.test)[1]), [50] * 10)
    assert data.num_classes == 10
    assert len(data.train) == -(-counts.sum() // 64)


def test_images_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    digits = load_digits()
    known = {
        np.rint(image * (255 / 16)).astype("uint8").tobytes(): label for image, label in zip(*digits_arrays(digits))
    }
    images, labels = images_and_labels(load().test)
    assert images.dtype == "float32"
    assert (images.min(), images.max()) == (0, 1)
    for image, label in zip(images, labels):
        assert known[np.rint(image * 255).astype("uint8").tobytes()] == label


def digits_arrays(digits):
    return digits.images, digits.target


def test_train_meta_and_test_share_no_image():
    data = load(imbalance_factor=1)
    train, meta, test = (content(part) for part in (data.train, data.meta, data.test))
    assert len(train | meta | test) == len(train) + len(meta) + len(test) == 1140 + 100 + 500


def test_a_larger_factor_keeps_a_subset():
    assert content(load(imbalance_factor=100).train) <= content(load(imbalance_factor=10).train)
    assert content(load(imbalance_factor=100).test) == content(load(imbalance_factor=10).test)


def test_equal_seeds_give_equal_batches_and_different_seeds_do_not():
    noise = bikd.data.gaussian_noise(0.5)
    first, second, other = (load(seed, augment=noise) for seed in (0, 0, 1))
    for part in ("train", "meta", "test"):
        for _ in range(2):  # epochs
            a, b = (images_and_labels(getattr(data, part)) for data in (first, second))
            np.testing.assert_array_equal(a[0], b[0])
            np.testing.assert_array_equal(a[1], b[1])
        assert not np.array_equal(a[0], images_and_labels(getattr(other, part))[0])
    assert first.manifest == second.manifest
    assert first.manifest["ids_sha256"] != other.manifest["ids_sha256"]


def test_every_epoch_has_its_own_order_and_noise():
    data = load(augment=bikd.data.gaussian_noise(0.5))
    first, second = (images_and_labels(data.train) for _ in range(2))
    assert not np.array_equal(first[1], second[1])
    assert not set(first[0].sum(axis=(1, 2, 3))) & set(second[0].sum(axis=(1, 2, 3)))
    clean, _ = images_and_labels(load().train)
    assert (first[0].std() ** 2 - clean.std() ** 2) == pytest.approx(0.25, rel=0.03)
    np.testing.assert_array_equal(*(images_and_labels(data.test)[0] for _ in range(2)))


def test_manifest_is_json():
    manifest = load().manifest
    assert json.loads(json.dumps(manifest)) == manifest
    assert manifest["class_counts"] == [114, 73, 47, 30, 20, 12, 8, 5, 3, 2]


def test_manifest_of_numpy_numbers_is_json(tmp_path):
    data = bikd.data.load("sklearn_digits", np.float64(10), meta_size=np.int64(100), test_size=500, seed=np.int64(3))
    bikd.data.save_manifest(tmp_path / "manifest.json", data)
    assert json.loads((tmp_path / "manifest.json").read_text()) == data.manifest


def test_only_classes_numbers_them_in_the_order_given():
    data = load()
    part = bikd.data.only_classes(data, [7, 2, 4], batch_size=16)
    assert (part.num_classes, part.class_counts.tolist()) == (3, data.class_counts[[7, 2, 4]].tolist())
    images, labels = images_and_labels(part.train)
    np.testing.assert_array_equal(np.bincount(labels), part.class_counts)
    own = images_and_labels(data.train)
    assert {i.tobytes() for i in images[labels == 0]} == {i.tobytes() for i in own[0][own[1] == 7]}


def test_meta_images_are_trained_on_only_when_asked_for():
    plain, both = load(), load(cut=LongTailCut(meta_in_train=True))
    assert content(both.meta) == content(plain.meta)
    assert content(both.train) == content(plain.train) | content(plain.meta)
    np.testing.assert_array_equal(both.class_counts, plain.class_counts + 10)
    np.testing.assert_array_equal(np.bincount(images_and_labels(both.train)[1]), both.class_counts)


def test_profiles_sizes_and_orders():
    step = load(cut=LongTailCut(profile="step"), imbalance_factor=10)
    assert step.class_counts.tolist() == [114] * 5 + [11] * 5
    full = load(cut=LongTailCut(head="full"), imbalance_factor=10)
    wanted = bikd.long_tail.exponential_counts(124, 10, 10)
    np.testing.assert_array_equal(full.class_counts[1:], wanted[1:])
    shuffled = load(cut=LongTailCut(class_order="shuffled"))
    assert sorted(shuffled.class_counts) == sorted(load().class_counts)
    assert shuffled.class_counts.tolist() != load().class_counts.tolist()
    np.testing.assert_array_equal(np.bincount(images_and_labels(shuffled.train)[1]), shuffled.class_counts)


def test_without_a_factor_nothing_is_cut():
    data = load(imbalance_factor=None)
    assert data.class_counts.sum() == 1797 - 100 - 500


def test_report_in_one_line(capsys):
    keras.config.enable_interactive_logging()
    load()
    expected = (
        "sklearn_digits 1.0.0: 314 training samples in 10 classes of 114 to 2, 100 meta samples, 500 test samples\n"
    )
    assert capsys.readouterr().out == expected


def arrays(samples=600, classes=3):
    x = np.random.default_rng(0).integers(0, 256, (samples, 6, 6, 1), dtype="uint8")
    return x, np.arange(samples) % classes


def test_arrays():
    x, y = arrays()
    data = bikd.data.load(Arrays(x, y), 10, meta_size=30, test_size=60, batch_size=32)
    assert data.class_counts.tolist() == [170, 53, 17]
    known = {image.tobytes(): label for image, label in zip(x, y)}
    for part in (data.train, data.meta, data.test):
        for image, label in zip(*images_and_labels(part)):
            assert known[np.rint(image * 255).astype("uint8").tobytes()] == label
    table = np.random.default_rng(0).normal(size=(600, 5))
    rows = images_and_labels(bikd.data.load(Arrays(table, y), 10, meta_size=30, test_size=60).test)[0]
    assert {row.tobytes() for row in rows} <= {row.tobytes() for row in table}  # tables are left as they are


def write_folder(directory, counts=(40, 20, 12), size=(10, 8)):
    generator = np.random.default_rng(0)
    for label, count in enumerate(counts):
        (directory / f"class_{label}").mkdir(parents=True)
        for i in range(count):
            image = np.full((*size, 3), 80 * label) + generator.integers(0, 20, (*size, 3))
            keras.utils.save_img(directory / f"class_{label}" / f"{i:03d}.png", image, scale=False)


def test_folder(tmp_path):
    write_folder(tmp_path / "images")
    data = bikd.data.load(Folder(tmp_path / "images", (8, 8)), meta_size=9, test_size=9, batch_size=8)
    assert data.class_counts.tolist() == [34, 14, 6]
    assert data.class_names == data.manifest["class_names"] == ["class_0", "class_1", "class_2"]
    for part in (data.train, data.meta, data.test):
        images, labels = images_and_labels(part)
        assert images.shape[1:] == (8, 8, 3)
        np.testing.assert_allclose(images.mean(axis=(1, 2, 3)) * 255, 80 * labels + 9.5, atol=3)


def test_a_large_set_is_streamed_and_not_kept(tmp_path, monkeypatch):
    """The same images and the same labels when the set is too large for memory."""
    write_folder(tmp_path / "images")
    load_it = lambda: bikd.data.load(Folder(tmp_path / "images", (8, 8)), meta_size=9, test_size=9)
    kept = content(load_it().train)
    monkeypatch.setattr("keras_bikd.data.sources._CACHE_BYTES", 0)
    streamed = load_it()
    assert content(streamed.train) == kept == content(streamed.train)


def test_a_large_folder_is_shuffled_across_its_classes(tmp_path, monkeypatch):
    write_folder(tmp_path / "images", counts=(40, 40))
    monkeypatch.setattr("keras_bikd.data.sources._CACHE_BYTES", 0)
    monkeypatch.setattr("keras_bikd.data.tf_pipeline._SHUFFLE_BUFFER", 4)
    data = bikd.data.load(Folder(tmp_path / "images", (8, 8)), meta_size=4, test_size=4, batch_size=19)
    assert [set(np.asarray(labels).tolist()) for _, labels in data.train] == [{0, 1}] * 4


def test_meta_batches_of_their_own_size():
    data = load(batch_size=(64, 16))
    sizes = [len(next(iter(part))[1]) for part in (data.train, data.meta, data.test)]
    assert sizes == [64, 16, 64]
    with pytest.raises(ValueError, match=r"batch_size=0"):
        load(batch_size=(64, 0))


def test_hidden_files_are_ignored_and_other_files_are_reported(tmp_path):
    write_folder(tmp_path / "images", counts=(20, 20))
    for hidden in (".git", "class_0/.ipynb_checkpoints"):
        shutil.copytree(tmp_path / "images" / "class_1", tmp_path / "images" / hidden)
    shutil.copy(tmp_path / "images" / "class_1" / "000.png", tmp_path / "images" / "class_1" / "photo.webp")
    with pytest.warns(UserWarning, match=r"1 files .* left out.*photo\.webp") as warned:
        data = bikd.data.load(Folder(tmp_path / "images", (8, 8)), meta_size=4, test_size=4)
    assert warned[0].filename == __file__
    assert data.class_counts.tolist() == [16, 16]
    assert data.class_names == ["class_0", "class_1"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: [file.unlink() for file in (folder / "class_1").iterdir()], r"no JPEG.*\['class_1'\]"),
        (lambda folder: (folder / "class_1" / "000.png").write_bytes(b""), "1 of 72 files .*class_1.*000.png"),
        (lambda folder: (folder / "class_1" / "000.png").write_text("hello"), "1 of 72 files"),
        (lambda folder: [shutil.rmtree(folder / f"class_{i}") for i in (1, 2)], r"at least two.*\['class_0'\]"),
        (shutil.rmtree, "takes a folder"),
    ],
)
def test_spoilt_folders(tmp_path, spoil, message):
    folder = tmp_path / "images"
    write_folder(folder)
    spoil(folder)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        Folder(folder, image_size=(8, 8))


def test_manifest_gives_the_same_split_or_an_error(tmp_path):
    data = load(cut=LongTailCut(profile="step", meta_in_train=True))
    bikd.data.save_manifest(tmp_path / "m.json", data)
    assert [path.name for path in tmp_path.iterdir()] == ["m.json"]
    again = bikd.data.load_manifest(tmp_path / "m.json", batch_size=64)
    assert again.manifest == data.manifest
    assert content(again.train) == content(data.train)

    bikd.data.check_manifest(tmp_path / "m.json", load(cut=LongTailCut(profile="step", meta_in_train=True)))
    with pytest.raises(ValueError, match=r"other data.*seed: 0 there, 1 here"):
        bikd.data.check_manifest(tmp_path / "m.json", load(seed=1))
    with pytest.raises(ValueError, match="no manifest"):
        bikd.data.check_manifest(tmp_path / "other.json", data)
    text = (tmp_path / "m.json").read_text()
    (tmp_path / "m.json").write_text(text.replace(data.manifest["ids_sha256"], "0" * 64))
    with pytest.raises(ValueError, match="ids_sha256"):
        bikd.data.load_manifest(tmp_path / "m.json")


def test_a_manifest_ignores_how_samples_are_drawn_and_keeps_it(tmp_path):
    """A student may draw them in another way than its teacher did."""
    data, evenly = load(cut=LongTailCut(head="full")), LongTailCut(head="full", sampling="class_balanced")
    bikd.data.save_manifest(tmp_path / "m.json", data)
    bikd.data.check_manifest(tmp_path / "m.json", load(cut=evenly))
    assert bikd.data.load_manifest(tmp_path / "m.json").manifest == data.manifest
    bikd.data.save_manifest(tmp_path / "m.json", load(cut=evenly))
    assert bikd.data.load_manifest(tmp_path / "m.json").split.cut == evenly


def test_confusable_classes_are_mistaken_for_each_other_alone(tmp_path):
    right = load(imbalance_factor=10)
    wrong = with_wrong_labels(right, 0.5, [["1", "7", "4"], ["3", "8"]])
    ids = right.split.train
    before, after = right.split.labels[ids], wrong.split.labels[ids]
    changed = before != after
    pairs = set(zip(before[changed].tolist(), after[changed].tolist()))
    # The rest of the classes keeps its labels; 7 and 8 are rare, and among those that are named.
    assert pairs == {(1, 7), (1, 4), (7, 1), (7, 4), (4, 1), (4, 7), (3, 8), (8, 3)}
    assert changed.sum() == round(0.5 * np.isin(before, [1, 7, 4, 3, 8]).sum())
    for_the_larger, for_the_smaller = ((changed & (before == 1) & (after == label)).sum() for label in (4, 7))
    assert for_the_larger > for_the_smaller, "in proportion to the class counts"
    np.testing.assert_array_equal(np.bincount(after, minlength=10), wrong.class_counts)

    bikd.data.save_manifest(tmp_path / "m.json", wrong)
    for other in (right, with_wrong_labels(right, 0.5)):
        with pytest.raises(ValueError, match=r"version: '1.0.0\+0.5 wrong labels among 1/7/4 3/8' there, '1.0.0"):
            bikd.data.check_manifest(tmp_path / "m.json", other)


def test_manifests_of_arrays_and_folders_are_loaded_with_their_source(tmp_path):
    write_folder(tmp_path / "images")
    for source in (Arrays(*arrays()), Folder(tmp_path / "images", (8, 8))):
        data = bikd.data.load(source, 2, meta_size=9, test_size=9, cut=LongTailCut(head="full"))
        bikd.data.save_manifest(tmp_path / "m.json", data)
        assert bikd.data.load_manifest(tmp_path / "m.json", source).split.train.tolist() == data.split.train.tolist()
        with pytest.raises(ValueError, match="name of a tfds data set"):
            bikd.data.load_manifest(tmp_path / "m.json")


RECORDED = {  # hash of the ids, and of two passes of labels under global seed 0
    "digits": ("d94b287e591fd190", "47fc756777280507"),
    "arrays": ("2beb65700103c013", "e9dccc78e878e941"),
    "folder": ("7d95ffde99e1fa73", "b6742162db833488"),
}


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", RECORDED)
def test_a_seed_gives_the_split_and_the_order_that_it_gave_in_the_first_version(name, tmp_path):
    """Recorded before the loaders became one. The order is that of TensorFlow's shuffle."""
    write_folder(tmp_path / "images", counts=(60, 30, 20))
    loads = {
        "digits": lambda: bikd.data.load("sklearn_digits", 50, meta_size=100, test_size=500),
        "arrays": lambda: bikd.data.load(Arrays(*arrays()), 10, meta_size=30, test_size=60),
        "folder": lambda: bikd.data.load(Folder(tmp_path / "images", (10, 8)), meta_size=9, test_size=9),
    }
    keras.utils.set_random_seed(0)
    data = loads[name]()
    labels = np.concatenate([images_and_labels(data.train)[1] for _ in range(2)])
    order = hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()
    assert (data.manifest["ids_sha256"][:16], order[:16]) == RECORDED[name]


def test_labels_are_read_once_and_cannot_be_written_to(monkeypatch):
    first = Tfds("sklearn_digits")
    for kind in (tfds_records.StreamedRecords, tfds_records.IndexedRecords):
        monkeypatch.setattr(kind, "labels", None)
    again = Tfds("sklearn_digits")
    assert again.labels is first.labels
    with pytest.raises(ValueError, match="read-only"):
        again.labels[0] = 1


def test_a_set_that_cannot_be_downloaded(tmp_path):
    message = r"'cifar10' is not prepared in .*www\.cs\.toronto\.edu cannot be reached.*TFDS_DATA_DIR"
    with (
        mock.patch("requests.head", side_effect=requests.ConnectionError),
        pytest.raises(ConnectionError, match=message),
    ):
        Tfds("cifar10", data_dir=tmp_path)


def test_a_split_with_wrong_labels_leaves_its_source_alone():
    source = Arrays(*arrays())
    before = source.labels.copy()
    right = bikd.data.load(source, 10, meta_size=30, test_size=60)
    wrong = with_wrong_labels(right, 0.3)
    np.testing.assert_array_equal(source.labels, before)
    assert (wrong.split.labels != before).sum() == round(0.3 * len(right.split.train))
    np.testing.assert_array_equal(np.bincount(images_and_labels(right.train)[1]), right.class_counts)


def test_images_may_be_resized():
    data = load(source=Tfds("sklearn_digits", image_size=(6, 4)))
    assert next(iter(data.train))[0].shape == (64, 6, 4, 1)


def test_names_of_the_classes(tmp_path):
    x, y = arrays()
    named = bikd.data.load(Arrays(x, y, class_names=["a", "b", "c"]), 10, meta_size=30, test_size=60)
    assert named.class_names == named.manifest["class_names"] == ["a", "b", "c"]
    assert bikd.data.only_classes(named, [2, 0], batch_size=8).class_names == ["c", "a"]
    assert load().class_names == [str(digit) for digit in range(10)]


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"'cifar1000'.*Did you mean.*'cifar100'"):
        bikd.data.load("cifar1000", 10, meta_size=100)


def test_glyphs_are_deterministic_and_learnable_in_kind():
    style = glyphs.Glyphs.builder_configs["h"].style
    labels = np.arange(5000) % 10
    images = glyphs.draw(labels, style, seed=3, size=16)
    assert images.dtype == "uint8"
    assert images.shape == (5000, 16, 16, 3)
    assert images.tobytes() == glyphs.draw(labels, style, seed=3, size=16).tobytes()
    assert images.tobytes() != glyphs.draw(labels, style, seed=4, size=16).tobytes()
    assert len({image.tobytes() for image in images}) == 5000
    # The character is brighter than the background in every channel: the middle is brighter than the rim.
    middle, rim = images[:, 5:11, 5:11].mean(axis=(1, 2)), images[:, [0, -1]].mean(axis=(1, 2))
    assert (middle > rim).mean() > 0.8


def test_glyphs_through_tfds():
    data = bikd.data.load("glyphs/g100", 50, meta_size=500)
    assert data.num_classes == 100
    assert (data.class_counts[0], data.class_counts[-1]) == (200, 4)
    assert data.manifest["test_size"] == 2000
    assert next(iter(data.train))[0].shape == (100, 16, 16, 3)
    train, meta, test = (content(part) for part in (data.train, data.meta, data.test))
    assert len(train | meta | test) == len(train) + len(meta) + len(test)


@pytest.mark.parametrize("array", [tf.constant, np.array])
def test_pad_crop_flip_against_slicing(array):
    images = np.random.default_rng(0).normal(size=(64, 6, 7, 2)).astype("float32")
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    cropped = np.array(bikd.data.pad_crop_flip(2)(array(images), array([1, 2], "int64")))
    places = set()
    for image, result in zip(padded, cropped):
        matches = [
            (y, x, flip)
            for y in range(5)
            for x in range(5)
            for flip in (1, -1)
            if np.array_equal(image[y : y + 6, x : x + 7][:, ::flip], result)
        ]
        assert len(matches) == 1
        places.add(matches[0])
    assert len(places) > 25  # of 50
    again = bikd.data.pad_crop_flip(2)(array(images), array([1, 2], "int64"))
    np.testing.assert_array_equal(again, cropped)
    plain = bikd.data.pad_crop_flip(0, flip=False)(array(images), array([1, 2], "int64"))
    np.testing.assert_array_equal(plain, images)


def test_class_balanced_sampling_draws_every_class_evenly():
    data = bikd.data.load(
        "sklearn_digits",
        50,
        meta_size=100,
        test_size=500,
        batch_size=157,
        seed=1,
        cut=LongTailCut(sampling="class_balanced"),
    )
    labels = np.concatenate([y for _ in range(10) for _, y in data.train])
    assert len(labels) == 10 * data.class_counts.sum()
    assert np.bincount(labels, minlength=10) == pytest.approx(314, abs=10)  # on every pass 31 or 32 of each
    assert data.class_counts.tolist()[0] == 114  # the counts stay those of the images there are


@pytest.mark.parametrize("kind", ["tf.data", "Grain"])
@pytest.mark.parametrize(("devices", "rows"), [(2, [[0, 1], [4]]), (4, [[0, 1], [4, 5]])])
def test_two_processes_share_each_batch(monkeypatch, devices, rows, kind):
    """Six samples in batches of four, two processes: the first has the first half, the second the rest."""
    batches = tf.data.Dataset.from_tensor_slices((np.arange(6), np.arange(6))).batch(4)
    if kind == "Grain":
        batches = IndexedBatches(grain.MapDataset.range(6).map(lambda i: (i, i)).batch(4))
    shares = []
    for process in range(2):
        monkeypatch.setattr(bikd.data.streams, "processes", lambda process=process: (process, 2, devices))
        shared = bikd.data.share_of_process(batches)
        assert len(shared) == 2
        shares.append([np.array(x).tolist() for x, _ in shared])
    assert shares[0] == rows
    second = [[2, 3], [5]] if devices == 2 else [[2, 3], [4, 5]]  # four devices and two rows: each row twice
    assert shares[1] == second


def test_meta_images_in_training_with_a_probability():
    load = lambda **kwargs: bikd.data.load("sklearn_digits", 50, meta_size=100, test_size=500, batch_size=1, **kwargs)
    plain, mixed = load(), load(cut=LongTailCut(meta_in_train=0.5))
    meta = {image.tobytes() for image in images_and_labels(plain.meta)[0]}
    train = {image.tobytes() for image in images_and_labels(plain.train)[0]}
    drawn = [image.tobytes() for image in images_and_labels(mixed.train)[0]]
    assert set(drawn) <= train | meta
    assert len(drawn) == 314 + 100 == pytest.approx(mixed.class_counts.sum(), abs=5)
    assert sum(image in meta for image in drawn) == pytest.approx(207, abs=52)
    counts = np.array(plain.class_counts)
    np.testing.assert_allclose(mixed.class_counts, 414 * (0.5 * counts / 314 + 0.05), atol=0.51)
    assert mixed.manifest["ids_sha256"] == plain.manifest["ids_sha256"]
    assert mixed.manifest["meta_in_train"] == 0.5


def test_training_and_meta_images_may_be_augmented_apart():
    darken = lambda images, seed: images * 0.0
    load = lambda augment: bikd.data.load("sklearn_digits", 50, meta_size=100, test_size=500, augment=augment)
    data = load((darken, None))
    assert max(float(keras.ops.max(x)) for x, _ in data.train) == 0.0
    assert min(float(keras.ops.max(x)) for x, _ in data.meta) > 0.5


def test_a_validation_set_shares_no_image_and_stands_in_the_manifest(tmp_path):
    data = bikd.data.load("sklearn_digits", 10, meta_size=100, validation_size=200, test_size=500)
    sets = [
        {image.tobytes() for image in images_and_labels(getattr(data, name))[0]}
        for name in ("train", "meta", "validation", "test")
    ]
    assert len(sets[2]) == 200
    assert len(set.union(*sets)) == sum(map(len, sets))
    assert np.bincount(images_and_labels(data.validation)[1]).tolist() == [20] * 10
    bikd.data.save_manifest(tmp_path / "split.json", data)
    bikd.data.check_manifest(tmp_path / "split.json", bikd.data.load_manifest(tmp_path / "split.json"))
    assert bikd.data.load("sklearn_digits", 10, meta_size=100, test_size=500).validation is None


@pytest.mark.parametrize("meta_in_train", [False, True])
@pytest.mark.parametrize("source", ["tfds", "arrays", "folder"])
def test_wrong_labels_are_in_the_training_set_alone(source, meta_in_train, tmp_path):
    x, y = arrays()
    write_folder(tmp_path / "images", counts=(60, 60, 60))
    sizes = {"meta_size": 30, "test_size": 60}
    loads = {
        "tfds": lambda **cut: load(cut=LongTailCut(**cut)),
        "arrays": lambda **cut: bikd.data.load(Arrays(x, y), 10, cut=LongTailCut(**cut), **sizes),
        "folder": lambda **cut: bikd.data.load(
            Folder(tmp_path / "images", (10, 8)), 5, cut=LongTailCut(**cut), **sizes
        ),
    }
    right = loads[source](meta_in_train=meta_in_train)
    wrong = with_wrong_labels(right, 0.3)

    def labels_of(data_set):
        return {image.tobytes(): label for image, label in zip(*images_and_labels(data_set))}

    before, after, meta = labels_of(right.train), labels_of(wrong.train), labels_of(right.meta)
    assert before.keys() == after.keys()
    changed = {image for image, label in after.items() if before[image] != label}
    assert len(changed) == round(0.3 * len(before.keys() - (meta.keys() if meta_in_train else ())))
    assert not changed & meta.keys()
    assert labels_of(wrong.meta) == meta
    assert labels_of(wrong.test) == labels_of(right.test)
    counts = np.bincount(list(after.values()), minlength=wrong.num_classes)
    assert wrong.class_counts.tolist() == counts.tolist() != right.class_counts.tolist()
    assert wrong.manifest["ids_sha256"] == right.manifest["ids_sha256"]


def test_a_seed_gives_the_wrong_labels_that_it_gave_in_the_first_version():
    """Recorded when they were an argument of `LongTailCut`."""
    shuffled, merged = LongTailCut(class_order="shuffled"), LongTailCut(meta_in_train=0.5)
    wrong = [
        with_wrong_labels(load(seed=3), 0.4),
        with_wrong_labels(load(seed=4, imbalance_factor=10, cut=shuffled), 0.3, [["1", "7", "4"], ["3", "8"]]),
        with_wrong_labels(load(seed=5, imbalance_factor=None, cut=merged), 0.2),
    ]
    digests = [hashlib.sha256(own.split.labels.astype("<i8").tobytes()).hexdigest()[:16] for own in wrong]
    assert digests == ["cd5620ff4f29df63", "7b240bdd366252e7", "b05c9ec02df72413"]
    assert [own.class_counts.tolist() for own in wrong] == [
        [113, 67, 57, 30, 22, 13, 7, 2, 1, 2],
        [114, 28, 88, 12, 17, 40, 19, 52, 23, 68],
        [134, 135, 128, 128, 129, 128, 129, 126, 128, 132],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 1.5}, r"share=\.\.\.\)` takes.*Received: share=1\.5"),
        ({"share": 0.9}, "lose their last training sample to a wrong label.*share=0.9"),
        ({"share": 0.4, "confusable": ("cat", "cow")}, r"two or more class names, each name once.*\('cat', 'cow'\)"),
        ({"share": 0.4, "confusable": [("3",)]}, "two or more class names"),
        ({"share": 0.2, "confusable": [("3", "eight")]}, r"names of the 10 classes.*among others: \['eight'\]"),
    ],
)
def test_wrong_labels_that_cannot_be_given(arguments, message):
    with pytest.raises(ValueError, match=message):
        with_wrong_labels(load(imbalance_factor=100), **arguments)
