"""Real digits through tfds: counts, disjointness, determinism."""

import hashlib
import json

import numpy as np
import pytest

import keras_bikd as bikd


def load(seed=0, imbalance_factor=50, **kwargs):
    return bikd.data.load(
        "sklearn_digits", imbalance_factor, meta_size=100, test_size=500, batch_size=64, seed=seed, **kwargs
    )


def images_and_labels(data_set):
    images, labels = zip(*data_set.as_numpy_iterator())
    return np.concatenate(images), np.concatenate(labels)


def content(data_set):
    return {hashlib.sha256(image.tobytes()).hexdigest() for image in images_and_labels(data_set)[0]}


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
