"""The benchmarks of unary calls measure all sides, and check what they answer."""

from __future__ import annotations

import time

import numpy as np
import pytest

from benchmarks import arrivals, singles
from benchmarks.calls import EchoSession, StepSession
from benchmarks.load import WrongAnswer
from tidegate.v1 import packed_pb2


def test_both_transports_are_measured_and_their_steps_checked() -> None:
    results = singles.run([3], seconds=0.2, windows=1)
    asked = [each for each in results if each.side != "triton"]  # which few have installed
    assert [(each.method, each.side) for each in asked] == [
        ("Step", "aio"), ("Step", "native"), ("Step", "echo"), ("ModelInfer", "aio"),
        ("ModelInfer", "native"), ("StepStream", "aio"), ("StepStream", "native"),
    ]  # fmt: skip
    for each in results:
        assert each.checked_steps > 0 and each.steps_per_second > 0
        assert 0 < each.p50_ms <= each.p99_ms
    assert f"| ModelInfer | 3 | native | {asked[4].steps_per_second:,.0f} |" in singles.table(
        results
    )


@pytest.mark.parametrize(("first_step", "remembered"), [(1, False), (0, True)])
def test_a_reply_to_another_step_is_no_answer(first_step: int, remembered: bool) -> None:
    session = StepSession(None, 1, np.zeros((4, 16), np.float32))  # type: ignore[arg-type]
    reply = packed_pb2.PackedStepReply(first_step=first_step, remembered=remembered)
    with pytest.raises(WrongAnswer):
        session.outputs(0, reply.SerializeToString())


def test_an_echo_of_other_bytes_is_no_echo() -> None:
    session = EchoSession(None, 1, np.zeros((4, 16), np.float32))  # type: ignore[arg-type]
    sent = session.request(0, bytes(64))
    session.look(sent)
    with pytest.raises(WrongAnswer):
        session.look(sent[:-1])


def test_calls_come_at_random_moments_and_count_from_when_they_were_due() -> None:
    moments = arrivals.due(1000, 5, seed=1)
    gaps = np.diff(moments)
    assert len(moments) == 5000 and 0.9 < gaps.std() / gaps.mean() < 1.1
    (result,) = arrivals.run([0.2], 0.5)
    asked = round(result.asked_per_second * 0.5)
    assert result.steps == arrivals.REPEATS * asked and result.checked_steps > 0
    assert 0 < result.p50_ms <= result.p99_ms <= result.longest_ms
    assert 1 <= result.ratio <= result.worst_ratio
    assert f"| 20% | {result.asked_per_second:,.0f} |" in arrivals.table([result])


def test_a_call_that_was_due_before_it_went_has_waited_since_then() -> None:
    session = StepSession(Sent(), 1, np.zeros((4, 16), np.float32))  # type: ignore[arg-type]
    session.go(since=time.perf_counter() - 3.0)
    session.answered(packed_pb2.PackedStepReply(first_step=0).SerializeToString())
    assert 3.0 <= session.took[0] < 60.0


class Sent:
    """A connection, and a stream of it, on which nothing is sent."""

    def begin(self, method: str, on_message: object) -> Sent:
        """Nothing is begun."""
        return self

    def send(self, message: bytes, last: bool) -> None:
        """Nothing."""
