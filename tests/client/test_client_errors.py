"""Failures become typed exceptions, whatever part of the way they come from."""

import pickle
from datetime import UTC, datetime

import grpc
import pytest
from grpc import aio

from tidegate import errors
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.wire import DETAIL_KEY


def failure(
    code: grpc.StatusCode, detail: pb.ErrorDetail | None = None, text: str = "in words"
) -> errors.TidegateError:
    trailing = aio.Metadata()
    if detail is not None:
        trailing.add(DETAIL_KEY, detail.SerializeToString())
    return errors.from_rpc(aio.AioRpcError(code, aio.Metadata(), trailing, text))


# UNKNOWN_LANE belongs to streams, which this library does not open.
REASONS = sorted(set(pb.Reason.values()) - {pb.REASON_UNSPECIFIED, pb.REASON_UNKNOWN_LANE})


@pytest.mark.parametrize("reason", REASONS, ids=pb.Reason.Name)
def test_every_reason_of_the_protocol_has_its_own_exception(reason: pb.Reason.ValueType) -> None:
    error = failure(grpc.StatusCode.UNKNOWN, pb.ErrorDetail(reason=reason, message="why"))
    others = [
        failure(grpc.StatusCode.UNKNOWN, pb.ErrorDetail(reason=each))
        for each in REASONS
        if each != reason
    ]
    assert type(error) not in {type(each) for each in others} | {errors.TidegateError}
    assert error.reason == pb.Reason.Name(reason).removeprefix("REASON_").lower()
    assert str(error) == "why"


def test_an_exceptions_own_code_is_the_one_the_protocol_documents() -> None:
    gap = failure(
        grpc.StatusCode.FAILED_PRECONDITION,
        pb.ErrorDetail(reason=pb.REASON_STEP_GAP, expected_step=7),
    )
    assert isinstance(gap, errors.StepGap)
    assert (gap.code, gap.expected_step) == (grpc.StatusCode.FAILED_PRECONDITION, 7)


def test_fields_of_the_detail_are_attributes() -> None:
    ended = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    detail = pb.ErrorDetail(reason=pb.REASON_EXPIRED)
    detail.ended_at.FromDatetime(ended)
    expired = failure(grpc.StatusCode.NOT_FOUND, detail)
    assert isinstance(expired, errors.SessionExpired)
    assert expired.ended_at == ended
    full = failure(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        pb.ErrorDetail(reason=pb.REASON_QUEUE_FULL, retry_after_ms=1500),
    )
    assert isinstance(full, errors.QueueFull)
    assert full.retry_after == 1.5


def test_attributes_without_a_detail_say_so() -> None:
    assert errors.SessionClosed("x").ended_at is None
    assert errors.StepGap("x").expected_step is None
    assert errors.SessionsFull("x").retry_after is None
    bad = errors.BadInput("x")
    assert (bad.field, bad.feature, bad.index, bad.reason) == ("", "", None, "")


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, "refused", errors.Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "late", errors.DeadlineExceeded),
        (grpc.StatusCode.CANCELLED, "gone", errors.Cancelled),
        (grpc.StatusCode.INTERNAL, "broken", errors.Internal),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "CLIENT: Received message larger than max (9 vs. 4)",
            errors.MessageTooLarge,
        ),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "quota", errors.TidegateError),
        (grpc.StatusCode.UNIMPLEMENTED, "", errors.TidegateError),
    ],
)
def test_without_a_detail_the_status_decides(
    code: grpc.StatusCode, text: str, kind: type[errors.TidegateError]
) -> None:
    error = failure(code, text=text)
    assert type(error) is kind
    assert (error.code, str(error)) == (code, text or code.name)


def test_a_reason_of_a_newer_server_falls_back_to_the_status() -> None:
    detail = pb.ErrorDetail.FromString(b"\x08\xe7\x07")  # reason 999
    error = failure(grpc.StatusCode.UNAVAILABLE, detail)
    assert type(error) is errors.Unavailable
    assert error.reason == "reason_999"


def test_an_exception_survives_pickling() -> None:
    detail = pb.ErrorDetail(reason=pb.REASON_BAD_INPUT, message="why", feature="x", index=3)
    error = errors.BadInput("why", grpc.StatusCode.INVALID_ARGUMENT, detail)
    error.offset = 64
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.code, again.feature, again.index) == ("why", error.code, "x", 67)
