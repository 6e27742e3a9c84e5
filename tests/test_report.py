"""The report of a comparison and its model card: they say what the findings say, and need nothing else."""

import csv
import html
import html.parser
import importlib.util
import json
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import models
from keras_bikd import comparison
from keras_bikd.comparison import report
from keras_bikd.metrics import ExpectedCalibrationError

NAMES = ["<b>&x", "a|b", "$\\foo$", "lone"]
VOID = {"br", "img", "link", "meta", "source"}


def make_findings(folder, *, with_test):
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2, 3], [60, 20, 8, 1])
    x = random.uniform(0, 0.5, size=(len(labels), 8, 8, 1)).astype("float32")
    x[np.arange(len(x)), labels] += 0.3 * random.uniform(size=(len(x), 1, 1)).astype("float32")
    labels[:3] = 1  # wrong labels
    samples = comparison.Samples(x.__getitem__, labels, NAMES, names=[f"{i}.png" for i in range(len(x))])
    layers = keras.layers

    def network(units):
        return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(units), layers.Dense(4)])

    protocol = comparison.Protocol(
        methods=("cross-entropy", "balanced softmax", "BiKD with class counts"), seeds=(0, 1), steps=20, batch_size=16
    )
    test = (x[1::3], labels[1::3]) if with_test else None
    return comparison.compare(samples, lambda: network(8), network(4), folder=folder, test_data=test, protocol=protocol)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    models.reseed()
    with pytest.warns(UserWarning, match="single sample"):
        found = make_findings(tmp_path_factory.mktemp("comparison"), with_test=True)
    found.failures.append(comparison.Failure("a <method>", 1, "Traceback:\nValueError: broken & gone"))
    return found


@pytest.fixture(scope="module")
def text(found):
    return found.report(command="bikd compare a & b").read_text()


