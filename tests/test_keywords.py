"""Text through the loaders: the keywords of Python's standard library, in both kinds of pipeline."""

import keyword
import pathlib
import re

import keras
import keywords_data
import numpy as np
import pytest
from keywords_data import place_of, samples_of
from test_indexed import content, load

import compare_protocol
import keras_bikd as bikd
from compare_methods import METHODS
from compare_networks import ByteConvNet
from compare_tables import rows_of
from keras_bikd.data import Arrays, Tfds

PATHS = [f"package_{i % 3}/module_{i}.py" for i in range(40)]
PARTS = {
    "train": {path for path in PATHS if place_of(path) >= 0.4},
    "held_out": {path for path in PATHS if 0.2 <= place_of(path) < 0.4},
    "test": {path for path in PATHS if place_of(path) < 0.2},
}


@pytest.fixture(autouse=True)
def quiet():
    keras.config.disable_interactive_logging()
    yield
    keras.config.enable_interactive_logging()


def words(path):
    """Every keyword, the first ones more often; the name of the file stands around each."""
    counts = range(len(keyword.kwlist), 0, -1)
    return "".join(
        f"{path!r}\n{word} # {path}\n" for word, n in zip(keyword.kwlist, counts) for _ in range(1 + n // 12)
    )


def write_library(root):
    for path in PATHS:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(words(path))
    for path in ("site-packages/other.py", "dist-packages/other.py", "README.txt"):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text("if of_another_project: pass")
    (root / "bytes.py").write_bytes(b"# \xff\nif x: pass")
    (root / "unfinished.py").write_text("if x: '''")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A small standard library, and a folder for what is prepared from it."""
    root = tmp_path_factory.mktemp("library")
    write_library(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keywords_data.PythonKeywords, "ROOT", root)
        yield root, tmp_path_factory.mktemp("prepared")


@pytest.fixture
def source(library):
    return Tfds("python_keywords", data_dir=library[1])


def test_samples_of_a_file_of_the_standard_library():
    """Against a regular expression, on a module without keywords in its strings and comments."""
    path = pathlib.Path(keyword.__file__)
    text = re.sub(r'(?s)""".*?"""|\'[^\']*\'|#[^\n]*', lambda match: "." * len(match.group()), path.read_text())
    found = [match for match in re.finditer(r"\w+", text) if match.group() in keyword.kwlist]
    samples, around = samples_of(path.read_text()), "\n" * 48 + path.read_text() + "\n" * 16
    assert [keyword.kwlist[label] for label in samples.labels] == [match.group() for match in found]
    assert (samples.x.shape, samples.x.dtype) == ((len(found), 65), "uint8")
    assert (np.flatnonzero((samples.x == 0).any(axis=0)) == [48]).all()
    for x, match in zip(samples.x, found):
        assert (
            x.tobytes() == f"{around[match.start() : match.start() + 48]}\0{around[match.end() + 48 :][:16]}".encode()
        )


def test_contexts_are_bytes_and_lines_end_where_python_ends_them():
    first, second = samples_of("\x0c\u2028 = 'é' # \x85\nx = 1 if ü else 2\n").x
    assert first.tobytes().endswith("'é' # \x85\nx = 1 \0 ü else 2\n".encode() + b"\n" * 5)
    assert second.tobytes().endswith("if ü \0 2\n".encode() + b"\n" * 13)
    assert len(samples_of("print(iffy, 'if', match)").labels) == 0
    assert samples_of("").x.shape == (0, 65)


def paths_in(rows):
    return {re.search(rb"package_\d/module_\d+.py", x.astype("uint8").tobytes()).group().decode() for x, _ in rows}


def test_no_file_is_in_two_parts(source):
    data = load(source, None, meta_size=70, validation_size=35, in_grain=False)
    parts = {
        name: paths_in(source.rows(ids, source.labels))
        for name, ids in vars(data.split).items()
        if name in ("train", "meta", "validation")
    }
    assert parts["train"] == PARTS["train"]
    assert parts["meta"] | parts["validation"] <= PARTS["held_out"]
    assert paths_in(source.test_rows()) <= PARTS["test"]
    assert min(len(part) for part in PARTS.values()) > 3
    # Of what other files there are, nothing depends.
    assert place_of("asyncio/base_events.py") == pytest.approx(0.0444, abs=1e-4)


def test_counts_are_natural_and_the_other_sets_balanced(source):
    data = load(source, None, meta_size=70, validation_size=35, in_grain=False)
    once = np.array([1 + n // 12 for n in range(35, 0, -1)])
    assert data.class_names == keyword.kwlist
    np.testing.assert_array_equal(data.class_counts, once * len(PARTS["train"]))
    smallest = len(PARTS["test"])
    for part, per_class in (("meta", 2), ("validation", 1), ("test", smallest)):
        labels = np.concatenate([np.asarray(y) for _, y in getattr(data, part)])
        np.testing.assert_array_equal(np.bincount(labels), [per_class] * 35)
    with pytest.raises(ValueError, match=rf"meta_size=.*smallest has {len(PARTS['held_out'])}.*meta_size=3500"):
        load(source, None, meta_size=3500, in_grain=False)


@pytest.mark.parametrize("meta_in_train", [False, True])
def test_both_pipelines_have_the_same_samples_as_integers(source, meta_in_train):
    cut = bikd.data.LongTailCut(meta_in_train=meta_in_train)
    sizes = {"meta_size": 70, "validation_size": 35, "batch_size": 64, "cut": cut}
    ours, theirs = (load(source, None, **sizes, in_grain=in_grain) for in_grain in (True, False))
    assert ours.manifest == theirs.manifest
    for part in ("train", "meta", "validation", "test"):
        assert content(getattr(ours, part)) == content(getattr(theirs, part))
        for data in (ours, theirs):
            x, y = next(iter(getattr(data, part)))
            assert (x.dtype, x.shape[1:], y.dtype) == ("int32", data.sample_shape, "int64")
    counts = np.bincount(np.concatenate([y for _, y in ours.train]))
    np.testing.assert_array_equal(counts, ours.class_counts)


@pytest.mark.slow
def test_another_library_gives_another_manifest(library, source, tmp_path, monkeypatch):
    data = load(source, None, meta_size=70, in_grain=False)
    version = ".".join(map(str, source.streamed.builder.version.tuple))
    assert data.manifest["version"].startswith(f"{version}+")
    bikd.data.save_manifest(tmp_path / "split.json", data)
    write_library(tmp_path / "library")
    monkeypatch.setattr(keywords_data.PythonKeywords, "ROOT", tmp_path / "library")
    same = load(Tfds("python_keywords", data_dir=tmp_path / "same"), None, meta_size=70, in_grain=False)
    bikd.data.check_manifest(tmp_path / "split.json", same)
    path = tmp_path / "library" / min(PARTS["train"])
    path.write_text(path.read_text().replace("#", "%", 1))
    keywords_data._read.cache_clear()
    other = load(Tfds("python_keywords", data_dir=tmp_path / "other"), None, meta_size=70, in_grain=False)
    with pytest.raises(ValueError, match=rf"other data\. version: '{version}\+\w+' there, '{version}\+\w+' here"):
        bikd.data.check_manifest(tmp_path / "split.json", other)


def test_a_library_without_some_keyword(tmp_path, monkeypatch):
    (tmp_path / "module.py").write_text("if x: pass")
    monkeypatch.setattr(keywords_data.PythonKeywords, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"needs every keyword.*lack \['False', 'None'.*incomplete"):
        Tfds("python_keywords", data_dir=tmp_path / "prepared")


def test_the_small_variant_shares_what_is_not_trained_on():
    """Twelve files of a hundred, all of which the large variant trains on too."""
    small, full = (keywords_data.PythonKeywords.builder_configs[name].trained_from for name in ("small", "full"))
    places = [place_of(f"module_{i}.py") for i in range(5000)]
    assert np.mean(np.array(places) >= small) == pytest.approx(0.12, abs=0.015)
    assert np.mean(np.array(places) >= full) == pytest.approx(0.6, abs=0.02)


def test_images_are_what_can_be_resized(library):
    with pytest.raises(ValueError, match=r"image_size=\.\.\.\)` is for images.*image_size=\(8, 8\)"):
        Tfds("python_keywords", data_dir=library[1], image_size=(8, 8))


@pytest.mark.parametrize("in_grain", [False, True])
@pytest.mark.parametrize(
    ("augment", "message"),
    [(bikd.data.gaussian_noise(0.1), "floats.*int32"), (bikd.data.pad_crop_flip(1), "for images.*65")],
)
def test_augmentations_of_images_refuse_text(source, in_grain, augment, message):
    with pytest.raises(Exception, match=f"(?s){message}"):
        next(iter(load(source, None, meta_size=70, augment=augment, in_grain=in_grain).train))


def test_tokens_in_arrays_stay_integers():
    tokens = np.random.default_rng(0).integers(0, 50, (300, 7)).astype("int32")
    for in_grain in (False, True):
        data = load(Arrays(tokens, np.arange(300) % 3), 10, meta_size=30, test_size=60, in_grain=in_grain)
        x = np.concatenate([np.asarray(x) for x, _ in data.train])
        assert x.dtype == "int32"
        assert {row.tobytes() for row in x} <= {row.tobytes() for row in tokens}


@pytest.mark.slow
def test_students_of_text_learn(source):
    """The hypergradient goes through the embedding."""
    data = load(source, None, meta_size=70, batch_size=(128, 35))
    student, teacher = (ByteConvNet(12, (16,), *more)((65,), 35) for more in ((), ((16,), 0.1)))
    model = bikd.BiKDModel(student, teacher, class_counts=data.class_counts.tolist())
    model.compile(keras.optimizers.Adam(1e-2), metrics=[bikd.metrics.BalancedAccuracy(35)])
    weights = lambda: [model.weight_net.get_weights()[0], student.get_weights()[0]]
    before = weights()
    history = model.fit(data.train, meta_data=data.meta, validation_data=data.test, verbose=0).history
    assert np.isfinite(history["loss"][0])
    assert all((own != old).any() for own, old in zip(weights(), before))
    assert (student.count_params(), student.input_dtype) == (256 * 12 + (5 * 12 + 4) * 16 + (32 * 16 + 1) * 35, "int32")


@pytest.mark.slow
def test_a_comparison_with_natural_counts(source, tmp_path, monkeypatch):
    load_any = bikd.data.load
    monkeypatch.setattr(bikd.data, "load", lambda _, *sizes, **kwargs: load_any(source, *sizes, **kwargs))
    net = ByteConvNet(12, (16,))
    setting = compare_protocol.Setting(
        name="python_keywords", imbalance_factors=(None,), seeds=(0,), meta_size=70, steps=20, student=net, teacher=net
    )
    monkeypatch.setitem(compare_protocol.SETTINGS, "keywords", setting)
    table = compare_protocol.table_of("keywords", None, {"KD": METHODS["KD"]}, (0,), tmp_path)
    table.comparison.train(table.comparison.methods)
    (row,), missing = rows_of(table)
    assert not missing
    assert table.comparison.store.folder == tmp_path / "keywords_natural"
    assert row["imbalance_factor"] is None
    assert row["overall"] == pytest.approx((10 * row["many"] + 15 * row["medium"] + 10 * row["few"]) / 35)
