"""Takes columns out of a table as numbers, times or texts; what does not fit has a name and a row.

The rows named are the file's own, counted from 1 without its header.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from training.errors import TrainingError
from training.table.reading import ROW, Rows

Doubles = NDArray[np.float64]
LARGEST = float(np.finfo(np.float32).max)
RUN_TOGETHER = r"^(0[1-9]|[12]\d|3[01])(0[1-9]|[12]\d|3[01])(19|20)\d\d$"
"""A day and a month in either order, and a year: such are no numbers if some begin with 0."""
YEAR_LAST = r"^\s*\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}"


def require(rows: Rows, name: str, asked_by: str) -> pl.Series:
    """A column.

    Raises:
        TrainingError: there is none of that name.
    """
    if name not in rows.frame.columns:
        there = ", ".join(column for column in rows.frame.columns if column != ROW)
        raise TrainingError(f"{rows.name} has no column {name!r} ({asked_by}); it has {there}")
    return rows.frame[name]


def numbers(rows: Rows, name: str, asked_by: str, missing: bool) -> Doubles:
    """A column of numbers that float32 can hold, NaN where missing; true is 1 and false is 0.

    Raises:
        TrainingError: a value is no number, is too large, or is missing and may not be.
    """
    found = _numbers(rows, name, asked_by, missing)
    large = np.abs(found) > LARGEST
    if large.any():
        value = found[int(np.argmax(large))]
        raise at(rows, pl.Series(large), name, f"{value:g} is too large: float32 ends at 3.4e38")
    return found


def _numbers(rows: Rows, name: str, asked_by: str, missing: bool) -> Doubles:
    column = require(rows, name, asked_by)
    values = _truths(column).cast(pl.Float64, strict=False)
    bad = values.is_null() & column.is_not_null()
    if bad.any():
        raise at(rows, bad, name, f"{column.filter(bad)[0]!r} is no number")
    found = values.fill_null(np.nan).to_numpy().astype(np.float64)
    _refuse(rows, np.isinf(found), name, "the value is infinite")
    if not missing:
        _refuse(rows, np.isnan(found), name, f"the value is missing; {asked_by} does not allow it")
    return found


def texts(rows: Rows, name: str, asked_by: str, missing: bool) -> pl.Series:
    """A column as texts, null where missing.

    Raises:
        TrainingError: a value is missing and may not be.
    """
    column = require(rows, name, asked_by)
    if column.dtype.is_float() and column.drop_nulls().round().eq(column.drop_nulls()).all():
        column = column.cast(pl.Int64)  # 3.0 is the label 3
    column = column.cast(pl.String)
    if not missing and column.has_nulls():
        gone = column.is_null()
        raise at(rows, gone, name, f"the value is missing; {asked_by} does not allow it")
    return column


def times(rows: Rows, name: str, time_format: str) -> Doubles:
    """The order column: numbers as they are, dates and times as seconds since 1970.

    Raises:
        TrainingError: a value is neither, is not of the format, may be read in several ways, or is
            missing.
    """
    column = require(rows, name, "table.order")
    if time_format and column.dtype == pl.String:
        column = _times_of(rows, column, name, time_format)
    elif column.dtype == pl.String:
        column = _numbers_or_times(rows, column, name)
    if column.dtype.is_temporal():
        rows = Rows(rows.frame.with_columns(column.dt.epoch("us") / 1e6), rows.name, rows.source)
    return _numbers(rows, name, "table.order", missing=False)


def at(rows: Rows, where: pl.Series, column: str, what: str) -> TrainingError:
    """The error for the first row that `where` marks."""
    row = rows.frame[ROW].filter(where)[0]
    return TrainingError(f"{rows.name}, row {row}, column {column!r}: {what}")


def _truths(column: pl.Series) -> pl.Series:
    if column.dtype != pl.String:
        return column
    return column.replace({"true": "1", "True": "1", "false": "0", "False": "0"})


def _numbers_or_times(rows: Rows, column: pl.Series, name: str) -> pl.Series:
    """Whichever more of the texts are; a text that is neither is refused."""
    as_numbers = column.cast(pl.Float64, strict=False)
    if as_numbers.null_count() == column.null_count():
        if column.str.contains(RUN_TOGETHER).all() and column.str.starts_with("0").any():
            raise _unclear(rows, column.is_not_null(), column, name, "%m%d%Y")
        return as_numbers
    unclear = column.str.contains(YEAR_LAST).fill_null(False)
    if unclear.any():  # polars would take 03/04/2021 for the 3rd of April, whoever wrote it
        raise _unclear(rows, unclear, column, name, "%m/%d/%Y")
    try:
        parsed = column.str.to_datetime(strict=False, time_zone="UTC", ambiguous="earliest")
    except pl.exceptions.PolarsError:  # it finds no format at all
        parsed = as_numbers
    best = min(parsed, as_numbers, key=lambda each: each.null_count())
    bad = best.is_null() & column.is_not_null()
    if bad.any():
        text = column.filter(bad)[0]
        what = (
            "is a time, but written otherwise than others there"
            if _is_time(text)
            else ("is neither a number nor a time")
        )
        raise at(rows, bad, name, f"{text!r} {what} (table.time_format says how to read others)")
    return best


def _unclear(
    rows: Rows, where: pl.Series, column: pl.Series, name: str, example: str
) -> TrainingError:
    text = column.filter(where)[0]
    what = f"{text!r} may be read with the day or the month first; say which"
    return at(rows, where, name, f'{what}, as table.time_format = "{example}"')


def _is_time(text: str) -> bool:
    try:
        return pl.Series([text]).str.to_datetime(strict=False, time_zone="UTC")[0] is not None
    except pl.exceptions.PolarsError:
        return False


def _times_of(rows: Rows, column: pl.Series, name: str, time_format: str) -> pl.Series:
    try:
        found = column.str.to_datetime(
            time_format, strict=False, time_zone="UTC", ambiguous="earliest"
        )
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"table.time_format: {time_format!r} is none: {reason}") from None
    bad = found.is_null() & column.is_not_null()
    if bad.any():
        text = column.filter(bad)[0]
        raise at(rows, bad, name, f"{text!r} is not a time of table.time_format {time_format!r}")
    return found


def _refuse(rows: Rows, where: NDArray[np.bool_], column: str, what: str) -> None:
    if where.any():
        raise at(rows, pl.Series(where), column, what)
