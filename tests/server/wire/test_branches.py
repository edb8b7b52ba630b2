"""Fork, Reset and Peek; and Forecast, which leaves its session as it is."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import SmallModel
from tests.harness import RunningServer, running_server
from tests.server.wire.test_moving_sessions import assert_close, expected, flat
from tests.server.wire.wire import (
    OUTPUTS,
    Floats,
    connected,
    failing,
    observations,
    outputs,
    step_request,
)
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.v1 import tidegate_pb2_grpc
from training.bundle import write_bundle
from training.reference import NumpyLstm
from training.weights import LstmWeights, random_weights

Stub = tidegate_pb2_grpc.TidegateStub


def begin(stub: Stub, name: str, xs: Floats, model: str = "small") -> None:
    stub.Open(pb.OpenRequest(model=model, session_id=name))
    if len(xs):
        values = xs.ravel().tolist()
        stub.Step(
            pb.StepRequest(
                model=model, session_id=name, first_step=0, steps=len(xs), features=values
            )
        )


def forecast(
    stub: Stub, name: str, steps: int, given: Floats | None = None, model: str = "small"
) -> Floats:
    request = pb.ForecastRequest(model=model, session_id=name, steps=steps)
    if given is not None:
        request.features.extend(given.ravel().tolist())
    return np.array(stub.Forecast(request).outputs, np.float32).reshape(steps, -1)


def state(stub: Stub, name: str) -> list[bytes]:
    peeked = stub.Peek(pb.PeekRequest(model="small", session_id=name))
    return [tensor.data for tensor in peeked.states]


def test_branches_go_their_own_ways(server: RunningServer, small: SmallModel) -> None:
    xs, left, right = observations(1, 6), observations(2, 5), observations(3, 5)
    with connected(server) as stub:
        begin(stub, "trunk", xs)
        for branch in ("left", "right"):
            request = pb.ForkRequest(model="small", session_id="trunk", new_session_id=branch)
            assert stub.Fork(request).steps == 6
        for name, more in (("left", left), ("right", right), ("trunk", left)):
            reply = stub.Step(step_request(name, 6, more))
            assert_close(outputs(reply), expected(small, np.concatenate([xs, more]))[6:])
        again = stub.Step(step_request("left", 4, xs[4:]))  # what it remembers of the trunk
        assert again.remembered
        with failing("SESSION_EXISTS"):
            stub.Fork(pb.ForkRequest(model="small", session_id="trunk", new_session_id="left"))
        with failing("UNKNOWN_SESSION"):
            stub.Fork(pb.ForkRequest(model="small", session_id="nobody", new_session_id="x"))
        with failing("BAD_INPUT"):
            stub.Fork(pb.ForkRequest(model="small", session_id="trunk", new_session_id=""))


def test_a_reset_session_starts_from_nothing(server: RunningServer, small: SmallModel) -> None:
    xs = observations(4, 9)
    with connected(server) as stub:
        begin(stub, "started-again", xs)
        request = pb.ResetRequest(model="small", session_id="started-again")
        assert stub.Reset(request).steps == 0
        with failing("STEP_GAP") as seen:
            stub.Step(step_request("started-again", 9, xs))
        assert seen[0].detail.expected_step == 0
        reply = stub.Step(step_request("started-again", 0, xs))
        assert not reply.remembered
        assert_close(outputs(reply), expected(small, xs))


def test_a_peek_shows_the_state_of_the_equations(server: RunningServer, small: SmallModel) -> None:
    xs = observations(5, 11)
    lstm = NumpyLstm(small.weights)
    with connected(server) as stub:
        begin(stub, "seen", xs)
        peeked = stub.Peek(pb.PeekRequest(model="small", session_id="seen"))
        assert peeked.session.steps == 11
        assert [tensor.name for tensor in peeked.states] == ["h0", "c0", "h1", "c1"]
        for tensor, wanted in zip(
            peeked.states, flat(lstm.run(xs, lstm.initial())[1]), strict=True
        ):
            assert (tensor.dtype, list(tensor.shape)) == ("float32", [12])
            assert_close(np.frombuffer(tensor.data, "<f4"), wanted)


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


FED = random_weights(3, 10, 1, 4, seed=5, softmax=False)


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that puts out all of its features, in another order, and one thing more."""
    folder = tmp_path_factory.mktemp("models")
    write_bundle(
        folder / "weather" / "1",
        FED,
        features=[{"name": name, "unit": "", "mean": 0.0, "std": 1.0} for name in "abc"],
        outputs=[
            {"name": name, "size": 1, "kind": "value", "unit": ""} for name in ("c", "x", "a", "b")
        ],
        max_chunk=8,
    )
    return folder


def rolled(weights: LstmWeights, seen: Floats, given: Floats, ahead: int) -> Floats:
    """The equations, fed with what is given and then with their own outputs."""
    lstm = NumpyLstm(weights)
    answers, state = lstm.run(seen, lstm.initial())
    last, told = answers[-1], []
    for step in range(ahead):
        x = given[step] if step < len(given) else last[[2, 3, 0]]
        answers, state = lstm.run(np.asarray(x, np.float32)[None], state)
        last = answers[-1]
        told.append(last)
    return np.array(told, np.float32)


def test_a_forecast_feeds_outputs_back_where_the_model_allows_it(fed: Path) -> None:
    xs = np.random.default_rng(8).normal(size=(20, 3)).astype(np.float32)
    with running_server(fed) as server, connected(server) as stub:
        (model,) = stub.ListModels(pb.ListModelsRequest()).models
        assert model.feeds_back and model.max_forecast == 1000
        begin(stub, "w", xs[:6], "weather")
        for given in (xs[6:6], xs[6:9], xs[6:20]):
            told = forecast(stub, "w", 50, given, "weather")
            assert_close(told, rolled(FED, xs[:6], given, 50))
        begin(stub, "new", xs[:0], "weather")
        with failing("BAD_INPUT") as seen:
            forecast(stub, "new", 3, None, "weather")
        assert "no output yet" in seen[0].detail.message
        told = forecast(stub, "new", 3, xs[:1], "weather")
        assert_close(told[:1], NumpyLstm(FED).run(xs[:1], NumpyLstm(FED).initial())[0])


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
    """Four callers ask for the longest forecasts all the while."""
    xs, over = observations(10, 1000), threading.Event()
    wanted = expected(small, np.concatenate([xs[:1], xs]))[1:]

    def look_ahead(k: int) -> None:
        with connected(server) as stub:
            begin(stub, f"far-{k}", xs[:1])
            while not over.is_set():
                assert_close(forecast(stub, f"far-{k}", 1000, xs), wanted)
                done.append(k)

    done: list[int] = []
    threads = [threading.Thread(target=look_ahead, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    took = []
    with connected(server) as stub:
        begin(stub, "bystander", xs[:0])
        for k in range(150):
            started = time.perf_counter()
            reply = stub.Step(step_request("bystander", k, xs[k]))
            took.append(time.perf_counter() - started)
            assert_close(outputs(reply).reshape(OUTPUTS), expected(small, xs[: k + 1])[-1])
    over.set()
    for thread in threads:
        thread.join()
    assert len(set(done)) == 4
    assert np.percentile(took, 90) < 0.25, np.percentile(took, [50, 90, 99])