class Balance(html.parser.HTMLParser):
    """Checks that every tag is closed in its place; collects attributes and texts."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def parsed(text):
    page = Balance()
    page.feed(text)
    assert not page.open
    return page


def headings(text):
    return re.findall(r"<h2>(.+?)</h2>", text)


def test_report_is_one_file_that_loads_nothing(text):
    page = parsed(text)
    loaded = [attributes.get(key) for _, attributes in page.tags for key in ("src", "href", "srcset", "data")]
    assert all(target.startswith(("data:image/", "#")) for target in loaded if target)
    assert "url(" not in text
    assert "@import" not in text
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert [tag for tag, _ in page.tags].count("h1") == 1


def test_report_can_be_read_without_seeing_it(text):
    tags = parsed(text).tags
    assert all("alt" in attributes for tag, attributes in tags if tag == "img")
    assert all("scope" in attributes for tag, attributes in tags if tag == "th")
    assert [tag for tag, _ in tags].count("table") == [tag for tag, _ in tags].count("caption")
    targets = {attributes["href"][1:] for tag, attributes in tags if tag == "a"}
    assert targets <= {attributes.get("id") for _, attributes in tags}


def test_report_has_every_section(text):
    assert headings(text) == [
        "All methods",
        "Accuracy per class",
        "Class counts",
        "What is confused",
        "Calibration",
        "What the weights are",
        "Training",
        "Labels to look at",
        "What failed",
        "How it was done",
    ]


def test_names_are_escaped(text):
    page = parsed(text)
    assert "<b>&x" not in text
    for shown in (*NAMES, "a <method>, seed 1: ValueError: broken & gone", "bikd compare a & b"):
        assert any(shown in piece for piece in page.texts), shown


def test_report_says_what_the_findings_say(found, text):
    plain = html.unescape(re.sub(r"<[^>]+>", "", re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)))
    for sentence in found.recommendation.sentences[1:]:
        assert sentence.replace(" -", " −").replace(" %", "\N{NO-BREAK SPACE}%").replace("`", "") in plain
    for name in found.methods:
        scores = [row["validation"] for row in found.rows if row["method"] == name]
        low, high = found.evidence.interval(name)
        assert f"{np.mean(scores):.1f} ± {np.std(scores, ddof=1):.1f}" in plain
        assert f"{low:.1f} to {high:.1f}" in plain
        tested = [row["test"] for row in found.rows if row["method"] == name]
        assert f"{np.mean(tested):.1f} ± {np.std(tested, ddof=1):.1f}" in plain


def test_lines_of_methods_and_classes_are_those_of_the_findings(found):
    numbers = found.numbers()
    for line in numbers["methods"]:
        recalls = found.evidence.recalls(line["name"])
        assert line["groups"]["frequent"] == pytest.approx(100 * recalls[:2].mean())
        assert "rare" not in line["groups"]  # its class has one sample
        confusion = found.confusion(line["name"], "test")
        assert line["test_groups"]["medium"] == pytest.approx(100 * confusion[2, 2] / confusion[2].sum())
        assert (line["difference"] is None) == (line["name"] == "cross-entropy")
    known = found.class_accuracies(found.recommendation.method)
    assert str(numbers["accuracies"][found.recommendation.method]) == str(known)  # with NaNs
    assert numbers["largest_first"] == np.argsort(-found.class_counts, kind="stable").tolist()
    assert numbers["unjudged"] == ["lone"]


def test_confused_pairs_are_all_that_occur_and_sorted(found):
    pairs, matrix = found.numbers()["pairs"], found.confusion(found.recommendation.method)
    assert set(pairs) == {(i, j) for i, j in np.argwhere(matrix) if i != j}
    least = [comparison.intervals.wilson(matrix[i, j] / matrix[i].sum(), matrix[i].sum())[0] for i, j in pairs]
    assert least == sorted(least, reverse=True)
    for (label, _), (samples, ids) in pairs.items():
        assert set(samples.labels[ids]) == {label}


def test_confused_pairs_are_counted_in_the_report(found, text):
    matrix = found.confusion(found.recommendation.method)
    for label, predicted in found.numbers()["pairs"]:
        assert f"<td>{matrix[label, predicted]} of {matrix[label].sum()}</td>" in text


def test_calibration_is_that_of_the_metric(found):
    method, metric = found.recommendation.method, ExpectedCalibrationError(num_bins=10)
    for seed in (0, 1):
        metric.update_state(found.labels(seed), found.logits(method, seed))
    assert found.calibration(method)["error"] == pytest.approx(100 * float(metric.result()))
    confidences, right = found.numbers()["confidences"][method]
    assert right.mean() == pytest.approx(np.trace(found.confusion(method)) / len(confidences))


def test_suspected_labels_are_written_as_a_table(found, text):
    with open(found.folder / report.SUSPECTS_FILE, newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(found.suspects.samples) > 0
    for line, suspect in zip(lines, found.suspects.samples):
        assert int(line["position"]) == suspect.position
        assert line["name"] == found.train.name(suspect.position)
        assert (line["label"], line["suggested"]) == (NAMES[suspect.label], NAMES[suspect.suggested])
        assert float(line["margin"]) == pytest.approx(suspect.margin, abs=1e-4)
        assert line["held_out"] == str(suspect.held_out)
    assert f"{len(lines)} of {found.suspects.looked_at} labels" in text


def test_the_same_findings_give_the_same_bytes(found, text, tmp_path):
    again = found.report(tmp_path / "elsewhere" / "again.html", command="bikd compare a & b")
    assert again.read_text() == text
    assert (again.parent / report.SUSPECTS_FILE).exists()


def test_sections_without_content_are_left_out(found, monkeypatch, tmp_path):
    monkeypatch.setattr(report, "figure_uri", lambda draw, width=None: "data:image/png,")  # drawn in the other tests
    monkeypatch.setattr(found, "test", None)
    monkeypatch.setattr(found, "failures", [])
    monkeypatch.setattr(found, "suspects", comparison.Suspects([], 10, 0.0))
    monkeypatch.setattr(found, "weights", lambda method: None)
    text = found.report(tmp_path / "report.html").read_text()
    parsed(text)
    assert not {"What failed", "Labels to look at", "What the weights are"} & set(headings(text))
    assert "not used for the choice" not in text
    assert "nothing is known about: lone" in text
    assert (tmp_path / report.SUSPECTS_FILE).read_text().splitlines() == [
        "name,position,label,suggested,margin,held_out"
    ]


def test_only_images_have_thumbnails():
    def of(array):
        return report.thumbnails(comparison.Samples(array.__getitem__, np.zeros(2, int), ["a"]), [0, 1])

    assert len(of(np.zeros((2, 8, 8, 1)))) == 2
    assert of(np.full((2, 200, 150, 3), 0.5))[0].startswith("data:image/jpeg")
    assert of(np.full((2, 8, 8, 1), -1.0)) is None
    assert of(np.zeros((2, 8, 8, 2))) is None
    assert of(np.zeros((2, 5))) is None


def test_letters_that_the_font_lacks_stay_letters():
    from keras_bikd import plots

    uri = report.figure_uri(lambda: plots.class_count_bars([5, 1], ["猫", "犬"]))
    assert uri.startswith("data:image/svg+xml;base64,")


def test_model_card_has_the_numbers_of_the_findings(found, tmp_path):
    found.export(tmp_path)
    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert json.loads((tmp_path / "classes.json").read_text()) == NAMES
    known = found.class_accuracies(found.recommendation.method)
    for name, count, own in zip(("&lt;b>&amp;x", "a\\|b"), found.class_counts, known):
        accuracy = f"{100 * own.accuracy:.0f} ({100 * own.low:.0f} to {100 * own.high:.0f})"
        assert f"| {name} | {count} | {own.samples} | {accuracy} |" in card
    assert "without validation samples: lone" in card
    tables = [line for line in card.splitlines() if line.startswith("|")]
    assert len(tables) == 2 + 2 + 2 + 4 if found.recommendation.method != "cross-entropy" else 2 + 1 + 2 + 4
    error = found.calibration(found.recommendation.method)["error"]
    assert f"error: {error:.1f} points" in card


def test_unknown_formats_are_refused(found, tmp_path):
    with pytest.raises(ValueError, match=r"takes one of 'keras', 'tf_saved_model', 'litert'"):
        found.export(tmp_path, formats=("onyx",))


def test_what_is_missing_is_named_with_its_extra(found, monkeypatch, tmp_path):
    for package in ("jinja2", "matplotlib"):
        with monkeypatch.context() as context:
            context.setattr(importlib.util, "find_spec", lambda name, package=package: None if name == package else 1)
            with pytest.raises(ImportError, match=rf"(?i)need {package}.*the extra `viz`"):
                found.report(tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_exported_student_needs_no_library(found, tmp_path):
    found.export(tmp_path)
    x = np.random.default_rng(0).uniform(size=(5, 8, 8, 1)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    code = """
import sys
sys.modules["keras_bikd"] = None  # an import of it fails
import keras, numpy
numpy.save("logits.npy", keras.saving.load_model("student.keras").predict(numpy.load("x.npy"), verbose=0))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    expected = found.student().predict(x, verbose=0)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-5, atol=1e-6)
