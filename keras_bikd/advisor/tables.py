"""A table in a CSV file: its columns as numbers, the networks for them, and a student that takes the columns raw."""

import collections
import csv
import dataclasses
import functools
import os
import re
import warnings
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import layers, ops

from keras_bikd.advisor.inputs import Inputs
from keras_bikd.advisor.samples import Export, Samples

MISSING = frozenset({"", "?", "na", "n/a", "nan", "none", "null"})
"""What stands for a missing value, in any case."""

_DELIMITERS = ",;\t|"
_LIMIT = 10.0  # standard deviations that a number is cut at: the tails of amounts and counts are long
_ENTRIES = 256  # categories of a column that are told apart
_EMBEDDING = 8
_MOST_CLASSES = 200

Table = Mapping[str, np.ndarray]
"""Column name to its values, an array of strings of which the missing ones are empty."""


@dataclasses.dataclass(frozen=True)
class Columns:
    """How the columns of a table become one float32 matrix, learned from its training rows without their labels.

    Numbers are standardised and cut at ten standard deviations; a missing one is the mean, with an indicator beside it.
    Categories are codes for an embedding; a missing one is a category of its own, and those that were seen once or
    never share one.

    Attributes:
        numbers: Names of the columns with numbers.
        mean: Their means over the training rows.
        deviation: Their standard deviations.
        gaps: Which of them have missing values, positions.
        categories: Name of a column with categories to those that are told apart; code 0 is any other.

    Examples:
        >>> table = {
        ...     "age": np.array(["20", "40", ""]),
        ...     "city": np.array(["Rome", "Rome", "Oslo"]),
        ... }
        >>> columns = Columns.of(table)
        >>> columns.matrix(table).tolist()
        [[-1.0, 0.0, 1.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    """

    numbers: list[str]
    mean: list[float]
    deviation: list[float]
    gaps: list[int]
    categories: dict[str, list[str]]

    @classmethod
    def of(cls, table: Table) -> "Columns":
        """Learn the columns of a table."""
        numbers = {name: numeric for name, values in table.items() if (numeric := _numbers(values)) is not None}
        deviation = [float(np.nanstd(values)) or 1.0 for values in numbers.values()]
        return cls(
            list(numbers),
            [float(np.nanmean(values)) for values in numbers.values()],
            deviation,
            [place for place, values in enumerate(numbers.values()) if np.isnan(values).any()],
            {name: _entries(values) for name, values in table.items() if name not in numbers},
        )

    @property
    def names(self) -> list[str]:
        """Names of all columns."""
        return [*self.numbers, *self.categories]

    @property
    def offsets(self) -> list[int]:
        """Where the codes of each column with categories begin."""
        sizes = [len(entries) + 1 for entries in self.categories.values()]
        return np.cumsum([0, *sizes])[:-1].tolist()

    def matrix(self, table: Table) -> np.ndarray:
        """Standardised numbers, indicators and codes of a table, float32 of shape `(rows, features)`."""
        rows = len(table[self.names[0]])
        raw = np.array([_known(table[name]) for name in self.numbers]).reshape(-1, rows).T
        known = np.isfinite(raw)
        scaled = (np.where(known, raw, self.mean) - self.mean) / self.deviation
        codes = [
            offset + _codes(table[name], entries)
            for offset, (name, entries) in zip(self.offsets, self.categories.items())
        ]
        parts = [np.clip(scaled, -_LIMIT, _LIMIT), ~known[:, self.gaps], *(code[:, None] for code in codes)]
        return np.concatenate(parts, axis=1).astype("float32")

    def network(self, units: Sequence[int], num_classes: int, dropout: float = 0.0) -> keras.Model:
        """A perceptron on the matrix, whose outputs are logits."""
        scaled = len(self.numbers) + len(self.gaps)
        inputs = keras.Input((scaled + len(self.categories),))
        parts = [inputs[:, :scaled]] if scaled else []
        if self.categories:
            entries = sum(len(own) + 1 for own in self.categories.values())
            parts.append(layers.Flatten()(layers.Embedding(entries, _EMBEDDING)(inputs[:, scaled:])))
        x = layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
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
        kind = {name: "float32" for name in self.numbers}
        kind |= dict.fromkeys(self.categories, "string" if strings else "int32")
        inputs = {name: keras.Input((1,), name=own, dtype=kind[name]) for name, own in _plain(self.names).items()}
        parts = self._scaled([inputs[name] for name in self.numbers]) if self.numbers else []
        for offset, (name, entries) in zip(self.offsets, self.categories.items()):
            code = layers.StringLookup(vocabulary=entries)(inputs[name]) if strings else inputs[name]
            parts.append(ops.cast(code + offset, "float32"))
        matrix = layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
        return keras.Model({tensor.name: tensor for tensor in inputs.values()}, student(matrix))

    def _scaled(self, inputs: list[keras.KerasTensor]) -> list[keras.KerasTensor]:
        raw = layers.Concatenate()(inputs) if len(inputs) > 1 else inputs[0]
        known = ops.isfinite(raw)
        variance = np.square(self.deviation).tolist()
        scaled = layers.Normalization(mean=self.mean, variance=variance)(raw)
        parts = [ops.clip(ops.where(known, scaled, 0.0), -_LIMIT, _LIMIT)]
        if self.gaps:
            missing = ops.cast(ops.logical_not(known), "float32")
            parts.append(ops.take(missing, self.gaps, axis=-1))
        return parts

    def example(self, table: Table) -> str:
        """Lines of Python that make `inputs` for the model of `raw` from the first rows of a table."""
        plain = _plain(self.names)
        numbers = {name: _known(table[name][:2]).tolist() for name in self.numbers}
        lines = [f"    {plain[name]!r}: np.array({values})," for name, values in numbers.items()]
        lines = [line.replace("nan,", "np.nan,").replace("nan]", "np.nan]") for line in lines]
        lines += [f"    {plain[name]!r}: np.array({table[name][:2].tolist()}, object)," for name in self.categories]
        return "\n".join(["inputs = {", *lines, "}"])


