"""What is refused, with Triton's codes and texts, and our finer reason beside them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient import grpc as triton
from tritonclient.grpc import aio as triton_aio
from tritonclient.grpc import service_pb2 as pb

from tests.conftest import SmallModel
from tests.harness import RunningServer, running_server
from tests.server.oip.triton import (
    WIDTH,
    client,
    expected,
    name,
    observations,
    parameter,
    raw,
    refusal,
    request,
    step,
    stream,
    tensor,
)

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
SMALL = "model 'small'"
NO_ID = f"inference request to {SMALL} must specify a non-zero or non-empty correlation ID"
BATCH = f"inference request to {SMALL} must specify batch-size 1 due to requirements of sequence batcher"  # noqa: E501


def no_start(sequence: object) -> str:
    return (
        f"inference request for sequence {sequence} to {SMALL} must specify the START flag on the "
        "first request of the sequence"
    )


def wrong(key: str, expected_kind: str) -> str:
    return f"invalid value type for '{key}' parameter, expected {expected_kind}."


UINT = pb.InferParameter(uint64_param=3)
DOUBLE = pb.InferParameter(double_param=1.5)
ID_KINDS = "int64_param or string_param"


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({}, NO_ID),
        ({"sequence_id": 0}, NO_ID),
        ({"sequence_id": ""}, NO_ID),
        ({"sequence_id": UINT}, wrong("sequence_id", ID_KINDS)),
        ({"sequence_id": True}, wrong("sequence_id", ID_KINDS)),
        ({"sequence_id": "a", "sequence_start": 1}, wrong("sequence_start", "bool_param")),
        ({"sequence_id": "a", "sequence_end": "yes"}, wrong("sequence_end", "bool_param")),
        ({"sequence_id": "a", "timeout": "soon"}, wrong("timeout", "int64_param")),
        ({"sequence_id": "a", "timeout": UINT}, wrong("timeout", "int64_param")),
        (
            {"sequence_id": "a", "priority": DOUBLE},
            wrong("priority", "int64_param or uint64_param"),
        ),
        (
            {"sequence_id": "a", "priority": "high"},
            wrong("priority", "int64_param or uint64_param"),
        ),
        (
            {"sequence_id": "a", "priority": -1},
            "invalid value for 'priority', expected value >= 0.",
        ),
        ({"sequence_id": pb.InferParameter()}, wrong("sequence_id", ID_KINDS)),
    ],
)
def test_wrong_parameters_are_refused_in_tritons_words(
    server: RunningServer, parameters: dict[str, Any], text: str
) -> None:
    with raw(server) as stub:
        refused = refusal(stub, request(None, **parameters))
    assert (refused.code, refused.text, refused.reason) == (INVALID, text, "BAD_INPUT")


def test_a_text_id_is_at_most_128_characters_long(server: RunningServer) -> None:
    with raw(server) as stub:
        stub.ModelInfer(request("é" * 128, sequence_start=True, sequence_end=True))
        refused = refusal(stub, request("é" * 129, sequence_start=True))
    assert refused.code == grpc.StatusCode.UNIMPLEMENTED
    assert refused.text == "string correlation ID cannot be longer than 128 characters"


def test_a_priority_is_accepted(server: RunningServer) -> None:
    with raw(server) as stub:
        for priority in (0, 7, UINT):
            stub.ModelInfer(
                request(name(), priority=priority, sequence_start=True, sequence_end=True)
            )


def test_a_sequence_begins_with_start_and_the_reason_tells_why_it_is_not_live(
    small: SmallModel,
) -> None:
    with running_server(small.repository, session_ttl=0.5) as server, raw(server) as stub:
        stub.ModelInfer(request("ended", sequence_start=True, sequence_end=True))
        stub.ModelInfer(request("idle", sequence_start=True))
        deadline = time.monotonic() + 10
        while server.metric("tidegate_sessions_live") and time.monotonic() < deadline:
            time.sleep(0.05)
        refused = {key: refusal(stub, request(key)) for key in ("never", "ended", "idle")}
    for key, each in refused.items():
        assert (each.code, each.text) == (INVALID, no_start(key))
    assert [each.reason for each in refused.values()] == ["UNKNOWN_SESSION", "CLOSED", "EXPIRED"]


def spoil(**fields: Any) -> Any:
    message = request(name(), sequence_start=True)
    tensor_fields = {k: v for k, v in fields.items() if k in ("name", "datatype", "shape")}
    for key, value in tensor_fields.items():
        if key == "shape":
            del message.inputs[0].shape[:]
            message.inputs[0].shape.extend(value)
        else:
            setattr(message.inputs[0], key, value)
    if "raw" in fields:
        del message.raw_input_contents[:]
        message.raw_input_contents.extend(fields["raw"])
    return message


WIDE = np.zeros(2 * WIDTH, np.float32).tobytes()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": "x"}, f"unexpected inference input 'x' for {SMALL}"),
        (
            {"datatype": "INT32"},
            f"inference input 'input' data-type is 'INT32', but {SMALL} expects 'FP32'",
        ),
        (
            {"shape": [1, 4]},
            f"unexpected shape for input 'input' for {SMALL}. Expected [-1,5], got [1,4]",
        ),
        (
            {"shape": [5]},
            f"unexpected shape for input 'input' for {SMALL}. Expected [-1,5], got [5]",
        ),
        (
            {"shape": [-1, 5]},
            f"unexpected shape for input 'input' for {SMALL}. Expected [-1,5], got [-1,5]",
        ),
        ({"shape": [2, 5], "raw": [WIDE]}, BATCH),
        (
            {"raw": [WIDE]},
            f"input byte size mismatch for input 'input' for {SMALL}. Expected 20, got 40",
        ),
        (
            {"raw": []},
            f"unable to find data for input tensor 'input' for {SMALL} in request.",
        ),
        ({"raw": [WIDE, WIDE]}, f"expected 1 raw_input_contents but got 2 for {SMALL}"),
    ],
)
def test_wrong_tensors_are_refused_in_tritons_words(
    server: RunningServer, fields: dict[str, Any], text: str
) -> None:
    with raw(server) as stub:
        message = spoil(**fields)
        refused = refusal(stub, message)
        after = refusal(stub, request(message.parameters["sequence_id"].string_param))
    assert (refused.code, refused.text) == (INVALID, text)
    assert after.reason == "UNKNOWN_SESSION"  # it has started nothing


def test_typed_contents_are_checked_like_raw_ones(server: RunningServer) -> None:
    short, other = (request(name(), sequence_start=True) for _ in range(2))
    for message in (short, other):
        del message.raw_input_contents[:]
    short.inputs[0].contents.fp32_contents.extend([1.0] * 4)
    other.inputs[0].contents.int64_contents.extend([1] * WIDTH)
    with raw(server) as stub:
        refused = [refusal(stub, short), refusal(stub, other)]
    assert [(each.code, each.text) for each in refused] == [
        (INVALID, f"input byte size mismatch for input 'input' for {SMALL}. Expected 20, got 16"),
        (
            INVALID,
            f"unexpected explicit tensor data for input tensor 'input' for {SMALL} of type "
            "'INT64', expected datatype 'FP32'",
        ),
    ]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "invalid value for 'classification' parameter, expected >= 0"),
        (True, "invalid value type for 'classification' parameter, expected int64_param"),
    ],
)
def test_a_count_of_classes_is_a_number_above_0(
    server: RunningServer, count: int | bool, text: str
) -> None:
    message = request(name(), sequence_start=True)
    wanted = message.outputs.add(name="y").parameters["classification"]
    wanted.CopyFrom(parameter(count))
    with raw(server) as stub:
        refused = refusal(stub, message)
    assert (refused.code, refused.text) == (INVALID, text)


def test_no_input_two_inputs_and_two_kinds_of_contents_are_refused(server: RunningServer) -> None:
    none, two, both = (request(name(), sequence_start=True) for _ in range(3))
    del none.inputs[:]
    two.inputs.add(name="input", datatype="FP32", shape=[1, WIDTH])
    both.inputs[0].contents.fp32_contents.extend([0.0] * WIDTH)
    with raw(server) as stub:
        texts = [refusal(stub, each).text for each in (none, two, both)]
    assert texts == [
        f"expected 1 inputs but got 0 inputs for {SMALL}",
        f"expected 1 inputs but got 2 inputs for {SMALL}",
        "contents field must not be specified when using raw_input_contents for 'input' for "
        + SMALL,
    ]


def test_unknown_models_versions_and_outputs_are_refused(server: RunningServer) -> None:
    def named(model: str, version: str = "") -> Any:
        message = request(name(), sequence_start=True)
        message.model_name, message.model_version = model, version
        return message

    unknown_output = request(name(), sequence_start=True)
    unknown_output.outputs.add(name="z")
    with raw(server) as stub:
        refused = [
            refusal(stub, named(*each))
            for each in [("x",), ("x", "3"), ("small", "9"), ("small", "v1"), ("small", "-1")]
        ]
        output = refusal(stub, unknown_output)
    assert [(each.code, each.text) for each in refused] == [
        (NOT_FOUND, "Request for unknown model: 'x' is not found"),
        (NOT_FOUND, "Request for unknown model: 'x' is not found"),
        (NOT_FOUND, "Request for unknown model: 'small' version 9 is not found"),
        (
            INVALID,
            "failed to get model version from specified version string 'v1' (details: stol), "
            "version should be an integral value > 0",
        ),
        (
            INVALID,
            "invalid model version specified '-1' , version should be an integral value > 0",
        ),
    ]
    assert [each.reason for each in refused] == [
        "UNKNOWN_MODEL", "UNKNOWN_MODEL", "UNKNOWN_VERSION", "BAD_INPUT", "BAD_INPUT",
    ]  # fmt: skip
    assert (output.code, output.text) == (INVALID, f"unexpected inference output 'z' for {SMALL}")


def test_a_refused_step_leaves_the_sequence_as_it_was(
    server: RunningServer, small: SmallModel
) -> None:
    xs, sequence = observations(3), name()
    bad = np.full(WIDTH, np.nan, np.float32)
    with client(server) as connection:
        outputs = [step(connection, xs[0], sequence, sequence_start=True)]
        for flags in ({}, {"sequence_end": True}, {"sequence_start": True}):
            with pytest.raises(triton.InferenceServerException, match="must be finite"):
                step(connection, bad, sequence, **flags)
        outputs += [step(connection, x, sequence) for x in xs[1:]]
    np.testing.assert_allclose(outputs, expected(small.weights, xs), rtol=0, atol=1e-5)


def test_a_full_server_says_so_at_once(small: SmallModel) -> None:
    with running_server(small.repository, max_sessions=2) as server, raw(server) as stub:
        for key in ("a", "b"):
            stub.ModelInfer(request(key, sequence_start=True))
        refused = refusal(stub, request("c", sequence_start=True))
        assert refused.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refused.reason == "SESSIONS_FULL"
        stub.ModelInfer(request("a", sequence_start=True))  # live: it needs no room
        stub.ModelInfer(request("a", sequence_end=True))
        stub.ModelInfer(request("c", sequence_start=True))


def test_errors_are_messages_and_the_stream_lives_on(
    server: RunningServer, small: SmallModel
) -> None:
    xs, sequence = observations(4), name()
    with client(server) as connection, stream(connection) as replies:

        def send(x: Any, key: str, **more: Any) -> None:
            connection.async_stream_infer(
                "small", [tensor(x)], sequence_id=sequence, request_id=key, **more
            )

        send(xs[0], "too early")
        send(xs[0], "first", sequence_start=True)
        send(np.full(WIDTH, np.inf, np.float32), "bad")
        send(xs[1], "second", sequence_end=True)
        send(xs[2], "too late")
        got = [replies.get(timeout=10) for _ in range(5)]
    assert [isinstance(each, triton.InferenceServerException) for each in got] == [
        True, False, True, False, True,
    ]  # fmt: skip
    assert got[0].message() == got[4].message() == no_start(sequence)
    assert "must be finite" in got[2].message()
    outputs = [each.as_numpy("y")[0] for each in (got[1], got[3])]
    np.testing.assert_allclose(outputs, expected(small.weights, xs[:2]), rtol=0, atol=1e-5)


def test_a_failed_message_names_its_request_alone(server: RunningServer) -> None:
    message = request(name())
    message.id = "seventh"
    with raw(server) as stub:
        (reply,) = stub.ModelStreamInfer(iter([message]))
    assert reply.error_message.endswith("START flag on the first request of the sequence")
    assert reply.infer_response == pb.ModelInferResponse(id="seventh")


def test_a_caller_that_asks_for_grpc_errors_gets_the_streams_end(server: RunningServer) -> None:
    good, bad, sequence = request(name(), sequence_start=True), request(name()), name()
    headers = (("triton_grpc_error", "true"),)
    with raw(server) as stub:
        call = stub.ModelStreamInfer(iter([good, bad, good]), metadata=headers)
        assert not next(call).error_message
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
    assert caught.value.code() == INVALID
    assert "START flag" in (caught.value.details() or "")
    with client(server) as connection, stream(connection, headers=dict(headers)) as replies:
        connection.async_stream_infer("small", [tensor(observations(1)[0])], sequence_id=sequence)
        error = replies.get(timeout=10)
        assert error.status() == "StatusCode.INVALID_ARGUMENT"


def test_tritons_clients_leave_an_id_of_0_out_and_are_refused(server: RunningServer) -> None:
    with client(server) as connection:
        for nothing in (0, ""):
            with pytest.raises(triton.InferenceServerException) as caught:
                step(connection, observations(1)[0], nothing, sequence_start=True)
            assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
            assert caught.value.message() == NO_ID


def test_the_asynchronous_client_meets_the_same_errors(server: RunningServer) -> None:
    xs, sequence = observations(1), name()

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for start in (False, True, False):
            yield {
                "model_name": "small", "inputs": [tensor(xs[0])], "sequence_id": sequence,
                "sequence_start": start, "sequence_end": start,
            }  # fmt: skip

    async def run() -> list[str | None]:
        async with triton_aio.InferenceServerClient(server.address) as connection:
            with pytest.raises(triton.InferenceServerException) as caught:
                await connection.infer("small", [tensor(xs[0])], sequence_id=sequence)
            assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
            assert caught.value.message() == no_start(sequence)
            return [error and error.message()
                    async for _, error in connection.stream_infer(requests())]  # fmt: skip

    assert asyncio.run(run()) == [no_start(sequence), None, no_start(sequence)]


def test_a_step_that_cannot_run_in_time_is_dropped_and_says_so(server: RunningServer) -> None:
    """A thousandth of a thousandth of a second is over before any run."""
    sequence = name()
    with raw(server) as stub:
        stub.ModelInfer(request(sequence, sequence_start=True))
        refused = refusal(stub, request(sequence, timeout=1))
        assert refused.code == grpc.StatusCode.DEADLINE_EXCEEDED
        new = name()
        assert refusal(stub, request(new, timeout=1, sequence_start=True)).reason == "DEADLINE"
        assert refusal(stub, request(new)).reason in ("CLOSED", "UNKNOWN_SESSION")
        stub.ModelInfer(request(sequence, timeout=5_000_000, sequence_end=True))


def test_a_stopping_server_answers_what_it_read_and_refuses_the_rest(small: SmallModel) -> None:
    """One idle live sequence does not hold the stop."""
    with (
        running_server(small.repository, drain_seconds=600) as server,
        client(server) as connection,
        stream(connection) as replies,
    ):
        connection.async_stream_infer(
            "small", [tensor(observations(1)[0])], sequence_id="idle", sequence_start=True
        )
        assert replies.get(timeout=10).as_numpy("y") is not None
        assert server.terminate(60) == 0
        error = replies.get(timeout=10)
        assert error.status() == "StatusCode.UNAVAILABLE"
        assert "shutting down" in error.message()
