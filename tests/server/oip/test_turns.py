"""Requests that arrive while others of their sequence are under way, on a server that is busy."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient import grpc as triton
from tritonclient.grpc import aio as triton_aio

from tests.conftest import SmallModel
from tests.harness import RunningServer, running_server
from tests.server.oip.busy import ROWS, busy
from tests.server.oip.triton import (
    TOLERANCE,
    Floats,
    client,
    expected,
    name,
    observations,
    raw,
    refusal,
    request,
    step,
    stream,
    tensor,
)

START: dict[str, Any] = {"sequence_start": True}
END: dict[str, Any] = {"sequence_end": True}


@pytest.fixture(scope="module")
def roomy(transport: str, small: SmallModel) -> Iterator[RunningServer]:
    """A server that `busy` keeps busy."""
    with running_server(small.repository, max_batch=ROWS) as running:
        yield running


def send(connection: Any, x: Floats, sequence: str, **more: Any) -> None:
    connection.async_stream_infer("small", [tensor(x)], sequence_id=sequence, **more)


def receive(replies: queue.Queue[Any], count: int) -> list[Any]:
    """Outputs of the replies, and the texts of the errors."""
    got = [replies.get(timeout=20) for _ in range(count)]
    return [
        each.message()
        if isinstance(each, triton.InferenceServerException)
        else each.as_numpy("y")[0]
        for each in got
    ]


def assert_close(outputs: Any, wanted: Floats) -> None:
    np.testing.assert_allclose(np.array(outputs), wanted, rtol=0, atol=TOLERANCE)


def no_start(sequence: str) -> str:
    return (
        f"inference request for sequence {sequence} to model 'small' must specify the START flag "
        "on the first request of the sequence"
    )


LATE = "the deadline passed before the step entered a run; nothing changed"


def test_after_end_only_start_is_accepted_and_it_begins_anew(
    roomy: RunningServer, small: SmallModel
) -> None:
    xs, sequence = observations(5), name()
    with client(roomy) as connection, stream(connection) as replies:
        with busy(roomy):
            send(connection, xs[0], sequence, **START)
            send(connection, xs[1], sequence, **END)
            send(connection, xs[4], sequence)
            send(connection, xs[2], sequence, **START)
            send(connection, xs[3], sequence)
        first, second, refused, third, fourth = receive(replies, 5)
        assert_close([first, second], expected(small.weights, xs[:2]))
        assert refused == no_start(sequence)
        assert_close([third, fourth], expected(small.weights, xs[2:4]))
        send(connection, xs[4], sequence, **END)  # it lives on
        assert_close(receive(replies, 1), expected(small.weights, xs[2:])[2:])


def test_what_follows_a_start_that_failed_does_not_step_the_sequence_before(
    roomy: RunningServer, small: SmallModel
) -> None:
    xs, sequence = observations(6), name()
    with client(roomy) as connection, stream(connection) as replies:
        send(connection, xs[0], sequence, **START)
        before = receive(replies, 1)
        with busy(roomy):
            send(connection, xs[5], sequence, timeout=1, **START)
            send(connection, xs[5], sequence)
            send(connection, xs[5], sequence, **END)
        assert receive(replies, 3) == [LATE, no_start(sequence), no_start(sequence)]
        send(connection, xs[1], sequence)  # the sequence before is as it was
        before += receive(replies, 1)
        assert_close(before, expected(small.weights, xs[:2]))


def test_a_start_after_a_start_that_failed_begins_a_sequence(
    roomy: RunningServer, small: SmallModel
) -> None:
    xs, sequence = observations(3), name()
    with client(roomy) as connection, stream(connection) as replies:
        with busy(roomy):
            send(connection, xs[2], sequence, timeout=1, **START)
            send(connection, xs[2], sequence)
            for k, x in enumerate(xs):
                send(connection, x, sequence, sequence_start=k == 0, sequence_end=k == 2)
        late, refused, *outputs = receive(replies, 5)
    assert (late, refused) == (LATE, no_start(sequence))
    assert_close(outputs, expected(small.weights, xs))


def test_starts_that_all_fail_leave_no_sequence_behind(roomy: RunningServer) -> None:
    x, sequence = observations(1)[0], name()
    with client(roomy) as connection, stream(connection) as replies:
        with busy(roomy):
            live = roomy.metric("tidegate_sessions_live")
            send(connection, x, sequence, timeout=1, **START)
            send(connection, x, sequence, timeout=1, **START)
            send(connection, x, sequence, **END)
        assert receive(replies, 3) == [LATE, LATE, no_start(sequence)]
        send(connection, x, sequence)
        assert receive(replies, 1) == [no_start(sequence)]
    assert roomy.metric("tidegate_sessions_live") == live


def test_an_end_that_failed_leaves_the_sequence_to_be_ended_again(
    roomy: RunningServer, small: SmallModel
) -> None:
    xs, sequence = observations(2), name()
    with client(roomy) as connection, stream(connection) as replies:
        send(connection, xs[0], sequence, **START)
        outputs = receive(replies, 1)
        with busy(roomy):
            send(connection, xs[1], sequence, timeout=1, **END)
        assert receive(replies, 1) == [LATE]
        send(connection, xs[1], sequence, **END)
        outputs += receive(replies, 1)
    assert_close(outputs, expected(small.weights, xs))


def test_an_end_counts_even_where_the_start_behind_it_fails(
    roomy: RunningServer, small: SmallModel
) -> None:
    """Once the sequence lived on: the END had left it to the START, and that to nobody."""
    xs, sequence = observations(3), name()
    with client(roomy) as connection, stream(connection) as replies:
        with busy(roomy):
            send(connection, xs[0], sequence, **START)
            send(connection, xs[1], sequence, **END)
            send(connection, xs[2], sequence, timeout=1, **START)
            send(connection, xs[2], sequence, timeout=1, **START)
            send(connection, xs[2], sequence)
        *ended, late, later, refused = receive(replies, 5)
        assert_close(ended, expected(small.weights, xs[:2]))
        assert (late, later, refused) == (LATE, LATE, no_start(sequence))
        send(connection, xs[2], sequence)
        assert receive(replies, 1) == [no_start(sequence)]


def test_a_start_that_fails_behind_another_that_did_not_ends_nothing(
    roomy: RunningServer, small: SmallModel
) -> None:
    xs, sequence = observations(3), name()
    with client(roomy) as connection, stream(connection) as replies:
        with busy(roomy):
            send(connection, xs[2], sequence, **START)
            send(connection, xs[2], sequence, **END)
            send(connection, xs[0], sequence, **START)
            send(connection, xs[2], sequence, timeout=1, **START)
        assert receive(replies, 4)[3] == LATE
        send(connection, xs[1], sequence)
        assert_close(receive(replies, 1), expected(small.weights, xs[:2])[1:])


def test_a_call_is_given_up_at_its_own_deadline_and_steps_nothing(
    roomy: RunningServer, small: SmallModel
) -> None:
    xs, sequence = observations(2), name()
    with client(roomy) as connection:
        outputs = [step(connection, xs[0], sequence, **START)]
        with busy(roomy), pytest.raises(triton.InferenceServerException) as caught:
            step(connection, xs[1], sequence, client_timeout=0.02)
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
        outputs.append(step(connection, xs[1], sequence))
    assert_close(outputs, expected(small.weights, xs))


def test_a_cancelled_call_steps_nothing(roomy: RunningServer, small: SmallModel) -> None:
    xs, sequence = observations(2), name()

    async def cancelled() -> None:
        async with triton_aio.InferenceServerClient(roomy.address) as connection:
            call = connection.infer("small", [tensor(xs[1])], sequence_id=sequence)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(call, 0.05)

    with client(roomy) as connection:
        outputs = [step(connection, xs[0], sequence, **START)]
        with busy(roomy):
            asyncio.run(cancelled())
        outputs.append(step(connection, xs[1], sequence))
    assert_close(outputs, expected(small.weights, xs))


def test_a_stream_that_is_cut_steps_nothing_more(roomy: RunningServer, small: SmallModel) -> None:
    xs, sequence = observations(2), name()
    with raw(roomy) as stub:
        outputs = [_output(stub.ModelInfer(request(sequence, xs[0], **START)))]
        with busy(roomy):
            call = stub.ModelStreamInfer(iter([request(sequence, xs[1]) for _ in range(10)]))
            time.sleep(0.05)
            call.cancel()
        outputs.append(_output(stub.ModelInfer(request(sequence, xs[1]))))
    assert_close(outputs, expected(small.weights, xs))


def test_a_timeout_is_in_microseconds(roomy: RunningServer) -> None:
    """A second is enough for what is queued, a thousandth is not."""
    one, two = name(), name()
    with raw(roomy) as stub:
        for sequence in (one, two):
            stub.ModelInfer(request(sequence, **START))
        with busy(roomy):
            refused = refusal(stub, request(one, timeout=1_000))
        assert (refused.code, refused.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE")
        with busy(roomy):
            stub.ModelInfer(request(two, timeout=20_000_000))


def test_a_stream_is_read_no_faster_than_it_is_answered(small: SmallModel) -> None:
    """Of fifty requests sent to a busy server, four wait in its queue and the rest on the wire."""
    flags = {"max_batch": ROWS, "max_inflight_messages": 4}
    xs, sequence = observations(50), name()
    with (
        running_server(small.repository, **flags) as server,
        client(server) as connection,
        stream(connection) as replies,
    ):
        send(connection, xs[0], sequence, **START)
        outputs = receive(replies, 1)
        with busy(server):
            for x in xs[1:]:
                send(connection, x, sequence)
            most = max(waiting(server) for _ in range(40))
        outputs += receive(replies, 49)
    assert 4 <= most < 8  # one of those that wait may run just now, and its row come after it
    assert_close(outputs, expected(small.weights, xs))


def waiting(server: RunningServer) -> int:
    """Steps in the queue besides those of `busy`, which come and go in whole runs."""
    return int(server.metric("tidegate_queue_steps")) % ROWS


def test_two_clients_step_one_sequence(roomy: RunningServer, small: SmallModel) -> None:
    xs, sequence = observations(6), name()
    with client(roomy) as one, client(roomy) as two:
        outputs = [step((one, two)[k % 2], x, sequence, sequence_start=k == 0, sequence_end=k == 5)
                   for k, x in enumerate(xs)]  # fmt: skip
    assert_close(outputs, expected(small.weights, xs))


def _output(reply: Any) -> Floats:
    return np.frombuffer(reply.raw_output_contents[0], "<f4")
