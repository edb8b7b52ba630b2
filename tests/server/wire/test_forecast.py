"""Forecast: what stepping would tell, and the session stays as it is."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from tests.conftest import SmallModel
from tests.harness import RunningServer, running_server
from tests.server.transports import NATIVE, over
from tests.server.wire.session_rpcs import assert_close, begin, expected, forecast, state
from tests.server.wire.wire import (
    OUTPUTS,
    connected,
    failing,
    observations,
    outputs,
    step_request,
)
from tidegate.v1 import tidegate_pb2 as pb

pytestmark = over(NATIVE)


@pytest.mark.parametrize("ahead", [1, 31, 33, 200])
def test_a_forecast_on_given_features_is_what_stepping_would_be(
    server: RunningServer, small: SmallModel, ahead: int
) -> None:
    name, xs = f"ahead-{ahead}", observations(6, 5 + ahead)
    with connected(server) as stub:
        begin(stub, name, xs[:5])
        before = state(stub, name)
        assert_close(forecast(stub, name, ahead, xs[5:]), expected(small, xs)[5:])
        assert state(stub, name) == before
        assert stub.Get(pb.GetRequest(model="small", session_id=name)).steps == 5
        assert_close(outputs(stub.Step(step_request(name, 5, xs[5:6]))), expected(small, xs)[5:6])


def test_a_session_without_a_step_looks_ahead_too(server: RunningServer, small: SmallModel) -> None:
    xs = observations(7, 4)
    with connected(server) as stub:
        begin(stub, "early", xs[:0])
        assert_close(forecast(stub, "early", 4, xs), expected(small, xs))


@pytest.mark.parametrize(
    ("steps", "given", "told"),
    [
        (0, 0, "1 to 1000 steps, not 0"),
        (1001, 0, "1 to 1000 steps, not 1001"),
        (2, 3, "features of 3 steps are given for a forecast of 2"),
        (5, 2, "give the features of all 5 steps, not of 2"),
    ],
)
def test_forecasts_that_cannot_be_are_refused(
    server: RunningServer, steps: int, given: int, told: str
) -> None:
    with connected(server) as stub:
        begin(stub, f"no-{steps}-{given}", observations(9, 3))
        with failing("BAD_INPUT") as seen:
            forecast(stub, f"no-{steps}-{given}", steps, observations(9, given))
        assert told in seen[0].detail.message


def test_a_forecast_on_what_is_no_number_is_refused(server: RunningServer) -> None:
    bad = observations(9, 3)
    bad[1, 2] = np.nan
    with connected(server) as stub:
        begin(stub, "nan", observations(9, 3))
        with failing("BAD_INPUT") as seen:
            forecast(stub, "nan", 3, bad)
        assert (seen[0].detail.feature, seen[0].detail.index) == ("x2", 1)
        request = pb.ForecastRequest(model="small", session_id="nan", steps=3, features=[1.0] * 7)
        with failing("BAD_INPUT"):
            stub.Forecast(request)


def test_long_forecasts_hold_up_nobodys_steps(server: RunningServer, small: SmallModel) -> None:
    """Four callers ask for the longest forecasts all the while, each for another one."""
    over = threading.Event()

    def look_ahead(k: int) -> None:
        xs = observations(20 + k, 1001 + k)
        wanted = expected(small, xs)[1 + k :]
        with connected(server) as stub:
            begin(stub, f"far-{k}", xs[: 1 + k])
            while not over.is_set():
                assert_close(forecast(stub, f"far-{k}", 1000, xs[1 + k :]), wanted)
                done.append(k)

    xs, done, meanwhile = observations(10, 400), list[int](), 0
    wanted = expected(small, xs)
    with ThreadPoolExecutor(4) as callers, connected(server) as stub:
        looking = [callers.submit(look_ahead, k) for k in range(4)]
        begin(stub, "bystander", xs[:0])
        for k, x in enumerate(xs):
            reply = stub.Step(step_request("bystander", k, x))
            assert_close(outputs(reply)[0], wanted[k])
            meanwhile += len(set(done)) < 4
        over.set()
        for each in looking:
            each.result(20)
    assert set(done) == {0, 1, 2, 3}
    assert meanwhile > 20  # a forecast of a thousand steps takes 32 turns at least


def test_a_forecast_given_up_leaves_everything_as_it_is(
    server: RunningServer, small: SmallModel
) -> None:
    xs = observations(11, 8)
    features = observations(12, 1000).ravel().tolist()
    request = pb.ForecastRequest(model="small", session_id="hasty", steps=1000, features=features)
    with connected(server) as stub:
        begin(stub, "hasty", xs[:5])
        before = state(stub, "hasty")
        calls = [stub.Forecast.future(request) for _ in range(30)]
        time.sleep(0.02)
        given_up = [call.cancel() for call in calls]
        assert any(given_up)
        assert state(stub, "hasty") == before
        assert_close(outputs(stub.Step(step_request("hasty", 5, xs[5:]))), expected(small, xs)[5:])
    assert "failed" not in server.log()


def test_a_server_told_to_stop_does_so_with_forecasts_under_way(small: SmallModel) -> None:
    """Those who asked get an answer: the forecast, or that the server went."""
    xs = observations(13, 1001)
    wanted = expected(small, xs)[1:]
    request = pb.ForecastRequest(
        model="small", session_id="s", steps=1000, features=xs[1:].ravel().tolist()
    )
    with running_server(small.repository) as server, connected(server) as stub:
        begin(stub, "s", xs[:1])
        calls = [stub.Forecast.future(request) for _ in range(100)]
        calls[0].result(20)
        assert server.terminate() == 0
        told = [call.result() for call in calls if call.exception(20) is None]
        for reply in told:
            assert_close(np.array(reply.outputs, np.float32).reshape(-1, OUTPUTS), wanted)
        codes = {call.code() for call in calls} - {grpc.StatusCode.OK}
        assert codes <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert "Traceback" not in server.log()
