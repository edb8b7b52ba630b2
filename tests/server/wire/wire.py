"""Short ways to talk to a server over a real channel, without the client library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.harness import RunningServer
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1 import tidegate_pb2_grpc
from tidegate.wire import DETAIL_KEY

WIDTH, OUTPUTS = 5, 3
Floats = NDArray[np.float32]


@contextmanager
def connected(server: RunningServer) -> Iterator[tidegate_pb2_grpc.TidegateStub]:
    """A stub on a channel of its own."""
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(server.address, options) as channel:
        yield tidegate_pb2_grpc.TidegateStub(channel)


@dataclass(frozen=True)
class Failure:
    """A failed call: its status, and the typed detail that came with it."""

    status: grpc.StatusCode
    detail: pb.ErrorDetail
    metadata: dict[str, str | bytes]


@contextmanager
def failing(reason: str) -> Iterator[list[Failure]]:
    """The block must fail with REASON_<reason>, its status the one that the detail names."""
    seen: list[Failure] = []
    with pytest.raises(grpc.RpcError) as caught:
        yield seen
    entries: Any = caught.value.trailing_metadata()
    metadata: dict[str, str | bytes] = dict(entries)
    packed = metadata[DETAIL_KEY]
    assert isinstance(packed, bytes)
    detail = pb.ErrorDetail.FromString(packed)
    assert pb.Reason.Name(detail.reason) == f"REASON_{reason}", detail
    assert caught.value.details() == detail.message
    assert caught.value.code().value[0] == detail.code
    seen.append(Failure(caught.value.code(), detail, metadata))


def observations(seed: int, steps: int) -> Floats:
    """Raw features [steps, WIDTH]."""
    return np.random.default_rng(seed).normal(0, 2, (steps, WIDTH)).astype(np.float32)


def step_request(
    session_id: str, first: int | None, features: Floats, model: str = "small"
) -> pb.StepRequest:
    """A unary request of one or more steps."""
    rows = features.reshape(-1, WIDTH)
    request = pb.StepRequest(
        model=model, session_id=session_id, steps=len(rows), features=rows.ravel().tolist()
    )
    if first is not None:
        request.first_step = first
    return request


def outputs(reply: pb.StepReply) -> Floats:
    """The reply's outputs [steps, OUTPUTS]."""
    return np.array(reply.outputs, dtype=np.float32).reshape(-1, OUTPUTS)


def batch(
    message_id: int,
    lanes: Sequence[int],
    features: Floats,
    first_steps: Sequence[int] | None = None,
    lengths: Sequence[int] | None = None,
    opens: Sequence[pb.LaneOpen] = (),
    **more: object,
) -> pb.StepBatch:
    """A columnar message for the model `small`."""
    return pb.StepBatch(
        id=message_id,
        model="small",
        opens=opens,
        lanes=np.array(lanes, "<u4").tobytes(),
        first_steps=b"" if first_steps is None else np.array(first_steps, "<u8").tobytes(),
        lengths=b"" if lengths is None else np.array(lengths, "<u4").tobytes(),
        features=features.astype("<f4").tobytes(),
        **more,  # type: ignore[arg-type]
    )


def reasons(reply: pb.StepBatchReply) -> dict[int, str]:
    """The failed rows and why they failed."""
    return {
        row: pb.Reason.Name(error.reason).removeprefix("REASON_")
        for row, error in row_errors(reply).items()
    }


def row_errors(reply: pb.StepBatchReply) -> dict[int, pb.ErrorDetail]:
    """Each failed row's error. No row may have two."""
    errors: dict[int, pb.ErrorDetail] = {}
    for each in reply.errors:
        for row in (each.row, *np.frombuffer(each.also, "<u4").tolist()):
            assert row not in errors
            errors[row] = each.error
    return errors


def rows_of(reply: pb.StepBatchReply) -> Floats:
    """Output rows of a reply."""
    return np.frombuffer(reply.outputs, "<f4").reshape(-1, OUTPUTS)


def in_order(replies: Iterable[pb.StepBatchReply]) -> list[pb.StepBatchReply]:
    """Replies in the order of their messages, by their ids: they may overtake each other."""
    return sorted(replies, key=lambda reply: reply.id)
