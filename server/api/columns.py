"""`StepStream`'s messages: packed columns to a submission, its outcome to packed columns.

All little-endian; `docs/protocol.md` goes through the bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.api.errors import detail, row_errors
from server.api.gathering import Caller, Single
from server.api.lanes import Lanes
from server.api.outcomes import outcomes
from server.arrays import every, filled, some
from server.bundle.manifest import Manifest
from server.errors import BadInput, ServingError, UnknownLane
from server.scheduler.submission import UNNUMBERED, Submission
from server.serving.model import ServedModel
from server.sessions import validation
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.wire import FAILED, MAX_STEP

MAX_ROWS = 1 << 16  # a message
Reply = tuple[bytes, memoryview]
"""A `StepBatchReply` as it is sent, in two pieces, one after the other: the outputs, most of it,
lie where the run left them."""
OUTPUTS_FIELD = bytes([pb.StepBatchReply.OUTPUTS_FIELD_NUMBER << 3 | 2])  # its tag: bytes follow


def read(
    message: pb.StepBatch,
    lanes: Lanes,
    manifest: Manifest,
    on_done: Callable[[Submission], None],
) -> Submission:
    """The message's rows; those that must not run have failed already.

    Raises:
        BadInput: a column is not whole, or does not have the size that the others ask for.
    """
    named = _column(message.lanes, "<u4", "lanes")
    lengths = _lengths(message, len(named), manifest)
    features = _features(message, len(named), lengths, manifest)
    handles = lanes.handles(named)
    submission = Submission(
        handles=handles,
        first_steps=_first_steps(message, len(named)),
        lengths=lengths,
        features=features,
        on_done=on_done,
        deadline=_deadline(message.timeout_us),
    )
    _fail_unfit(submission, named, manifest)
    return submission


def read_single(message: pb.StepBatch, lanes: Lanes, caller: Caller) -> Single | None:
    """A message of one plain row, a single step of a session that is named, in the shortest way.
    None for any other, wrong ones too: `read` tells what to do with those."""
    plain = len(message.lanes) == 4 and not (message.lengths or message.opens or message.timeout_us)
    if not plain or message.model not in ("", lanes.model.name):
        return None
    handle = lanes.handle(int.from_bytes(message.lanes, "little"))
    numbers, features = message.first_steps, message.features
    first = int.from_bytes(numbers, "little") if numbers else UNNUMBERED
    sized = len(numbers) in (0, 8) and len(features) == 4 * lanes.model.manifest.inputs_width
    if not (handle and sized) or first > MAX_STEP:
        return None
    return Single(handle, first, features, math.inf, caller)


def reply_single(message_id: int, submission: Submission, row: int, model: ServedModel) -> bytes:
    """The reply to a message of one row, which was gathered as row `row` of this submission."""
    found = outcomes(submission, model)
    told = pb.StepBatchReply(id=message_id, status=bytes([found.status[row]]))
    told.first_steps = max(found.first_steps[row], 0).to_bytes(8, "little")
    if found.status[row] == FAILED:
        error = submission.error(row)
        model.metrics.error(error.code, error.reason)
        told.errors.add(row=0, error=detail(error))
    else:
        told.outputs = found.outputs(row)
    if found.durable is not None:
        told.durable_steps = found.durable[row].to_bytes(8, "little")
    return told.SerializeToString()


def outcome(
    message_id: int, submission: Submission, opened: Sequence[pb.LaneOpened], model: ServedModel
) -> Reply:
    """The reply to a message whose rows are done; those that failed are counted."""
    for rows, error in submission.failures:
        model.metrics.error(error.code, error.reason, len(rows))
    durable = model.durable(submission.handles)
    return reply(message_id, submission, opened, model.manifest, durable)


def reply(
    message_id: int,
    submission: Submission,
    opened: Sequence[pb.LaneOpened],
    manifest: Manifest,
    durable: NDArray[np.int64] | None = None,
) -> Reply:
    """Encode a submission's outcome. It has no more than a few hundred errors, however many rows
    failed (see `Submission.fail`). `durable` is how many steps of each row's session are stored."""
    outputs = submission.good_outputs(manifest.outputs_width)
    rest = pb.StepBatchReply(
        id=message_id,
        opened=opened,
        status=submission.status.tobytes(),
        first_steps=np.maximum(submission.first_steps, 0).astype("<u8", copy=False).tobytes(),
        errors=row_errors(submission.failures, submission.first_steps),
        durable_steps=b"" if durable is None else durable.astype("<u8").tobytes(),
    )
    flat = np.ascontiguousarray(outputs, dtype="<f4").reshape(-1)
    head = rest.SerializeToString() + OUTPUTS_FIELD + _varint(flat.nbytes)
    return head, flat.view(np.uint8).data


