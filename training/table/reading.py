"""Reads a file of rows, CSV, JSON or Parquet, where it lies: the beginning of training's flow.

Columns of a CSV file come as text; where it is none, the sentence says in which row.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import polars as pl

from training.errors import TrainingError
from training.recipe.recipe import Source, Table

log = logging.getLogger(__name__)
Reader = Callable[[bytes], pl.DataFrame]
ROW = "__row__"


@dataclass(frozen=True)
class Rows:
    """A table as it lies in the file; column `__row__` counts its rows from 1."""

    frame: pl.DataFrame
    name: str
    source: dict[str, str]


def read_rows(source: Source, table: Table) -> Rows:
    """Read the whole file and add the derived columns.

    Raises:
        TrainingError: the package or file is not there, it cannot be read, or it has no rows, or
            none for which `where` holds.
    """
    path = locate(source)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TrainingError(f"{path} cannot be read: {error.strerror}") from None
    plain = _unpacked(content, path)
    try:
        frame = _reader(source, path)(plain)
    except (pl.exceptions.PolarsError, ValueError) as error:
        raise TrainingError(f"{path.name} cannot be read: {_first_line(error)}") from None
    if frame.is_empty():
        raise TrainingError(f"{path.name} has no rows")
    if ROW in frame.columns:
        raise TrainingError(f"{path.name} cannot be read: no column may be called {ROW!r}")
    frame = _derive(_without(frame, source.missing), table, path.name)
    frame = _where(frame.with_row_index(ROW, offset=1), table.where, path.name)
    return Rows(frame, path.name, _provenance(source, path, content))


def locate(source: Source) -> Path:
    """The file's path; a package's file is looked up where pip put it, without importing it."""
    if not source.file:
        raise TrainingError("source.file is missing: it names the file of the table")
    if not source.package:
        return Path(source.file)
    spec = find_spec(source.package)
    if spec is None or spec.origin is None:
        raise TrainingError(f"the package {source.package} is not installed; it holds the data")
    return Path(spec.origin).parent / source.file


def _unpacked(content: bytes, path: Path) -> bytes:
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError) as error:
        raise TrainingError(f"{path.name} is no gzip file: {error}") from None


def _reader(source: Source, path: Path) -> Reader:
    if source.reader:
        module, _, function = source.reader.partition(":")
        reader: Reader = getattr(importlib.import_module(module), function)
        return reader
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    readers: dict[str, Reader] = {".csv": read_csv, ".json": _json, ".ndjson": _ndjson,
                                  ".parquet": _parquet}  # fmt: skip
    if kind not in readers:
        raise TrainingError(
            f"{path.name}: {kind or 'no suffix'} is not one of {', '.join(readers)}"
        )
    return readers[kind]


def _json(content: bytes) -> pl.DataFrame:
    return pl.read_json(BytesIO(content), infer_schema_length=None)


def _ndjson(content: bytes) -> pl.DataFrame:
    return pl.read_ndjson(BytesIO(content), infer_schema_length=None)


def _parquet(content: bytes) -> pl.DataFrame:
    return pl.read_parquet(BytesIO(content))


def _without(frame: pl.DataFrame, missing: tuple[str, ...]) -> pl.DataFrame:
    """Null in place of the texts that mean so."""
    text = pl.col(pl.String)
    return frame.with_columns(pl.when(text.is_in(list(missing))).then(None).otherwise(text)
                              .name.keep())  # fmt: skip


def _derive(frame: pl.DataFrame, table: Table, name: str) -> pl.DataFrame:
    seen = _as_numbers(frame)
    for column, expression in table.derive.items():
        try:
            seen = seen.with_columns(pl.sql_expr(expression).alias(column))
        except pl.exceptions.PolarsError as error:
            raise TrainingError(f"{name}: table.derive.{column}: {_first_line(error)}") from None
        frame = frame.with_columns(seen[column])
    return frame


def _where(frame: pl.DataFrame, condition: str, name: str) -> pl.DataFrame:
    """The rows for which the condition holds; one that a missing value leaves open does not."""
    if not condition:
        return frame
    try:
        holds = _as_numbers(frame).with_columns(pl.sql_expr(condition).alias(ROW))[ROW]
    except pl.exceptions.PolarsError as error:
        raise TrainingError(f"{name}: table.where: {_first_line(error)}") from None
    if holds.dtype != pl.Boolean:
        raise TrainingError(f"{name}: table.where: {condition!r} is no condition, but a value")
    kept = frame.filter(holds)
    if kept.is_empty():
        raise TrainingError(f"{name}: table.where: {condition!r} holds for no row")
    log.info("%s: table.where keeps %d of %d rows", name, len(kept), len(frame))
    return kept


def _as_numbers(frame: pl.DataFrame) -> pl.DataFrame:
    """What SQL sees: numbers wherever all of a column's texts are some."""
    return frame.with_columns(_as_number(column) for column in frame if column.dtype == pl.String)


def _as_number(column: pl.Series) -> pl.Series:
    values = column.cast(pl.Float64, strict=False)
    return values if values.null_count() == column.null_count() else column


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _provenance(source: Source, path: Path, content: bytes) -> dict[str, str]:
    digest = {"file": path.name, "sha256": hashlib.sha256(content).hexdigest()}
    if not source.package:
        return digest
    return {"package": source.package, "version": version(source.package)} | digest


def read_csv(content: bytes) -> pl.DataFrame:
    """All columns as text: they are converted one by one, so that a bad value has row and name.

    Raises:
        ValueError: the first row (counted from 1 after the header) that is wrong, and how.
    """
    try:
        frame = pl.read_csv(BytesIO(content), infer_schema=False)
        _check_header(content)
        return _without_short_rows(frame, content)
    except pl.exceptions.NoDataError:
        return pl.DataFrame()
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise ValueError(_blame(content) or str(error)) from None


def _without_short_rows(frame: pl.DataFrame, content: bytes) -> pl.DataFrame:
    """Polars fills rows that are too short with nulls: they are refused, but for empty lines, which
    are left out."""
    if frame.width < 2 or not frame[:, -1].has_nulls():
        return frame
    lines = csv.reader(TextIOWrapper(BytesIO(content), "utf-8-sig", newline=""))
    width, filled = len(next(lines)), list[bool]()
    for fields in lines:
        if 0 < len(fields) < width:
            number = sum(filled) + 1
            raise ValueError(f"row {number} has {len(fields)} values; {_names(width)}")
        filled.append(bool(fields))
    return frame.filter(pl.Series(filled)) if len(filled) == len(frame) else frame


def _names(columns: int) -> str:
    return f"the header names {columns} columns"


def _blame(content: bytes) -> str:
    """What polars stumbled over, which does not say where."""
    try:
        rows = list(csv.reader(StringIO(content.decode(), newline="")))
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start)
        return f"row {row} is not UTF-8" if row else "the header is not UTF-8"
    except csv.Error as error:
        return str(error)
    for number, fields in enumerate(rows[1:], start=1):
        if len(fields) > len(rows[0]):
            return f"row {number} has {len(fields)} values; {_names(len(rows[0]))}"
    return ""


def _check_header(content: bytes) -> None:
    """Polars would give the second of two columns of one name another one."""
    header = next(csv.reader(TextIOWrapper(BytesIO(content), "utf-8-sig", newline="")))
    for name in header:
        if header.count(name) > 1:
            raise ValueError(f"two columns are called {name!r}")
