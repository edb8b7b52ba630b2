"""Reads the sessions of a CSV file: rows of one session in file order, features in model order."""

import csv
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tidegate import Feature
from tidegate.cli.common import BadFile

TRUTHS = {"true": 1.0, "True": 1.0, "false": 0.0, "False": 0.0}  # as training reads them
UNKNOWN = -1.0  # in place of a label's index, where the model does not know the label


@dataclass(frozen=True)
class Columns:
    """Which columns of the file hold what."""

    session: str
    features: tuple[Feature, ...]
    truths: tuple[str, ...] = ()
    """The columns of what is true: the one of the label, or one for each value."""
    labels: tuple[str, ...] = ()
    """Labels the model knows; others in the label column are a mistake. Without any, truths are
    numbers."""
    horizon: int = 0
    """The truth of a row stands so many rows later in its session."""


@dataclass
class Recording:
    """One session of the file."""

    session: str
    features: NDArray[np.float32]
    """[rows, features]"""
    truths: list[tuple[str, ...]]
    """What is true of each row, "" where that is not known; empty tuples without such columns."""
    rows: list[int]
    """The line of the file on which each row ends."""

    def unknown(self, features: Sequence[Feature]) -> Counter[str]:
        """By feature, the cells that are no label of the model."""
        counts = (self.features == UNKNOWN).sum(axis=0).tolist()
        return Counter({each.name: count for each, count in zip(features, counts, strict=True)
                        if each.labels and count})  # fmt: skip


@dataclass
class _Rows:
    values: list[list[float]] = field(default_factory=list)
    truths: list[tuple[str, ...]] = field(default_factory=list)
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
                found.truths.append(truth)
    except OSError as error:
        raise BadFile.of(path, error) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadFile(f"{path}: not a CSV file in UTF-8: {error}") from error
    if not sessions:
        raise BadFile(f"{path}: no rows")
    with np.errstate(over="ignore"):  # the server judges what is not finite in float32
        return [
            Recording(session, np.array(each.values, np.float32), _later(each.truths, columns),
                      each.rows)
            for session, each in sessions.items()
        ]  # fmt: skip


def _later(truths: list[tuple[str, ...]], columns: Columns) -> list[tuple[str, ...]]:
    """Each row's truth from `horizon` rows later, and none for the last ones."""
    none = ("",) * len(columns.truths)
    return truths[columns.horizon :] + [none] * min(columns.horizon, len(truths))


class _Parser:
    """Finds the columns by the header and takes the cells of each row."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self._path, self._columns = path, columns

    def rows(self, lines: Iterator[str]) -> Iterator[tuple[str, list[float], tuple[str, ...], int]]:
        """Session, features, truths and line number of each row."""
        reader = csv.reader(lines, strict=True)
        header = [name.strip() for name in next(reader, [])]
        columns = self._columns
        session = self._position(header, columns.session, "the session column")
        features = [
            (each, self._position(header, each.name, "a feature")) for each in columns.features
        ]
        truths = [
            (each, self._position(header, each, "the label column")) for each in columns.truths
        ]
        for cells in reader:
            row = reader.line_num
            if not cells:
                continue  # an empty line
            values = [self._value(cells, at, row, each) for each, at in features]
            truth = tuple(self._truth(cells, at, row, each) for each, at in truths)
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
            found = next((each for each in (cells[at], cell) if each in feature.labels), None)
            return UNKNOWN if found is None else feature.labels.index(found)
        try:
            return TRUTHS[cell] if cell in TRUTHS else float(cell)
        except ValueError:
            raise BadFile(
                f"{self._path}: row {row}, column {feature.name!r}: {cell[:40]!r} is not a number"
            ) from None

    def _truth(self, cells: Sequence[str], at: int, row: int, name: str) -> str:
        cell, known = _cell(cells, at), self._columns.labels
        if not cell or cell in known or (not known and _is_number(cell)):
            return cell
        wrong = f"no label of the model ({', '.join(known)})" if known else "not a number"
        raise BadFile(f"{self._path}: row {row}, column {name!r}: {cell[:40]!r} is {wrong}")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _cell(cells: Sequence[str], at: int) -> str:
    return cells[at].strip() if at < len(cells) else ""
