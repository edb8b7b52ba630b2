"""Reads the sessions of a CSV file: rows of one session in file order, features in model order."""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tidegate.cli.failure import BadFile
from tidegate.model import Feature, FloatArray

UNKNOWN = -1.0  # in place of a label's index, where the model does not know the label


@dataclass(frozen=True)
class Columns:
    """Which columns of the file hold what."""

    session: str
    features: tuple[Feature, ...]
    label: str | None = None
    labels: tuple[str, ...] = ()
    """Labels the model knows; others in the label column are a mistake."""


@dataclass
class Recording:
    """One session of the file."""

    session: str
    features: FloatArray
    truths: list[str]
    """The label of each row, "" where it has none; empty without a label column."""
    rows: list[int]
    """The line of the file on which each row ends."""


@dataclass
class _Rows:
    values: list[list[float]] = field(default_factory=list)
    truths: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


def read_recordings(path: Path, columns: Columns) -> list[Recording]:
    """All sessions of the file, in order of appearance.

    Raises:
        BadFile: naming file, row and column.
    """
    sessions: dict[str, _Rows] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for session, values, truth, row in _Parser(path, columns).rows(file):
                found = sessions.setdefault(session, _Rows())
                found.values.append(values)
                found.rows.append(row)
                if columns.label is not None:
                    found.truths.append(truth)
    except OSError as error:
        raise BadFile(f"{path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadFile(f"{path}: not a CSV file in UTF-8: {error}") from error
    if not sessions:
        raise BadFile(f"{path}: no rows")
    with np.errstate(over="ignore"):  # the server judges what is not finite in float32
        return [
            Recording(session, np.array(each.values, np.float32), each.truths, each.rows)
            for session, each in sessions.items()
        ]


class _Parser:
    """Finds the columns by the header and takes the cells of each row."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self._path, self._columns = path, columns

    def rows(self, lines: Iterator[str]) -> Iterator[tuple[str, list[float], str, int]]:
        """Session, features, truth and line number of each row."""
        reader = csv.reader(lines, strict=True)
        header = [name.strip() for name in next(reader, [])]
        columns = self._columns
        session = self._position(header, columns.session, "the session column")
        features = [
            (each, self._position(header, each.name, "a feature")) for each in columns.features
        ]
        label = None
        if columns.label is not None:
            label = self._position(header, columns.label, "the label column")
        for cells in reader:
            row = reader.line_num
            if not cells:
                continue  # an empty line
            values = [self._value(cells, at, row, each) for each, at in features]
            truth = "" if label is None else self._truth(cells, label, row)
            yield self._filled(cells, session, row, columns.session), values, truth, row

    def _position(self, header: Sequence[str], name: str, what: str) -> int:
        count = header.count(name)
        if count == 1:
            return header.index(name)
        why = "missing" if count == 0 else f"there {count} times"
        raise BadFile(f"{self._path}: row 1: column {name!r} ({what}) is {why}")

    def _filled(self, cells: Sequence[str], at: int, row: int, name: str) -> str:
        cell = _cell(cells, at)
        if not cell:
            raise BadFile(f"{self._path}: row {row}, column {name!r}: the cell is empty")
        return cell

    def _value(self, cells: Sequence[str], at: int, row: int, feature: Feature) -> float:
        if feature.missing and not _cell(cells, at):
            return math.nan
        cell = self._filled(cells, at, row, feature.name)
        if feature.labels:
            return feature.labels.index(cell) if cell in feature.labels else UNKNOWN
        try:
            return float(cell)
        except ValueError:
            raise BadFile(
                f"{self._path}: row {row}, column {feature.name!r}: {cell[:40]!r} is not a number"
            ) from None

    def _truth(self, cells: Sequence[str], at: int, row: int) -> str:
        cell = _cell(cells, at)
        known = self._columns.labels
        if cell and known and cell not in known:
            raise BadFile(
                f"{self._path}: row {row}, column {self._columns.label!r}: "
                f"{cell[:40]!r} is no label of the model ({', '.join(known)})"
            )
        return cell


def _cell(cells: Sequence[str], at: int) -> str:
    return cells[at].strip() if at < len(cells) else ""
