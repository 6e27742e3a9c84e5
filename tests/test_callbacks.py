"""Callbacks in a real `fit`."""

import copy

import numpy as np
import pytest

import keras_bikd as bikd
import models


def run(callback, **kwargs):
    model = models.compiled()
    train, meta = models.arrays(24), models.arrays(8, seed=1)
    model.fit(*train, meta_data=meta, batch_size=4, verbose=0, callbacks=[callback], **kwargs)
    return model, train


@pytest.mark.parametrize(("every", "drawn"), [(None, [3]), (1, [1, 2, 3]), (2, [2, 3])])
def test_weight_map_is_drawn_at_the_chosen_epochs_and_at_the_end(tmp_path, every, drawn):
    run(bikd.callbacks.WeightMap(tmp_path / "maps", every=every), epochs=3)
    names = {f"weight_map_{epoch:04d}.{kind}" for epoch in drawn for kind in ("png", "npz")}
    assert {path.name for path in (tmp_path / "maps").iterdir()} == names


def test_weight_map_holds_every_training_sample_once(tmp_path):
    model, (x, y) = run(bikd.callbacks.WeightMap(tmp_path))
    seen = np.load(tmp_path / "weight_map_0001.npz")
    expected = model.sample_weights([(x, y)])
    assert seen["weights"].shape == (24, 2)
    for name, values in expected._asdict().items():
        np.testing.assert_allclose(np.sort(seen[name], axis=0), np.sort(values, axis=0), rtol=1e-5)


def test_weight_map_of_an_endless_stream_and_of_given_data(tmp_path):
    model = models.compiled()
    train, meta = models.dataset(models.arrays(24)), models.dataset(models.arrays(8, seed=1))
    callbacks = [
        bikd.callbacks.WeightMap(tmp_path / "stream"),
        bikd.callbacks.WeightMap(tmp_path / "given", data=train),
    ]
    model.fit(train.repeat(), meta_data=meta, steps_per_epoch=4, verbose=0, callbacks=callbacks)
    assert len(np.load(tmp_path / "stream" / "weight_map_0001.npz")["labels"]) == 16
    assert len(np.load(tmp_path / "given" / "weight_map_0001.npz")["labels"]) == 24


def test_callbacks_can_be_copied(tmp_path):
    copied = copy.deepcopy(bikd.callbacks.WeightMap(tmp_path, every=2))
    run(copied, epochs=2)
    assert (tmp_path / "weight_map_0002.png").stat().st_size > 1000
