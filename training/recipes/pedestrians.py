"""Reads Auckland's counts of pedestrians, a column for each of 21 sensors, as rows.

Rows are hours, one after the other, local time. Their dates say which day they are counted to,
which begins at 6:00, and some are wrong; so but for the first row times are read from the hours.
"""

from __future__ import annotations

from io import BytesIO

import polars as pl

NAMES = ("date", "hour", "year")


def read(content: bytes) -> pl.DataFrame:
    """One row for each hour of each sensor; `time` is when the hour begins."""
    wide = pl.read_csv(BytesIO(content), infer_schema_length=None)
    hour = pl.col("hour").str.extract(r"^(\d+):", 1).cast(pl.Int64)
    passed = (hour.diff() % 24).fill_null(hour.first()).cum_sum()  # by 2 where clocks go forward
    first = pl.col("date").first().str.to_datetime("%Y-%m-%d")
    timed = wide.select((first + pl.duration(hours=passed)).alias("time"), pl.exclude(NAMES))
    rows = timed.unpivot(index="time", variable_name="sensor", value_name="people")
    return rows.with_columns(
        pl.col("time").dt.year().alias("year"),
        pl.col("time").dt.hour().alias("hour"),
        pl.col("time").dt.weekday().alias("weekday"),
    )
