"""A model with a linear path: its lags are a state like any other, wherever a session goes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.harness import RunningServer, running_server
from tests.server.transports import NATIVE, over
from tests.server.wire.session_rpcs import Stub, assert_close, begin, exported, forecast, taken
from tests.server.wire.test_feedback import rolled
from tests.server.wire.wire import Floats, connected, failing
from tidegate.v1 import tidegate_pb2 as pb
from training.bundle import write_bundle
from training.network import random_network, with_random_linear
from training.reference import NumpyNetwork

pytestmark = over(NATIVE)

LAGS = 4
WEIGHTS = with_random_linear(random_network(3, 6, 1, 4, seed=5, softmax=False), LAGS, 5, scale=0.1)


@pytest.fixture(scope="module")
def server(transport: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("models")
    write_bundle(
        folder / "small" / "1",
        WEIGHTS,
        features=[{"name": name, "unit": "", "mean": 0.0, "std": 1.0} for name in "abc"],
        outputs=[{"name": name, "size": 1, "kind": "value", "unit": ""} for name in "cxab"],
        max_chunk=8,
    )
    with running_server(folder) as running:
        yield running


def expected(xs: Floats) -> Floats:
    reference = NumpyNetwork(WEIGHTS)
    return reference.run(xs, reference.initial())[0].astype(np.float32)


def stepped(stub: Stub, name: str, first: int, xs: Floats) -> Floats:
    """The outputs [T, O] of the steps from `first` on."""
    request = pb.StepRequest(model="small", session_id=name, first_step=first, steps=len(xs))
    request.features.extend(xs.ravel().tolist())
    return np.array(stub.Step(request).outputs, np.float32).reshape(len(xs), -1)


def drawn(steps: int) -> Floats:
    return np.random.default_rng(steps).normal(size=(steps, 3)).astype(np.float32)


@pytest.mark.parametrize("moved_after", [0, 1, 2, LAGS, 7])
def test_a_session_moved_before_or_after_it_has_all_lags_goes_on(
    server: RunningServer, moved_after: int
) -> None:
    xs, name = drawn(14), f"m{moved_after}"
    with connected(server) as stub:
        begin(stub, name, xs[:moved_after])
        snapshot = exported(stub, name)
        assert [each.name for each in snapshot.states] == ["h0", "c0", "lags"]
        taken(stub, snapshot, f"{name}-there")
        for t in range(moved_after, 14):
            got = stepped(stub, f"{name}-there", t, xs[t : t + 1])
            assert_close(got, expected(xs)[t : t + 1])


@pytest.mark.parametrize("seen", [1, 3, 6])
def test_a_forecast_feeds_its_outputs_into_the_lags(server: RunningServer, seen: int) -> None:
    xs, name = drawn(seen + 3), f"f{seen}"
    with connected(server) as stub:
        begin(stub, name, xs[:seen])
        for given in (xs[seen:seen], xs[seen:]):
            told = forecast(stub, name, 40, given)
            assert_close(told, rolled(WEIGHTS, xs[:seen], given, 40))
        assert_close(stepped(stub, name, seen, xs[seen:]), expected(xs)[seen:])


def test_a_session_that_begins_anew_has_no_lags_of_before(server: RunningServer) -> None:
    xs = drawn(9)
    with connected(server) as stub:
        begin(stub, "anew", drawn(8))
        stub.Reset(pb.ResetRequest(model="small", session_id="anew"))
        assert_close(stepped(stub, "anew", 0, xs[:1]), expected(xs)[:1])
        assert_close(stepped(stub, "anew", 1, xs[1:]), expected(xs)[1:])


def test_a_step_that_cannot_be_right_leaves_the_lags_as_they_were(server: RunningServer) -> None:
    xs = drawn(6)
    bad = np.array([[1.0, 1e30, -1e30]], np.float32)
    with connected(server) as stub:
        begin(stub, "bad", xs[:2])
        stepped(stub, "bad", 2, xs[2:3])
        before = exported(stub, "bad").states
        with failing("BAD_INPUT"):
            stepped(stub, "bad", 3, np.array([[np.nan, 0, 0]], np.float32))
        assert exported(stub, "bad").states == before
        far = stepped(stub, "bad", 3, bad)  # the path takes nothing beyond FAR
        assert np.isfinite(far).all() and np.abs(far).max() < 1e4
        followed = np.concatenate([xs[:3], bad, xs[3:]])
        told = stepped(stub, "bad", 4, xs[3:])
        np.testing.assert_allclose(told, expected(followed)[4:], rtol=1e-5, atol=1e-3)
