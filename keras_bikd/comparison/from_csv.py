"""Tables in CSV files: read by pandas, prepared by scikit-learn, with networks for them and students of raw columns."""

import csv
import functools
import os
import re
import warnings
from collections.abc import Container, Iterable, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import layers, ops

from keras_bikd.comparison.samples import Export, Inputs, Samples

try:
    import pandas
except ImportError:
    raise ImportError("Tables need pandas. Install it with `pip install pandas`, or the extra `viz`.") from None

MISSING = frozenset({"", "?", "-", ".", "na", "n/a", "n.a.", "#n/a", "<na>", "nan", "nil", "none", "null"})
"""What stands for a missing number, in any case. In columns of texts, only an empty cell is missing."""

_LIMIT = 10.0  # standard deviations that a number is cut at: the tails of amounts and counts are long
_ENTRIES = 256  # categories of a column that are told apart
_EMBEDDING = 8
_OTHER = "\0other"  # what `StringLookup` keeps for itself, which no text file has
_MANY_CLASSES = 200
_FEW_TEXTS = 0.05  # share of texts in a column of numbers that are taken for missing
_FIRST_ROWS = 1000  # read as texts, to see which columns have numbers

Table: TypeAlias = pandas.DataFrame


class Columns:
    """How the columns of a table become one float32 matrix, learned from its training rows without their labels.

    Numbers are standardised and cut at ten standard deviations; a missing one is the mean, with an indicator beside it.
    Categories are codes for an embedding; a missing one is a category of its own, and those that were seen once or
    never share one.

    Args:
        table: A `pandas.DataFrame` of numbers, with NaN for missing ones, and strings, with "" for missing ones.

    Attributes:
        numbers: Names of the columns with numbers.
        categories: Name of a column with categories to those that are told apart; code 0 is any other.

    Examples:
        >>> table = pandas.DataFrame(
        ...     {"age": [20, 40, np.nan], "city": ["Rome", "Rome", "Oslo"]}
        ... )
        >>> columns = Columns(table)
        >>> columns.matrix(table).tolist()
        [[-1.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    """

    def __init__(self, table: Table) -> None:
        from sklearn.compose import make_column_transformer
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OrdinalEncoder, StandardScaler

        self.numbers: list[str] = list(table.select_dtypes("number"))
        texts = [name for name in table if name not in self.numbers]
        imputer = SimpleImputer(strategy="constant", fill_value=0.0, add_indicator=True)
        encoder = OrdinalEncoder(
            handle_unknown="use_encoded_value", unknown_value=-1, min_frequency=2, max_categories=_ENTRIES
        )
        self._prepared = make_column_transformer(
            (make_pipeline(StandardScaler(), imputer), self.numbers), (encoder, texts), sparse_threshold=0
        ).fit(table)
        self._scaled_features = self._prepared.output_indices_["pipeline"].stop
        self.categories: dict[str, list[str]] = {}
        if texts:
            encoder = self._prepared.named_transformers_["ordinalencoder"]
            for name, seen, rare in zip(texts, encoder.categories_, encoder.infrequent_categories_):
                self.categories[name] = seen.tolist() if rare is None else seen[~np.isin(seen, rare)].tolist()

    @property
    def names(self) -> list[str]:
        """Names of all columns."""
        return [*self.numbers, *self.categories]

    @property
    def offsets(self) -> list[int]:
        """Where the codes of each column with categories begin."""
        return np.cumsum([0, *(len(entries) + 1 for entries in self.categories.values())])[:-1].tolist()

    def matrix(self, table: Table) -> np.ndarray:
        """Standardised numbers, indicators and codes of a table, float32 of shape `(rows, features)`."""
        matrix: np.ndarray = self._prepared.transform(table).astype("float32")
        numbers, codes = np.split(matrix, [self._scaled_features], axis=1)
        np.clip(numbers, -_LIMIT, _LIMIT, out=numbers)
        # The encoder gives -1 to what it has not seen, and the last code to what it has seen once: both become 0.
        codes[:] = (codes + 1) % [len(entries) + 1 for entries in self.categories.values()] + self.offsets
        return matrix

    def network(self, units: Sequence[int], num_classes: int, dropout: float = 0.0) -> keras.Model:
        """A perceptron on the matrix, whose outputs are logits."""
        scaled = self._scaled_features
        inputs = keras.Input((scaled + len(self.categories),))
        parts = [inputs[:, :scaled]] if scaled else []
        if self.categories:
            entries = sum(len(own) + 1 for own in self.categories.values())
            parts.append(layers.Flatten()(layers.Embedding(entries, _EMBEDDING)(inputs[:, scaled:])))
        x = _together(parts)
        for width in units:
            x = layers.Dense(width, "relu")(x)
            x = layers.Dropout(dropout)(x) if dropout else x
        return keras.Model(inputs, layers.Dense(num_classes)(x))

    def raw(self, student: keras.Model) -> keras.Model:
        """A model that takes the columns as they are in the table, and outputs the logits of a student of the matrix.

        It is made of layers of Keras alone. Its inputs are a dict of arrays, one per column: floats, with NaN for
        missing ones, and strings, with "" for missing ones. Backends other than TensorFlow have no strings: there,
        categories are their codes.
        """
        strings = keras.backend.backend() == "tensorflow"
        kind = dict.fromkeys(self.numbers, "float32") | dict.fromkeys(self.categories, "string" if strings else "int32")
        inputs = {name: keras.Input((1,), name=own, dtype=kind[name]) for name, own in _plain(self.names).items()}
        parts = self._scaled([inputs[name] for name in self.numbers]) if self.numbers else []
        for offset, (name, entries) in zip(self.offsets, self.categories.items()):
            look_up = layers.StringLookup(vocabulary=entries, oov_token=_OTHER) if strings else layers.Identity()
            parts.append(ops.cast(look_up(inputs[name]) + offset, "float32"))
        return keras.Model({tensor.name: tensor for tensor in inputs.values()}, student(_together(parts)))

    def _scaled(self, inputs: list[keras.KerasTensor]) -> list[keras.KerasTensor]:
        scaler, imputer = self._prepared.named_transformers_["pipeline"].named_steps.values()
        raw, gaps = _together(inputs), imputer.indicator_.features_.tolist()
        known = ops.isfinite(raw)
        # `Normalization` takes no deviation below 1e-7, and none whose square is no float32.
        scaled = layers.Rescaling((1 / scaler.scale_).tolist(), (-scaler.mean_ / scaler.scale_).tolist())(raw)
        parts = [ops.clip(ops.where(known, scaled, 0.0), -_LIMIT, _LIMIT)]
        return [*parts, ops.take(ops.cast(ops.logical_not(known), "float32"), gaps, axis=-1)] if gaps else parts

    def example(self, table: Table) -> str:
        """Lines of Python that make `inputs` for the model of `raw` from the first rows of a table."""
        plain, first = _plain(self.names), table[:2]
        lines = [f"    {plain[name]!r}: np.array({first[name].astype(float).tolist()})," for name in self.numbers]
        lines = [re.sub(r"(?<=[\[ ])nan(?=[,\]])", "np.nan", line) for line in lines]
        lines += [f"    {plain[name]!r}: np.array({first[name].tolist()}, object)," for name in self.categories]
        return "\n".join(["inputs = {", *lines, "}"])


