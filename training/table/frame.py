"""A DataFrame as a table: kept as a Parquet file, which is then read like any other.

So a bundle of a DataFrame has the provenance of one of a file, and can be reported on, replayed and
compared later, in another process.
"""

from __future__ import annotations

import hashlib
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from training.errors import TrainingError


def kept_as_file(frame: Any, folder: Path) -> Path:
    """The frame in `folder`, by a name that hangs on what is in it.

    Raises:
        TrainingError: it is no DataFrame, or a column holds what Parquet cannot.
    """
    content = _parquet(frame)
    file = folder.resolve() / f"table-{hashlib.sha256(content).hexdigest()[:16]}.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as temporary:
        new = Path(temporary) / file.name
        new.write_bytes(content)
        new.rename(file)
    return file


def _parquet(frame: Any) -> bytes:
    buffer = BytesIO()
    try:
        _polars(frame).write_parquet(buffer)
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TrainingError(f"the DataFrame cannot be kept as Parquet: {reason}") from None
    return buffer.getvalue()


def _polars(frame: Any) -> pl.DataFrame:
    """Pandas frames go column by column, so that nothing but pandas is needed; the index is left
    out."""
    if isinstance(frame, pl.DataFrame):
        return frame
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    if not type(frame).__module__.startswith("pandas") or not hasattr(frame, "columns"):
        kind = f"{type(frame).__module__}.{type(frame).__qualname__}"
        raise TrainingError(f"a table must be a polars or pandas DataFrame, not {kind}")
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        raise TrainingError("the DataFrame has two columns of one name")
    return pl.DataFrame(
        {name: _values(frame.iloc[:, k]) for k, name in enumerate(names)}, strict=False
    )


def _values(column: Any) -> list[Any]:
    """None where pandas has a missing value of any kind."""
    values: list[Any] = column.astype(object).where(column.notna(), None).tolist()
    return values