def _varint(number: int) -> bytes:
    """As Protocol Buffers write a length."""
    packed = bytearray()
    while number > 0x7F:
        packed.append(number & 0x7F | 0x80)
        number >>= 7
    packed.append(number)
    return bytes(packed)


def check_model(message: pb.StepBatch, model: ServedModel) -> None:
    """Refuse a message of another model than its stream's.

    Raises:
        BadInput: naming both.
    """
    if message.model not in ("", model.name):
        text = f"the stream serves model {model.name!r}, not {message.model[:300]!r}"
        raise BadInput(text, field="model")


def count(message: pb.StepBatch) -> int:
    """How many rows the message has.

    Raises:
        BadInput: too many.
    """
    rows = len(message.lanes) // 4
    if rows > MAX_ROWS:
        raise BadInput(f"{rows} rows in a message; at most {MAX_ROWS} go in one", field="lanes")
    return rows


def refused(
    message: pb.StepBatch, rows: int, opened: Sequence[pb.LaneOpened], error: ServingError
) -> pb.StepBatchReply:
    """The reply to a message whose rows all failed the same way, or that has no rows to blame."""
    numbers = message.first_steps
    failure = pb.RowError(
        row=0, error=detail(error), also=np.arange(1, max(rows, 1), dtype="<u4").tobytes()
    )
    return pb.StepBatchReply(
        id=message.id,
        opened=opened,
        status=bytes([FAILED]) * rows,
        first_steps=numbers if len(numbers) == 8 * rows else bytes(8 * rows),
        errors=[failure],
    )


def _fail_unfit(submission: Submission, named: NDArray[np.uint32], manifest: Manifest) -> None:
    if not every(submission.handles != 0):
        unknown = np.flatnonzero(submission.handles == 0)
        submission.fail(unknown, UnknownLane(int(named[unknown[0]]), len(unknown) - 1))
    validation.fail_unacceptable(submission, manifest)


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


def _features(
    message: pb.StepBatch, rows: int, lengths: NDArray[np.int32], manifest: Manifest
) -> NDArray[np.float32]:
    values = _column(message.features, "<f4", "features")
    steps = int(lengths.sum()) if message.lengths else rows
    validation.check_size(len(values), steps, manifest)
    return values.reshape(steps, manifest.inputs_width)


def _first_steps(message: pb.StepBatch, rows: int) -> NDArray[np.int64]:
    if not message.first_steps:
        return filled(rows, np.int64, UNNUMBERED)
    column = _sized(message.first_steps, "<u8", "first_steps", rows)
    if some(column > MAX_STEP):
        raise BadInput(f"first_steps has {column.max()}, out of range", field="first_steps")
    return column.astype(np.int64)


def _lengths(message: pb.StepBatch, rows: int, manifest: Manifest) -> NDArray[np.int32]:
    if not message.lengths:
        return filled(rows, np.int32, 1)
    column = _sized(message.lengths, "<u4", "lengths", rows)
    if rows:
        validation.check_length(int(column.min()), manifest)
        validation.check_length(int(column.max()), manifest)
    return column.astype(np.int32)


def _deadline(timeout_us: int) -> float:
    return time.monotonic() + timeout_us / 1e6 if timeout_us else math.inf
