"""What both ends agree on besides the messages: statuses, types, limits (`docs/protocol.md`).

Imports nothing but the standard library, so that either end may import it for next to nothing.
"""

from typing import Final

APPLIED: Final = 0
"""A row's status: its steps were applied."""
REMEMBERED: Final = 1
"""A row's status: it had been applied before, and was answered from memory."""
FAILED: Final = 2
"""A row's status: refused or failed, for a reason that stands among the reply's errors."""

FLOAT: Final = "<f4"
"""Features and outputs in packed columns, in NumPy's words."""
DTYPES: Final = {
    "float32": "<f4",
    "float16": "<f2",
    "float64": "<f8",
    "int64": "<i8",
    "int32": "<i4",
    "bool": "?",
}
"""A state tensor's `dtype`, and its values as they travel, in NumPy's words."""

MAX_STEP: Final = 2**62
"""The largest number a step may have."""
MAX_LANES: Final = 1 << 20
"""Lanes of a stream, numbered from 0."""
MAX_OPENS: Final = 1 << 14
"""Lanes that a message may name."""
MAX_SESSIONS: Final = 1 << 12
"""Sessions that a call may open or end."""
MAX_ID_BYTES: Final = 256
"""The longest session id, in bytes of UTF-8."""

DETAIL_KEY: Final = "tidegate-error-bin"
"""The trailing metadata entry that holds a failed call's `ErrorDetail`."""
