"""Reads the exercise data, a pickled numpy file, as rows.

140 recordings of 10 people doing 7 exercises with either arm, 6 channels at 50 Hz (Burns et al.
2018, "Shoulder physiotherapy exercise recognition: machine learning the inertial signals from a
smartwatch").
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import polars as pl

CHANNELS = ("ax", "ay", "az", "wx", "wy", "wz")
LABELS = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")


def read(content: bytes) -> pl.DataFrame:
    """One row a sample, in the file's order of recordings."""
    raw: dict[str, Any] = np.load(BytesIO(content), allow_pickle=True).item()
    columns = zip(raw["X"], raw["subject"], raw["side"], raw["y"], strict=True)
    return pl.concat([_recording(*each) for each in columns])


def _recording(signal: Any, person: Any, side: Any, label: Any) -> pl.DataFrame:
    person, arm, exercise = int(person), int(float(side)), LABELS[int(label)]
    values = np.asarray(signal, dtype=np.float64)
    return pl.DataFrame(dict(zip(CHANNELS, values.T, strict=True))).select(
        pl.lit(f"person{person:02d}-{'ba'[arm]}-{exercise}").alias("session"),
        pl.lit(person).alias("person"),
        pl.int_range(pl.len()).alias("sample"),
        *CHANNELS,
        pl.lit(arm).alias("side"),
        pl.lit(exercise).alias("exercise"),
    )