def _together(parts: list[keras.KerasTensor]) -> keras.KerasTensor:
    return layers.Concatenate()(parts) if len(parts) > 1 else parts[0]


def read_table(path: str | os.PathLike[str], label: str | None) -> Inputs:
    r"""Read a CSV file for `compare`.

    Columns that cannot help are left out, with a warning that names them: those with a single value, those with another
    text in nearly every row, and those that number the rows. A few texts among numbers are taken for missing numbers,
    with a warning. What the columns are scaled with is learned from all rows of the file, without their labels, also
    from those that `compare` holds out.

    Args:
        path: A CSV file in UTF-8 with a header, separated by commas, semicolons, tabs or bars. A comma inside a number
            is the decimal point, unless commas separate the columns.
        label: Name of the column with the class of each row. Equal numbers, as 1 and 1.0, are one class.

    Returns:
        `Inputs`. The student has one hidden layer of 32 units, the teacher two of 256 with dropout.

    Raises:
        ValueError: If the file is no such table, has no such column, or if the column holds no classes.

    Examples:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "table.csv")
        >>> rows = [
        ...     f"{i % 7},{'red' if i % 3 else 'blue'},{'yes' if i % 5 == 0 else 'no'}"
        ...     for i in range(100)
        ... ]
        >>> _ = path.write_text("\n".join(["size,colour,sold", *rows]))
        >>> table = read_table(path, label="sold")
        >>> table.samples.class_names, table.samples.class_counts.tolist()
        (['no', 'yes'], [80, 20])
        >>> table.student().count_params()
        410
    """
    features, labels, lines = _split(path, label)
    class_names = _class_names(labels, str(label))
    features = _useful(features)
    columns = Columns(features)
    export = Export(columns.raw, columns.example(features))
    return Inputs(
        samples=_samples(columns.matrix(features), _ids(labels, class_names), class_names, lines, export),
        student=functools.partial(columns.network, (32,), len(class_names)),
        teacher=functools.partial(columns.network, (256, 256), len(class_names), 0.2),
        like=functools.partial(_like, columns, class_names, str(label)),
    )


