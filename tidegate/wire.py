"""What both sides of the wire agree on beside the messages themselves. Standard library only."""

from __future__ import annotations

APPLIED, REMEMBERED, FAILED = 0, 1, 2
"""A row's status in `StepBatchReply.status`."""

MAX_STEP = 2**62
"""The largest step number."""

MAX_LANES = 1 << 20
"""Lanes of a stream are numbered below this."""

MAX_ID_BYTES = 256
"""A session id has 1 to this many bytes of UTF-8."""

DETAIL_KEY = "tidegate-error-bin"
"""The trailing metadata entry that holds a failed call's `ErrorDetail`."""

DTYPES = {
    "float32": "<f4",
    "float16": "<f2",
    "float64": "<f8",
    "int64": "<i8",
    "int32": "<i4",
    "bool": "?",
}
"""How a `StateTensor`'s values lie in its bytes, by its dtype's name: NumPy's notation."""