def read_table(path: str | os.PathLike[str], label: str | None) -> Inputs:
    r"""Read a CSV file for `compare`.

    Columns that cannot help are left out, with a warning that names them: those with a single value, those with another
    text in nearly every row, and those that number the rows. What the others are scaled with is learned from all rows
    of the file, without their labels, also from those that `compare` holds out.

    Args:
        path: A CSV file in UTF-8 with a header, separated by commas, semicolons, tabs or bars.
        label: Name of the column with the class of each row.

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
    columns = Columns.of(features)
    export = Export(columns.raw, columns.example(features))
    samples = _samples(columns, features, labels, class_names, lines, export)
    return Inputs(
        samples=samples,
        student=functools.partial(columns.network, (32,), len(class_names)),
        teacher=functools.partial(columns.network, (256, 256), len(class_names), 0.2),
        like=functools.partial(_like, columns, class_names, str(label)),
    )


def _like(columns: Columns, class_names: list[str], label: str, path: str | os.PathLike[str]) -> Samples:
    """Samples of another file with the columns of the training rows."""
    features, labels, lines = _split(path, label)
    if missing := [name for name in columns.names if name not in features]:
        raise ValueError(f"{os.fspath(path)!r} lacks columns of the training data: {_listed(missing)}.")
    if unknown := sorted({*labels.tolist()} - {*class_names}):
        raise ValueError(f"{os.fspath(path)!r} has classes that the training data lack: {_listed(unknown)}.")
    for name in columns.numbers:
        if _numbers(features[name]) is None:
            raise ValueError(
                f"{os.fspath(path)!r} has texts in column {name!r}, which has numbers in the training data."
            )
    return _samples(columns, features, labels, class_names, lines, None)


def _samples(
    columns: Columns,
    features: Table,
    labels: np.ndarray,
    class_names: list[str],
    lines: np.ndarray,
    export: Export | None,
) -> Samples:
    place = {name: position for position, name in enumerate(class_names)}
    matrix = columns.matrix(features)
    return Samples(
        matrix.__getitem__,
        np.array([place[own] for own in labels.tolist()]),
        class_names,
        names=[f"line {line}" for line in lines],
        content=matrix.tobytes(),
        export=export,
    )


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """All columns of a CSV file, and the line that each row ends on."""
    where = os.fspath(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            delimiter = max(_DELIMITERS, key=header.count)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            rows = [(reader.line_num, row) for row in reader if row]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where!r} is not text in UTF-8: {error.reason} at byte {error.start}. Save it as CSV in UTF-8."
        ) from None
    except csv.Error as error:
        raise ValueError(f"{where!r} cannot be read as CSV, at line {reader.line_num}: {error}.") from None
    if len(rows) < 2:
        raise ValueError(f"{where!r} has no rows below a header.")
    names = [name.strip() for name in rows.pop(0)[1]]
    _check_shape(where, names, rows)
    columns = zip(*(row for _, row in rows))
    table = {name: _cleaned(values) for name, values in zip(names, columns)}
    return table, np.array([line for line, _ in rows])


def _check_shape(where: str, names: list[str], rows: list[tuple[int, list[str]]]) -> None:
    if doubled := [name for name, count in collections.Counter(names).items() if count > 1]:
        raise ValueError(f"{where!r} has several columns of the same name: {_listed(doubled)}.")
    if ragged := [str(line) for line, row in rows if len(row) != len(names)]:
        raise ValueError(
            f"{where!r} has {len(names)} columns in its header and another number in {len(ragged)} lines: "
            f"{_listed(ragged)}."
        )


def _cleaned(values: Sequence[str]) -> np.ndarray:
    """A column without the blanks around its values; the missing ones are empty."""
    stripped = [value.strip() for value in values]
    return np.array(["" if value.lower() in MISSING else value for value in stripped], object)


def _split(path: str | os.PathLike[str], label: str | None) -> tuple[Table, np.ndarray, np.ndarray]:
    """Features, labels and line numbers of the rows that have a label."""
    features, lines = _read(path)
    if label not in features:
        asked = "no column was named" if label is None else f"there is no column {label!r}"
        raise ValueError(f"{os.fspath(path)!r}: {asked} for the label. The columns are {_listed(list(features), 30)}.")
    labels = features.pop(label)
    known = labels != ""
    if not features:
        raise ValueError(f"{os.fspath(path)!r} has no column besides the label.")
    if not known.all():
        warnings.warn(
            f"{(~known).sum()} rows of {os.fspath(path)!r} without a label are left out: lines "
            f"{_listed(lines[~known].astype(str).tolist())}.",
            stacklevel=4,
        )
    return {name: values[known] for name, values in features.items()}, labels[known], lines[known]


def _class_names(labels: np.ndarray, label: str) -> list[str]:
    names = sorted({*labels.tolist()})
    if len(names) < 2:
        raise ValueError(f"The label column {label!r} needs at least two classes. Received: {names}")
    if len(names) > min(_MOST_CLASSES, len(labels) / 2):
        raise ValueError(
            f"The label column {label!r} has {len(names)} different values in {len(labels)} rows, such as "
            f"{_listed(names)}. These are no classes."
        )
    return names if _numbers(np.array(names, object)) is None else sorted(names, key=float)


def _useful(features: Table) -> Table:
    """The columns that can help; a warning names the others."""
    found = {name: _useless(values) for name, values in features.items()}
    useful = {name: features[name] for name, reason in found.items() if reason is None}
    reasons = {reason: [name for name, own in found.items() if own == reason] for reason in found.values() if reason}
    for reason, names in reasons.items():
        warnings.warn(f"These columns are left out, because {reason}: {_listed(names)}.", stacklevel=3)
    if not useful:
        raise ValueError(f"No column besides the label can help: {_listed(list(features))} were left out.")
    return useful


def _useless(values: np.ndarray) -> str | None:
    different = len({*values.tolist()})
    if different == 1:
        return "they have the same value in every row"
    numbers = _numbers(values)
    if numbers is None and different > max(len(values) / 2, 20):
        return "they have another text in nearly every row, as names and dates do"
    if numbers is not None and len(values) > 20 and (np.diff(numbers) == 1).all():
        return "they number the rows"
    return None


def _numbers(values: np.ndarray) -> np.ndarray | None:
    """A column as float64, with NaN for missing values; `None` if it has texts."""
    try:
        return _known(values)
    except ValueError:
        return None


def _known(values: np.ndarray) -> np.ndarray:
    numbers = np.array([value or "nan" for value in values.tolist()], "U").astype("float64")
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _entries(values: np.ndarray) -> list[str]:
    """The categories that are told apart, the most frequent first."""
    # A name that StringLookup keeps for itself is one of the others.
    counted = collections.Counter(value for value in values.tolist() if value != "[UNK]")
    return [value for value, count in counted.most_common(_ENTRIES) if count > 1]


def _codes(values: np.ndarray, entries: Sequence[str]) -> np.ndarray:
    code = {value: position for position, value in enumerate(entries, start=1)}
    return np.array([code.get(value, 0) for value in values.tolist()])


def _plain(names: Sequence[str]) -> dict[str, str]:
    """Columns to names that an input of a model may have, also in a SavedModel, none twice."""
    plain: dict[str, str] = {}
    for name in names:
        own = re.sub(r"[^A-Za-z0-9_]", "_", name)
        own = own if own[:1].isalpha() else f"column_{own}"
        taken = {*plain.values()}
        plain[name] = (
            own if own not in taken else next(f"{own}_{i}" for i in range(2, 999) if f"{own}_{i}" not in taken)
        )
    return plain


def _listed(names: Sequence[str], count: int = 10) -> str:
    return f"{', '.join(names[:count])}{', ...' if len(names) > count else ''}"