def _like(columns: Columns, class_names: list[str], label: str, path: str | os.PathLike[str]) -> Samples:
    """Samples of another file with the columns of the training rows."""
    where = os.fspath(path)
    features, labels, lines = _split(path, label, columns.categories)
    if missing := [name for name in columns.names if name not in features]:
        raise ValueError(f"{where!r} lacks columns of the training data: {_listed(missing)}.")
    ids = _ids(labels, class_names)
    if unknown := sorted(labels[ids.isna()].unique()):
        raise ValueError(f"{where!r} has classes that the training data lack: {_listed(unknown)}.")
    for name in columns.numbers:
        if not pandas.api.types.is_numeric_dtype(features[name]):
            raise ValueError(f"{where!r} has texts in column {name!r}, which has numbers in the training data.")
    return _samples(columns.matrix(features), ids, class_names, lines, None)


def _samples(
    matrix: np.ndarray, ids: "pandas.Series[Any]", class_names: list[str], lines: np.ndarray, export: Export | None
) -> Samples:
    names = [f"line {line}" for line in lines]
    labels = ids.to_numpy(int)
    return Samples(matrix.__getitem__, labels, class_names, names=names, content=matrix.tobytes(), export=export)


def _split(
    path: str | os.PathLike[str], label: str | None, texts: Iterable[str] = ()
) -> tuple[Table, "pandas.Series[Any]", np.ndarray]:
    """Features, labels and line numbers of the rows that have a label."""
    where = os.fspath(path)
    try:
        features, lines = _read(path, {*texts, label})
    except UnicodeDecodeError as error:
        raise ValueError(f"{where!r} is not text in UTF-8: {error.reason}. Save it as CSV in UTF-8.") from None
    except csv.Error as error:
        raise ValueError(f"{where!r} cannot be read as CSV: {error}.") from None
    if label not in features:
        asked = "no column was named" if label is None else f"there is no column {label!r}"
        raise ValueError(f"{where!r}: {asked} for the label. The columns are {_listed(list(features), 30)}.")
    labels = features.pop(label)
    if features.empty:
        raise ValueError(f"{where!r} has no column besides the label.")
    if (known := labels != "").all():
        return features, labels, lines
    warnings.warn(
        f"{(~known).sum()} rows of {where!r} without a label are left out: lines {_listed(lines[~known])}.",
        stacklevel=4,
    )
    return features[known], labels[known], lines[known]


def _read(path: str | os.PathLike[str], texts: Container[str | None]) -> tuple[Table, np.ndarray]:
    """All columns of a CSV file, and the line that each row ends on."""
    delimiter, skipped, heading = _heading(path)
    names = [name.strip() for name in heading]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise csv.Error(f"it has several columns of the same name: {_listed(doubled)}")
    try:
        table = _typed(path, texts, sep=delimiter, skiprows=skipped, names=names)
    except (pandas.errors.ParserError, pandas.errors.ParserWarning) as error:
        _check_widths(path, delimiter, skipped, len(names))
        raise csv.Error(str(error)) from None
    known = table.notna().any(axis=1)
    if not known.any():
        raise csv.Error("it has no rows below a header")
    if table.loc[known, names[-1]].isna().any():  # pandas fills up rows that are too short
        _check_widths(path, delimiter, skipped, len(names))
    breaks = [table[name].str.count("\n").fillna(0) for name in table.select_dtypes(exclude="number")]
    lines = np.cumsum(sum(breaks, start=np.ones(len(table)))).astype(int) + skipped + "".join(heading).count("\n") + 1
    if not known.all():
        table, lines = table[known], lines[known]
    return pandas.DataFrame(
        {name: _cleaned(table[name], name in texts, delimiter == ",", lines) for name in names}
    ), np.asarray(lines)


