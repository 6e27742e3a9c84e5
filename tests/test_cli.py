"""The command `bikd`: what it makes of a user's data, and what it says of data that it cannot take."""

import json
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pandas
import pytest

import keras_bikd_cli
from keras_bikd.comparison import Findings, read_images, read_tfds
from keras_bikd.comparison.from_csv import Columns, read_table

ROOT = pathlib.Path(__file__).parents[1]
SHORT = ["--steps", "20", "--seeds", "1", "--batch-size", "8", "--methods", "cross-entropy", "balanced softmax"]


@pytest.fixture
def images(tmp_path):
    """Three classes of 9, 6 and 4 images of 12x12 pixels."""
    generator = np.random.default_rng(0)
    for label, (name, count) in enumerate((("cat", 9), ("dog", 6), ("fox", 4))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(count):
            image = generator.integers(0, 100, (12, 12, 3))
            image[..., label] += 120
            keras.utils.save_img(tmp_path / "photos" / name / f"{i}.jpg", image, scale=False)
    return tmp_path / "photos"


ROWS = [
    [i, "" if i % 7 == 0 else i % 5, ["red", "blue", ""][i % 3], f"name {i}", "EUR", "yes" if i % 6 == 0 else "no"]
    for i in range(90)
]
HEADER = ["id", "unit price (EUR)", "colour", "name", "currency", "sold"]


def written(path, header=HEADER, rows=ROWS, delimiter=","):
    path.write_text("\n".join(delimiter.join(map(str, row)) for row in [header, *rows]))
    return path


@pytest.fixture
def table(tmp_path):
    return written(tmp_path / "table.csv")


@pytest.fixture
def written_results(monkeypatch):
    """The report and the export are others' work; their arguments are kept."""
    calls = {}

    def export(findings, folder, formats):
        folder.mkdir()
        findings.train.export.wrap(findings.student()).save(folder / "student.keras")
        calls["example"] = findings.train.export.example
        calls["formats"] = formats

    monkeypatch.setattr(
        Findings, "report", lambda findings, path, command: calls.update(command=command), raising=False
    )
    monkeypatch.setattr(Findings, "export", export, raising=False)
    return calls


def in_another_process(code):
    """Run code where `keras_bikd` cannot be imported."""
    blocked = f"import sys; sys.modules['keras_bikd'] = None\nimport keras, numpy as np\n{code}"
    run = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_help_and_version_are_answered_without_keras(capsys):
    code = (
        "import sys, keras_bikd_cli\n"
        "try: keras_bikd_cli.main(['compare', '--help'])\n"
        "finally: print({'keras', 'tensorflow', 'numpy'} & {*sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.stdout.endswith("set()\n")
    assert "--scheduler ADDRESS" in run.stdout
    with pytest.raises(SystemExit, match="0"):
        keras_bikd_cli.main(["--version"])
    assert capsys.readouterr().out.startswith("bikd ")


def test_folder_of_images(images, tmp_path, capsys, written_results):
    """A cut file, a text and an empty folder are named; the report is told the command."""
    (images / "empty").mkdir()
    (images / "cat" / "cut.jpg").write_bytes((images / "cat" / "0.jpg").read_bytes()[:300])
    (images / "dog" / "text.jpg").write_text("no image")
    arguments = ["compare", str(images), "--out", str(tmp_path / "out"), "--image-size", "12", "12", *SHORT]
    assert keras_bikd_cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert "19 samples in 3 classes of 9 to 4" in out
    assert "Use " in out
    assert str(tmp_path / "out" / "report.html") in out
    assert str(tmp_path / "out" / "student" / "student.keras") in out
    assert err.count("Warning:") == len(set(err.splitlines())) == 1, err
    assert all(part in err for part in ("2 files", "cut.jpg", "text.jpg", "empty"))
    assert written_results["formats"] == ("keras",)
    assert written_results["command"].startswith("bikd compare ")
    student = keras.saving.load_model(tmp_path / "out" / "student" / "student.keras")
    assert student.predict(np.full((1, 12, 12, 3), 255.0), verbose=0).shape == (1, 3)


@pytest.mark.tensorflow  # only its layers look up texts
@pytest.mark.filterwarnings("ignore:.*columns are left out:UserWarning")
def test_table_and_its_student_in_another_process(table, tmp_path, capsys, written_results):
    arguments = ["compare", str(table), "--label", "sold", "--out", str(tmp_path / "out"), *SHORT[:-1]]
    assert keras_bikd_cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert "90 samples in 2 classes of 75 to 15" in out
    assert all(f": {name}." in err for name in ("name", "id", "currency"))
    model = tmp_path / "out" / "student" / "student.keras"
    code = (
        f"{written_results['example']}\nstudent = keras.saving.load_model({str(model)!r})\n"
        "print(student.predict(inputs, verbose=0).tolist())\n"
        "inputs['colour'][:] = 'never seen'\n"
        "print(np.isfinite(student.predict(inputs, verbose=0)).all())"
    )
    logits, finite = in_another_process(code).splitlines()
    samples = read_table(table, "sold").samples
    rows = json.loads((tmp_path / "out" / "rows" / "cross_entropy_0.json").read_text())
    assert rows["method"] == "cross-entropy"
    assert np.shape(json.loads(logits)) == (2, 2)
    assert finite == "True"
    assert samples.inputs(np.arange(2)).shape == (2, 3)


@pytest.mark.tensorflow  # only its layers look up texts
@pytest.mark.filterwarnings("ignore:.*columns are left out:UserWarning")
@pytest.mark.parametrize("columns", [HEADER[1:3], ["colour"], ["unit price (EUR)"]], ids=str)
def test_model_of_raw_columns_is_the_student_of_their_matrix(table, tmp_path, columns):
    places = [HEADER.index(name) for name in [*columns, "sold"]]
    small = written(tmp_path / "small.csv", [*columns, "sold"], [[row[place] for place in places] for row in ROWS], ";")
    read = read_table(small, "sold")
    student = read.student()
    inputs = {}
    if "unit price (EUR)" in columns:
        inputs["unit_price__EUR_"] = np.array([np.nan if row[1] == "" else row[1] for row in ROWS], "float32")
    if "colour" in columns:
        inputs["colour"] = np.array([row[2] for row in ROWS], object)
    expected = student.predict(read.samples.inputs(np.arange(90)), verbose=0)
    np.testing.assert_allclose(read.samples.export.wrap(student).predict(inputs, verbose=0), expected, atol=1e-5)


def test_columns_by_hand():
    """Mean 30 and deviation 10; a missing number is the mean; a category that was seen once is any other."""
    table = pandas.DataFrame({"age": [20, 40, np.nan, 30], "city": ["Rome", "Rome", "Oslo", ""]})
    columns = Columns(table)
    deviation = np.std([20, 40, 30])
    expected = [[-10 / deviation, 0, 1], [10 / deviation, 0, 1], [0, 1, 0], [0, 0, 0]]
    np.testing.assert_allclose(columns.matrix(table), expected, rtol=1e-6)
    unknown = pandas.DataFrame({"age": [1e9], "city": ["Bonn"]})
    assert columns.matrix(unknown).tolist() == [[10, 0, 0]]


def test_dry_run_writes_nothing(images, tmp_path, capsys):
    arguments = ["compare", str(images), "--out", str(tmp_path / "out"), "--image-size", "12", "12", *SHORT]
    assert keras_bikd_cli.main([*arguments[:-1], "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert all(part in out for part in ("Student:", "cross-entropy", "20 steps", "Together about"))
    assert not (tmp_path / "out").exists()


def test_stopped_by_the_user(images, tmp_path, capsys, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(keras_bikd_cli, "_compare", stop)
    assert keras_bikd_cli.main(["compare", "my photos", "--out", "out"]) == 130
    assert "bikd compare 'my photos' --out out" in capsys.readouterr().err


def one_class(tmp_path):
    (tmp_path / "one" / "cat").mkdir(parents=True)
    keras.utils.save_img(tmp_path / "one" / "cat" / "0.png", np.zeros((9, 9, 3)))
    return tmp_path / "one"


def not_utf8(tmp_path):
    (tmp_path / "latin.csv").write_bytes("a,sold\nMünchen,1\n".encode("latin-1"))
    return tmp_path / "latin.csv"


def only(column):
    """A table with one column besides the label."""
    return lambda tmp_path: written(tmp_path / "t.csv", ["x", "sold"], [[column(i), i % 2] for i in range(60)])


BAD = {
    "no such file": (lambda tmp_path: tmp_path / "absent", [], "no file or folder"),
    "one class folder": (one_class, [], r"at least two.*\['cat'\]"),
    "no label": (lambda tmp_path: written(tmp_path / "t.csv"), [], "no column was named.*colour"),
    "absent label": (lambda tmp_path: written(tmp_path / "t.csv"), ["--label", "x"], "no column 'x'.*colour, name"),
    "one class": (lambda tmp_path: written(tmp_path / "t.csv"), ["--label", "currency"], r"two classes.*\['EUR'\]"),
    "no classes": (lambda tmp_path: written(tmp_path / "t.csv"), ["--label", "name"], "90 different values"),
    "ragged": (
        lambda tmp_path: written(tmp_path / "t.csv", rows=[*ROWS, [1, 2]]),
        ["--label", "sold"],
        "another number in 1 lines: 92",
    ),
    "doubled column": (
        lambda tmp_path: written(tmp_path / "t.csv", ["a", "a"], [[1, 2]]),
        ["--label", "a"],
        "several columns of the same name: a",
    ),
    "no rows": (lambda tmp_path: written(tmp_path / "t.csv", rows=[]), ["--label", "sold"], "no rows"),
    "not UTF-8": (not_utf8, ["--label", "sold"], "latin.csv' is not text in UTF-8"),
    "constant column alone": (only(lambda i: 5), ["--label", "sold"], "No column besides the label can help: x"),
    "methods": (only(lambda i: i % 3), ["--label", "sold", "--methods", "magic"], "takes one of 'cross.*magic"),
}


@pytest.mark.filterwarnings("ignore:.*columns are left out:UserWarning")
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_message(name, tmp_path, capsys):
    make, options, message = BAD[name]
    assert keras_bikd_cli.main(["compare", str(make(tmp_path)), "--out", str(tmp_path / "out"), *options]) == 2
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert last.startswith("bikd: ")
    assert re.search(message, last), last


def test_results_need_a_folder(images, tmp_path, capsys):
    """Root may write everywhere; a file in its place stops everyone. It is said before the images are read."""
    (tmp_path / "out").write_text("")
    assert keras_bikd_cli.main(["compare", str(images), "--out", str(tmp_path / "out")]) == 2
    assert "The results need a folder that may be written to" in capsys.readouterr().err


def test_held_out_data_have_the_classes_of_the_training_data(images, tmp_path):
    read = read_images(images, (12, 12))
    other = tmp_path / "other"
    for name in ("dog", "fox"):
        (other / name).mkdir(parents=True)
        keras.utils.save_img(other / name / "0.png", np.zeros((9, 9, 3)))
    assert read.like(other).labels.tolist() == [1, 2]
    (other / "dog").rename(other / "wolf")
    with pytest.raises(ValueError, match="classes that the training data lack: wolf"):
        read.like(other)


@pytest.mark.filterwarnings("ignore:.*columns are left out:UserWarning")
def test_held_out_table_is_scaled_as_the_training_rows(table, tmp_path):
    read = read_table(table, "sold")
    same = read.like(written(tmp_path / "same.csv", rows=ROWS[:5]))
    np.testing.assert_array_equal(same.inputs(np.arange(5)), read.samples.inputs(np.arange(5)))
    assert same.name(0) == "line 2"
    with pytest.raises(ValueError, match="lacks columns of the training data: colour"):
        read.like(written(tmp_path / "less.csv", ["unit price (EUR)", "sold"], [[1, "yes"], [2, "no"]]))
    with pytest.raises(ValueError, match="has texts in column"):
        read.like(written(tmp_path / "texts.csv", rows=[["1", "dear", "red", "n", "EUR", "yes"]]))
    with pytest.raises(ValueError, match="classes that the training data lack: maybe"):
        read.like(written(tmp_path / "labels.csv", rows=[["1", "1", "red", "n", "EUR", "maybe"]]))


def test_rows_without_a_label_are_left_out(tmp_path):
    rows = [[i % 3, "" if i == 4 else i % 2] for i in range(30)]
    with pytest.warns(UserWarning, match="1 rows .* are left out: lines 6"):
        assert len(read_table(written(tmp_path / "t.csv", ["x", "y"], rows), "y").samples) == 29


def lines_of(column, delimiter=","):
    """A table with a column of the given cells, one of categories and one of labels."""
    cells = ((cell, i % 3, ("no", "yes")[i % 2]) for i, cell in enumerate(column))
    return [delimiter.join(map(str, row)) for row in [("x", "kind", "y"), *cells]]


NUMBERS = [f"{i / 8:.3f}" for i in range(60)]
MEAN = 59 / 2 / 8
FOUND = {
    "decimal commas": (lines_of([number.replace(".", ",") for number in NUMBERS], ";"), MEAN),
    "decimal points between semicolons": (lines_of(NUMBERS, ";"), MEAN),
    "thousands": (lines_of([f'"{i},{i:03}.5"' for i in range(1, 61)]), 1001 * 61 / 2 + 0.5),
    "a first line for Excel": (["sep=;", *lines_of(NUMBERS, ";")], MEAN),
    "missing numbers": (lines_of([*NUMBERS, "?", "NA", "-", "#N/A", "inf", ""]), MEAN),
}


@pytest.mark.parametrize("name", FOUND)
def test_numbers_are_numbers_however_they_are_written(name, tmp_path):
    lines, mean = FOUND[name]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    columns = read_table(tmp_path / "t.csv", "y").samples.export.wrap.__self__
    assert columns.numbers == ["x", "kind"]
    (features,) = columns.matrix(pandas.DataFrame({"x": [mean], "kind": [0]}))
    assert features[0] == pytest.approx(0, abs=1e-6)
    assert len(features) == 2 + (name == "missing numbers")


def test_a_text_among_numbers_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("\n".join(lines_of([*NUMBERS, "dear"])))
    with pytest.warns(UserWarning, match=r"'x' has numbers, and texts in 1 of 61 rows.*'dear' in line 62"):
        columns = read_table(tmp_path / "t.csv", "y").samples.export.wrap.__self__
    assert columns.numbers == ["x", "kind"]


@pytest.mark.parametrize(
    ("labels", "class_names"),
    [
        (["1", "1.0", "0", "0.0"], ["0", "1"]),
        (["None", "NA", "Apnea", "None"], ["Apnea", "NA", "None"]),
        (["10", "9", "010", "9"], ["9", "10"]),
    ],
)
def test_labels_are_what_they_say(tmp_path, labels, class_names):
    rows = [[i % 7, labels[i % 4]] for i in range(80)]
    read = read_table(written(tmp_path / "t.csv", ["x", "y"], rows), "y")
    assert read.samples.class_names == class_names
    assert read.samples.class_counts.sum() == 80
    other = read.like(written(tmp_path / "other.csv", ["x", "y"], [[1, labels[0]], [2, labels[1]]]))
    assert other.labels.tolist() == read.samples.labels[:2].tolist()


@pytest.mark.parametrize("scale", [1e-9, 1e20])
def test_the_student_of_raw_columns_is_the_trained_one_at_any_scale(tmp_path, scale):
    values = scale * (5 + np.random.default_rng(0).normal(size=60))
    table = written(tmp_path / "t.csv", ["x", "y"], [[f"{value:.6e}", i % 2] for i, value in enumerate(values)])
    read = read_table(table, "y")
    student = read.student()
    raw = read.samples.export.wrap(student).predict({"x": values.astype("float32")}, verbose=0)
    np.testing.assert_allclose(raw, student.predict(read.samples.inputs(np.arange(60)), verbose=0), atol=1e-4)


def test_texts_of_which_none_occurs_twice_are_left_out(tmp_path):
    rows = [[3 * i % 7, f"name {i}", i % 2] for i in range(15)]
    with pytest.warns(UserWarning, match="another text in nearly every row.*: name"):
        columns = read_table(written(tmp_path / "t.csv", ["x", "name", "y"], rows), "y").samples.export.wrap.__self__
    assert columns.names == ["x"]


def test_rows_that_are_too_short_are_named(tmp_path):
    rows = [*ROWS, ROWS[0][:4]]
    with pytest.raises(ValueError, match="another number in 1 lines: 92"):
        read_table(written(tmp_path / "t.csv", rows=rows), "sold")


def test_tfds_set_has_its_own_test_split_and_no_networks_are_downloaded():
    digits = read_tfds("sklearn_digits", imbalance_factor=20)
    assert digits.samples.class_counts.min() == digits.samples.class_counts.max() // 20
    assert digits.student().output_shape == digits.teacher().output_shape == (None, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "argument --steps: takes an integer of at least 1, not '0'"),
        (["--seeds", "two"], "argument --seeds: takes an integer of at least 1, not 'two'"),
        (["--minutes", "-1"], "argument --minutes: takes a number above 0, not '-1'"),
        (["--workers", "2", "--scheduler", "tcp://host:8786"], "not allowed with argument"),
    ],
)
def test_bad_options_are_answered_at_once(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        keras_bikd_cli.main(["compare", "photos", "--out", "out", *arguments])
    assert message in capsys.readouterr().err


def test_a_backbone_that_is_named_makes_the_teacher(monkeypatch, images):
    """Its last layer alone is trained."""
    network = keras.applications.MobileNetV2
    monkeypatch.setattr(keras.applications, "MobileNetV2", lambda **own: network(**own, weights=None))
    teacher = read_images(images, (32, 32), backbone="MobileNetV2").teacher()
    assert [tuple(variable.shape) for variable in teacher.trainable_variables] == [(1280, 3), (3,)]
    with pytest.raises(ValueError, match=r"backbone=...\).*MobileNetV2.*'VGG16'"):
        read_images(images, (32, 32), backbone="VGG16")
