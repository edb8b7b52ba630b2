"""Reads a `StepBatch`'s packed columns and writes a `StepBatchReply`'s. All little-endian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.batcher.submission import FAILED, UNNUMBERED, Submission
from server.bundle.manifest import Manifest
from server.errors import BadInput, ServingError
from server.sessions import inputs
from server.transport.translate import detail
from tidegate.v1 import tidegate_pb2 as pb

MAX_STEP = 2**62
MAX_ROWS = 1 << 16  # a message; each may need an error of its own, far larger than the row


@dataclass(frozen=True)
class Columns:
    """The rows of one message: lanes u32 [N], first_steps i64 [N], lengths i32 [N],
    features f32 [sum(lengths), I]."""

    lanes: NDArray[np.uint32]
    first_steps: NDArray[np.int64]
    lengths: NDArray[np.int32]
    features: NDArray[np.float32]


def read(message: pb.StepBatch, manifest: Manifest) -> Columns:
    """Decode the columns and check that they fit each other.

    Raises:
        BadInput: a column is not whole, or does not have the size that the others ask for.
    """
    lanes = _column(message.lanes, "<u4", "lanes")
    lengths = _lengths(message, len(lanes), manifest)
    values = _column(message.features, "<f4", "features")
    steps = len(lanes) if not message.lengths else int(lengths.sum())
    return Columns(
        lanes, _first_steps(message, len(lanes)), lengths, inputs.shape(values, steps, manifest)
    )


def reply(message_id: int, submission: Submission, manifest: Manifest) -> pb.StepBatchReply:
    """Encode a submission's outcome."""
    for row, error in submission.errors.items():
        if error.expected_step is not None:
            submission.first_steps[row] = error.expected_step
    return pb.StepBatchReply(
        id=message_id,
        status=submission.status.tobytes(),
        first_steps=np.maximum(submission.first_steps, 0).astype("<u8").tobytes(),
        outputs=submission.good_outputs(manifest.outputs_width).astype("<f4", copy=False).tobytes(),
        errors=[
            pb.RowError(row=row, error=detail(error))
            for row, error in sorted(submission.errors.items())
        ],
    )


def count(message: pb.StepBatch) -> int:
    """How many rows the message has.

    Raises:
        BadInput: too many.
    """
    rows = len(message.lanes) // 4
    if rows > MAX_ROWS:
        raise BadInput(f"{rows} rows in a message; at most {MAX_ROWS} go in one", field="lanes")
    return rows


def refused(message_id: int, rows: int, error: ServingError) -> pb.StepBatchReply:
    """The reply to a message whose rows all failed the same way, or that has no rows to blame."""
    told = detail(error)
    errors = [pb.RowError(row=row, error=told) for row in range(max(rows, 1))]
    zeros = np.zeros(rows, dtype="<u8").tobytes()
    return pb.StepBatchReply(
        id=message_id, status=bytes([FAILED]) * rows, first_steps=zeros, errors=errors
    )


def _column(packed: bytes, dtype: str, name: str) -> NDArray[Any]:
    size = np.dtype(dtype).itemsize
    if len(packed) % size:
        text = f"{name} has {len(packed)} bytes, not a multiple of {size}"
        raise BadInput(text, field=name)
    return np.frombuffer(packed, dtype=dtype)


def _sized(packed: bytes, dtype: str, name: str, rows: int) -> NDArray[Any]:
    column = _column(packed, dtype, name)
    if len(column) != rows:
        raise BadInput(f"{name} has {len(column)} entries for {rows} lanes", field=name)
    return column


def _first_steps(message: pb.StepBatch, rows: int) -> NDArray[np.int64]:
    if not message.first_steps:
        return np.full(rows, UNNUMBERED, dtype=np.int64)
    column = _sized(message.first_steps, "<u8", "first_steps", rows)
    if rows and column.max() > MAX_STEP:
        raise BadInput(f"first_steps has {column.max()}, out of range", field="first_steps")
    return column.astype(np.int64)


def _lengths(message: pb.StepBatch, rows: int, manifest: Manifest) -> NDArray[np.int32]:
    if not message.lengths:
        return np.ones(rows, dtype=np.int32)
    column = _sized(message.lengths, "<u4", "lengths", rows)
    if rows:
        inputs.check_length(int(column.min()), manifest)
        inputs.check_length(int(column.max()), manifest)
    return column.astype(np.int32)