def _heading(path: str | os.PathLike[str]) -> tuple[str, int, list[str]]:
    """What separates the columns, lines before their names, and the names."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        stated = re.fullmatch("sep=(.)", first.rstrip("\r\n"))  # a line that Excel reads and writes
        if not stated:
            file.seek(0)
        delimiter = stated[1] if stated else max(",;\t|", key=first.count)
        return delimiter, int(stated is not None), next(csv.reader(file, delimiter=delimiter, strict=True), [""])


def _typed(path: str | os.PathLike[str], texts: Container[str | None], **options: Any) -> Table:
    """A table whose columns are numbers, or else strings as they are in the file; only empty cells are missing."""
    options |= {"header": 0, "index_col": False, "keep_default_na": False, "na_values": [""], "low_memory": False}
    options |= {"skip_blank_lines": False, "skipinitialspace": True}
    with warnings.catch_warnings():
        warnings.simplefilter("error", pandas.errors.ParserWarning)
        first = pandas.read_csv(path, dtype=str, nrows=_FIRST_ROWS, **options)
        numbers = first.apply(pandas.to_numeric, errors="coerce").count()
        kinds = {name: str for name in first if name in texts or numbers[name] < max(first[name].count(), 1)}
        return pandas.read_csv(path, dtype=kinds, **options)


def _check_widths(path: str | os.PathLike[str], delimiter: str, skipped: int, width: int) -> None:
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        ragged = [reader.line_num for row in reader if row and reader.line_num > skipped and len(row) != width]
    if ragged:
        raise csv.Error(
            f"it has {width} columns in its header and another number in {len(ragged)} lines: {_listed(ragged)}"
        )


def _cleaned(column: "pandas.Series[Any]", is_text: bool, has_commas: bool, lines: np.ndarray) -> "pandas.Series[Any]":
    """A column of finite numbers, or of strings without the blanks around them."""
    if pandas.api.types.is_numeric_dtype(column):
        return column.where(np.isfinite(column))
    texts = column.fillna("").str.strip()
    if is_text:
        return texts
    if has_commas:  # between the columns: one inside a number separates thousands
        plain = texts.where(~texts.str.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?"), texts.str.replace(",", ""))
    else:
        plain = texts.str.replace(",", ".")
    numbers = pandas.to_numeric(plain, errors="coerce")
    odd = numbers.isna() & ~texts.str.lower().isin(MISSING)
    if odd.mean() > _FEW_TEXTS or (odd.any() and numbers.nunique() <= 20):
        return texts
    if odd.any():
        where = [f"{text!r} in line {line}" for text, line in zip(texts[odd], lines[odd])]
        warnings.warn(
            f"Column {column.name!r} has numbers, and texts in {len(where)} of {len(texts)} rows, which are taken for "
            f"missing: {_listed(where, 3)}.",
            stacklevel=6,
        )
    return numbers.where(np.isfinite(numbers))


def _class_names(labels: "pandas.Series[Any]", label: str) -> list[str]:
    """The classes in their order, numbers by size; of several spellings of a number the shortest."""
    found = sorted(labels.unique(), key=len)
    names = pandas.Series(found, index=_keys(found), dtype=object).groupby(level=0).first().tolist()
    if len(names) < 2:
        raise ValueError(f"The label column {label!r} needs at least two classes. Received: {names}")
    if len(names) > len(labels) / (2 if len(names) <= _MANY_CLASSES else 10):
        raise ValueError(
            f"The label column {label!r} has {len(names)} different values in {len(labels)} rows, such as "
            f"{_listed(names)}. These are no classes."
        )
    return names


def _ids(labels: "pandas.Series[Any]", class_names: list[str]) -> "pandas.Series[Any]":
    """Class ids of labels; NaN for those that are no class."""
    keys = _keys(class_names)
    own = labels if keys is class_names else pandas.to_numeric(labels, errors="coerce")
    return own.map({key: i for i, key in enumerate(keys)})


def _keys(names: list[str]) -> list[Any]:
    """What tells the classes apart: their numbers if all are numbers, for 1 and 1.0 are the same; else their names."""
    numbers = pandas.to_numeric(pandas.Series(names, dtype=object), errors="coerce")
    return numbers.tolist() if numbers.notna().all() else names


def _useful(features: Table) -> Table:
    """The columns that can help; a warning names the others."""
    found = {name: _useless(features[name]) for name in features}
    reasons = {reason: [name for name, own in found.items() if own == reason] for reason in found.values() if reason}
    for reason, names in reasons.items():
        warnings.warn(f"These columns are left out, because {reason}: {_listed(names)}.", stacklevel=3)
    if all(found.values()):
        raise ValueError(f"No column besides the label can help: {_listed(list(features))} were left out.")
    return features[[name for name, reason in found.items() if reason is None]]


def _useless(column: "pandas.Series[Any]") -> str | None:
    if column.isna().all() or (column == column.iloc[0]).all():
        return "they have the same value in every row"
    if not pandas.api.types.is_numeric_dtype(column):
        is_name = (different := column.nunique()) > max(len(column) / 2, 20) or different == len(column)
        return "they have another text in nearly every row, as names and dates do" if is_name else None
    return "they number the rows" if len(column) > 20 and (column.diff()[1:] == 1).all() else None


def _plain(names: Sequence[str]) -> dict[str, str]:
    """Columns to names that an input of a model may have, also in a SavedModel, none twice."""
    plain: dict[str, str] = {}
    for name in names:
        own = re.sub(r"\W", "_", name, flags=re.ASCII)
        own = own if own[:1].isalpha() else f"column_{own}"
        while own in plain.values():
            own += "_"
        plain[name] = own
    return plain


def _listed(names: Sequence[Any], count: int = 10) -> str:
    return f"{', '.join(map(str, names[:count]))}{', ...' if len(names) > count else ''}"
