"""A CSV file as columns of text; where it is none, in which row."""

from __future__ import annotations

import csv
from io import BytesIO, StringIO, TextIOWrapper

import polars as pl


def read_csv(content: bytes) -> pl.DataFrame:
    """All columns as text: they are converted one by one, so that a bad value has row and name.

    Raises:
        ValueError: the first row (counted from 1 after the header) that is wrong, and how.
    """
    try:
        frame = pl.read_csv(BytesIO(content), infer_schema=False)
        _check_header(content)
    except pl.exceptions.NoDataError:
        return pl.DataFrame()
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise ValueError(_blame(content) or str(error)) from None
    return frame


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
            return f"row {number} has {len(fields)} values; the header names {len(rows[0])} columns"
    return ""


def _check_header(content: bytes) -> None:
    """Polars would give the second of two columns of one name another one."""
    header = next(csv.reader(TextIOWrapper(BytesIO(content), "utf-8-sig", newline="")))
    for name in header:
        if header.count(name) > 1:
            raise ValueError(f"two columns are called {name!r}")
