"""Sequences over Triton's clients: the same sessions, the same answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient import grpc as triton
from tritonclient.grpc import aio as triton_aio

from tests.conftest import SmallModel
from tests.harness import RunningServer
from tests.server.oip.triton import (
    OUTPUTS,
    TOLERANCE,
    WIDTH,
    Floats,
    client,
    expected,
    name,
    observations,
    play,
    raw,
    request,
    step,
    stream,
    tensor,
)
from tidegate.v1 import tidegate_pb2, tidegate_pb2_grpc


def assert_close(outputs: Any, wanted: Floats) -> None:
    np.testing.assert_allclose(np.array(outputs), wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("sequence", [name(), 7_001, 2**62], ids=["string", "int", "large int"])
def test_a_sequence_is_what_the_equations_say(
    server: RunningServer, small: SmallModel, sequence: str | int
) -> None:
    xs = observations(12)
    with client(server) as connection:
        assert_close(play(connection, xs, sequence), expected(small.weights, xs))
        with pytest.raises(triton.InferenceServerException, match="START flag"):
            step(connection, xs[0], sequence)  # it has ended


def test_start_on_a_live_id_starts_anew(server: RunningServer, small: SmallModel) -> None:
    xs, sequence = observations(6), name()
    with client(server) as connection:
        step(connection, xs[5], sequence, sequence_start=True)
        step(connection, xs[4], sequence)
        assert_close(play(connection, xs, sequence), expected(small.weights, xs))


def test_start_and_end_together_are_a_sequence_of_one_step(
    server: RunningServer, small: SmallModel
) -> None:
    x, sequence = observations(1), name()
    with client(server) as connection:
        assert_close(play(connection, x, sequence), expected(small.weights, x))
        with pytest.raises(triton.InferenceServerException, match="START flag"):
            step(connection, x[0], sequence)


def test_many_sequences_side_by_side_do_not_mix(server: RunningServer, small: SmallModel) -> None:
    xs = [observations(10, seed) for seed in range(16)]
    with client(server) as connection, ThreadPoolExecutor(16) as pool:
        plays = [pool.submit(play, connection, x, name()) for x in xs]
        for x, done in zip(xs, plays, strict=True):
            assert_close(done.result(), expected(small.weights, x))


def test_a_sequence_is_a_session_like_any_other(server: RunningServer, small: SmallModel) -> None:
    """It is listed, stepped and closed over our own protocol as well."""
    xs = observations(3)
    with client(server) as connection, grpc.insecure_channel(server.address) as channel:
        step(connection, xs[0], 88_123, sequence_start=True)
        stub = tidegate_pb2_grpc.TidegateStub(channel)
        found = stub.Get(tidegate_pb2.GetRequest(model="small", session_id="88123"))
        assert (found.version, found.steps) == (1, 1)
        assert_close(step(connection, xs[1], "88123"), expected(small.weights, xs)[1])


def test_streamed_replies_keep_the_order_of_requests(
    server: RunningServer, small: SmallModel
) -> None:
    xs = [observations(20, seed) for seed in range(5)]
    names = [name() for _ in xs]
    with client(server) as connection, stream(connection) as replies:
        for k in range(20):
            for x, sequence in zip(xs, names, strict=True):
                connection.async_stream_infer(
                    "small", [tensor(x[k])], sequence_id=sequence, request_id=f"{sequence}/{k}",
                    sequence_start=k == 0, sequence_end=k == 19,
                )  # fmt: skip
        got = [replies.get(timeout=10) for _ in range(100)]
    assert [each.get_response().id for each in got] == [
        f"{s}/{k}" for k in range(20) for s in names
    ]
    for at, x in enumerate(xs):
        outputs = [each.as_numpy("y")[0] for each in got[at::5]]
        assert_close(outputs, expected(small.weights, x))


def test_sequences_that_start_one_after_another_need_not_wait_for_any(
    server: RunningServer, small: SmallModel
) -> None:
    """While the store makes one, those before it are answered: once that let in the next one's
    steps ahead of its START."""
    xs = [observations(4, seed) for seed in range(60)]
    with client(server) as connection, stream(connection) as replies:
        for x in xs:
            sequence = name()
            for k in range(4):
                connection.async_stream_infer(
                    "small", [tensor(x[k])], sequence_id=sequence, sequence_start=k == 0
                )
        outputs = [replies.get(timeout=30).as_numpy("y")[0] for _ in range(4 * len(xs))]
    for at, x in enumerate(xs):
        assert_close(outputs[4 * at : 4 * at + 4], expected(small.weights, x))


def test_a_sequence_may_end_and_start_again_without_a_wait(
    server: RunningServer, small: SmallModel
) -> None:
    xs, sequence = observations(60), name()
    with client(server) as connection, stream(connection) as replies:
        for k, x in enumerate(xs):
            connection.async_stream_infer(
                "small", [tensor(x)], sequence_id=sequence,
                sequence_start=k % 3 == 0, sequence_end=k % 3 == 2,
            )  # fmt: skip
        outputs = [replies.get(timeout=10).as_numpy("y")[0] for _ in xs]
    for at in range(0, 60, 3):
        assert_close(outputs[at : at + 3], expected(small.weights, xs[at : at + 3]))


def test_the_asynchronous_client_steps_and_streams(
    server: RunningServer, small: SmallModel
) -> None:
    xs, one, two = observations(8), name(), name()

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for k, x in enumerate(xs):
            yield {
                "model_name": "small", "inputs": [tensor(x)], "sequence_id": two,
                "sequence_start": k == 0, "sequence_end": k == 7,
            }  # fmt: skip

    async def run() -> tuple[list[Floats], list[Floats]]:
        async with triton_aio.InferenceServerClient(server.address) as connection:
            assert await connection.is_server_ready()
            unary = []
            for k, x in enumerate(xs):
                result = await connection.infer(
                    "small", [tensor(x)], sequence_id=one,
                    sequence_start=k == 0, sequence_end=k == 7,
                )  # fmt: skip
                unary.append(result.as_numpy("y")[0])
            streamed = []
            async for result, error in connection.stream_infer(requests()):
                assert error is None
                streamed.append(result.as_numpy("y")[0])
        return unary, streamed

    for outputs in asyncio.run(run()):
        assert_close(outputs, expected(small.weights, xs))


def test_typed_contents_and_raw_ones_mean_the_same(
    server: RunningServer, small: SmallModel
) -> None:
    xs, sequence = observations(2), name()
    with raw(server) as stub:
        first = request(sequence, xs[0], sequence_start=True)
        typed = request(sequence, sequence_end=True)
        del typed.raw_input_contents[:]
        typed.inputs[0].contents.fp32_contents.extend(xs[1].tolist())
        typed.id = "the second"
        replies = [stub.ModelInfer(first), stub.ModelInfer(typed)]
    assert [reply.id for reply in replies] == ["", "the second"]
    assert (replies[0].model_name, replies[0].model_version) == ("small", "1")
    assert list(replies[0].outputs[0].shape) == [1, OUTPUTS]
    outputs = [np.frombuffer(reply.raw_output_contents[0], "<f4") for reply in replies]
    assert_close(outputs, expected(small.weights, xs))


def test_the_likeliest_values_are_told_where_classes_are_asked_for(
    server: RunningServer, small: SmallModel
) -> None:
    x = observations(1)
    wanted = [triton.InferRequestedOutput("y", class_count=2)]
    with client(server) as connection:
        result = connection.infer(
            "small", [tensor(x[0])], outputs=wanted, sequence_id=name(),
            sequence_start=True, sequence_end=True,
        )  # fmt: skip
    values = expected(small.weights, x)[0]
    best = np.argsort(-values)[:2]
    told = [each.decode().split(":") for each in result.as_numpy("y")[0]]
    assert [int(index) for _, index in told] == best.tolist()
    assert_close([float(value) for value, _ in told], values[best])


def test_features_are_as_wide_as_the_metadata_say(server: RunningServer) -> None:
    with client(server) as connection:
        about = connection.get_model_metadata("small")
    assert [(t.name, t.datatype, list(t.shape)) for t in about.inputs] == [
        ("input", "FP32", [-1, WIDTH])
    ]
