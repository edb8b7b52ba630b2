"""The step protocol over a real channel: numbers, retries, and what they leave unmoved."""

from __future__ import annotations

import numpy as np

from tests.conftest import SmallModel
from tests.harness import RunningServer
from tests.server.wire.wire import connected, failing, observations, outputs, step_request
from tidegate.v1 import tidegate_pb2 as pb
from training.reference import NumpyNetwork


def expected(small: SmallModel, x: np.ndarray) -> np.ndarray:
    lstm = NumpyNetwork(small.weights)
    return lstm.run(x, lstm.initial())[0]


def test_steps_equal_the_numpy_lstm_in_any_chunks(server: RunningServer, small: SmallModel) -> None:
    x = observations(1, 100)
    with connected(server) as stub:
        stub.Open(pb.OpenRequest(model="small", session_id="chunks"))
        got, at = [], 0
        for size in (1, 1, 7, 64, 2, 1, 24):
            reply = stub.Step(step_request("chunks", at, x[at : at + size]))
            assert (reply.first_step, reply.steps, reply.remembered) == (at, size, False)
            got.append(outputs(reply))
            at += size
    assert at == 100
    np.testing.assert_allclose(np.concatenate(got), expected(small, x), atol=1e-5)


def test_a_retry_is_answered_from_memory_and_moves_nothing(server: RunningServer) -> None:
    x = observations(2, 12)
    with connected(server) as stub:
        stub.Open(pb.OpenRequest(model="small", session_id="retry"))
        first = stub.Step(step_request("retry", 0, x[:10]))
        for _ in range(3):
            again = stub.Step(step_request("retry", 0, x[:10]))
            assert again.remembered
            assert list(again.outputs) == list(first.outputs)
        part = stub.Step(step_request("retry", 4, x[4:7]))
        assert list(part.outputs) == list(first.outputs)[4 * 3 : 7 * 3]
        session = stub.Get(pb.GetRequest(model="small", session_id="retry"))
        assert session.steps == 10
        assert not stub.Step(step_request("retry", 10, x[10])).remembered


def test_numbers_that_do_not_fit_are_refused_with_the_expected_one(server: RunningServer) -> None:
    x = observations(3, 80)
    with connected(server) as stub:
        stub.Open(pb.OpenRequest(model="small", session_id="numbers"))
        for at in range(0, 80, 10):
            stub.Step(step_request("numbers", at, x[at : at + 10]))
        for first, reason in ((81, "STEP_GAP"), (2**62, "STEP_GAP"), (3, "STEP_TOO_OLD")):
            with failing(reason) as seen:
                stub.Step(step_request("numbers", first, x[:1]))
            assert seen[0].detail.expected_step == 80
        with failing("STEP_CONFLICT") as seen:
            stub.Step(step_request("numbers", 79, x[:1]))
        assert seen[0].detail.expected_step == 80
        with failing("STEP_CONFLICT"):
            stub.Step(step_request("numbers", 75, x[75:80].repeat(2, axis=0)))
        assert stub.Get(pb.GetRequest(model="small", session_id="numbers")).steps == 80


def test_unnumbered_steps_are_applied_once_each(server: RunningServer, small: SmallModel) -> None:
    x = observations(4, 6)
    with connected(server) as stub:
        stub.Open(pb.OpenRequest(model="small", session_id="plain"))
        replies = [stub.Step(step_request("plain", None, row)) for row in x]
    assert [reply.first_step for reply in replies] == list(range(6))
    got = np.concatenate([outputs(reply) for reply in replies])
    np.testing.assert_allclose(got, expected(small, x), atol=1e-5)


def test_opening_again_attaches_and_a_closed_session_starts_afresh(
    server: RunningServer, small: SmallModel
) -> None:
    x = observations(5, 4)
    with connected(server) as stub:
        assert stub.Open(pb.OpenRequest(model="small", session_id="again")).created
        stub.Step(step_request("again", 0, x))
        attached = stub.Open(pb.OpenRequest(model="small", session_id="again"))
        assert not attached.created
        assert attached.session.steps == 4
        assert stub.Close(pb.CloseRequest(model="small", session_id="again")).steps == 4
        with failing("CLOSED") as seen:
            stub.Step(step_request("again", 4, x[:1]))
        assert seen[0].detail.ended_at.seconds > 1_700_000_000
        assert stub.Open(pb.OpenRequest(model="small", session_id="again")).created
        fresh = outputs(stub.Step(step_request("again", 0, x)))
    np.testing.assert_allclose(fresh, expected(small, x), atol=1e-5)


def test_list_pages_through_every_session_once(small: SmallModel, server: RunningServer) -> None:
    names = [f"page-{k:03d}" for k in range(25)]
    with connected(server) as stub:
        for name in names:
            stub.Open(pb.OpenRequest(model="small", session_id=name))
        seen, token = [], ""
        while True:
            page = stub.List(pb.ListRequest(model="small", page_size=7, page_token=token))
            assert len(page.sessions) <= 7
            seen += [session.session_id for session in page.sessions]
            token = page.next_page_token
            if not token:
                break
    assert [name for name in seen if name.startswith("page-")] == names
    assert len(set(seen)) == len(seen)


def test_models_are_described(server: RunningServer) -> None:
    with connected(server) as stub:
        (model,) = stub.ListModels(pb.ListModelsRequest()).models
    assert (model.name, model.version, model.max_chunk, model.device) == ("small", 1, 64, "cpu")
    assert [feature.name for feature in model.features] == ["x0", "x1", "x2", "x3", "x4"]
    assert [(output.name, output.size) for output in model.outputs] == [("y", 3)]
