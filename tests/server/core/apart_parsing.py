"""Messages that would unfold to many times their bytes are refused before they are parsed."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from inference import grpc_service_pb2 as oip
from server.api import parsing
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.wire import MAX_OPENS

EMPTY = {"opens": b"\x22\x00", "inputs": b"\x2a\x00", "states": b"\x32\x00"}


def nested(states: int) -> bytes:
    """An import of a snapshot of so many empty states."""
    inside = EMPTY["states"] * states
    size, digits = len(inside), b""
    while size >= 0x80:
        digits += bytes([size & 0x7F | 0x80])
        size >>= 7
    return b"\x0a" + digits + bytes([size]) + inside


@pytest.mark.parametrize(
    ("parse", "packed"),
    [
        (parsing.step_batch, EMPTY["opens"] * 7_000_000),
        (parsing.step_batch, b"\x08\x01" * 7_000_000),
        (parsing.step_batch, bytes(15_000_000)),
        (parsing.infer_request, EMPTY["inputs"] * 200_000),
        (parsing.import_request, nested(7_000_000)),
    ],
)
def test_fields_beyond_reason_are_refused_unparsed(parse: object, packed: bytes) -> None:
    with pytest.raises(DecodeError, match="far more fields than any request of this kind has"):
        parse(packed)  # type: ignore[operator]


def test_a_request_of_one_step_is_never_of_many_megabytes() -> None:
    """What lies deep inside it is not counted, so that its size is what bounds it."""
    with pytest.raises(DecodeError, match="are too many for one step"):
        parsing.infer_request(bytes(1 << 21))


@pytest.mark.parametrize("packed", [b"\x0b" * 70_000, b"\xff" * 70_000, b"\x22" * 70_000 + b"\xff"])
def test_large_bytes_that_are_no_message_are_refused_as_that(packed: bytes) -> None:
    with pytest.raises(DecodeError):
        parsing.step_batch(packed)


def test_the_largest_honest_message_is_read_whole() -> None:
    opens = [pb.LaneOpen(lane=k, session_id=f"s{k}", create=True) for k in range(MAX_OPENS)]
    batch = pb.StepBatch(id=7, opens=opens, lanes=bytes(4 * MAX_OPENS), features=bytes(1 << 22))
    assert parsing.step_batch(batch.SerializeToString()) == batch
    taken = pb.Snapshot(states=[pb.StateTensor(name=f"h{k}", data=bytes(4096)) for k in range(64)])
    request = pb.ImportRequest(snapshot=taken, session_id="s")
    assert parsing.import_request(request.SerializeToString()) == request


@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(0, 200_000),
    opens=st.lists(st.text(max_size=20), max_size=50),
    numbers=st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=2),
)
def test_any_honest_message_is_read_as_protobuf_reads_it(
    size: int, opens: list[str], numbers: list[int]
) -> None:
    named = [pb.LaneOpen(lane=k, session_id=name) for k, name in enumerate(opens)]
    batch = pb.StepBatch(
        id=numbers[0], opens=named, features=bytes(size), lanes=b"x" * 70_000, timeout_us=numbers[1]
    )
    assert parsing.step_batch(batch.SerializeToString()) == batch
    request = oip.ModelInferRequest(id="x" * size, raw_input_contents=[bytes(size)] * 3)
    request.parameters["sequence_id"].string_param = "s" * 70_000
    assert parsing.infer_request(request.SerializeToString()) == request
