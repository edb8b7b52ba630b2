"""Forecasts that go on from their own outputs, where a model puts out what it takes in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.harness import running_server
from tests.server.growing import growing
from tests.server.transports import NATIVE, over
from tests.server.wire.session_rpcs import assert_close, begin, exported, forecast, state, taken
from tests.server.wire.wire import (
    Floats,
    connected,
    failing,
)
from tidegate.v1 import tidegate_pb2 as pb
from training.bundle import write_bundle
from training.network import Network, random_network
from training.reference import NumpyNetwork

pytestmark = over(NATIVE)

FED = random_network(3, 10, 1, 4, seed=5, softmax=False)


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


def rolled(weights: Network, seen: Floats, given: Floats, ahead: int) -> Floats:
    """The equations, fed with what is given and then with their own outputs."""
    lstm = NumpyNetwork(weights)
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
        assert_close(told[:1], NumpyNetwork(FED).run(xs[:1], NumpyNetwork(FED).initial())[0])


def test_a_forecast_does_not_begin_from_an_output_that_was_not_brought(fed: Path) -> None:
    """The slot's last holder had outputs, which are nobody else's to go on from."""
    xs = np.random.default_rng(9).normal(size=(9, 3)).astype(np.float32)
    with running_server(fed) as server, connected(server) as stub:
        begin(stub, "mine", xs[:4], "weather")
        snapshot = exported(stub, "mine", "weather")
        begin(stub, "theirs", xs[:8], "weather")
        stub.Close(pb.CloseRequest(model="weather", session_id="theirs"))
        snapshot.remembered_outputs = snapshot.remembered_fingerprints = b""
        taken(stub, snapshot, "copy")
        with failing("BAD_INPUT") as seen:
            forecast(stub, "copy", 3, None, "weather")
        assert "came here without its latest output" in seen[0].detail.message
        told = forecast(stub, "copy", 3, xs[4:5], "weather")
        assert_close(told, rolled(FED, xs[:4], xs[4:5], 3))


def test_a_forecast_that_overflows_says_so_and_changes_nothing(tmp_path: Path) -> None:
    """Whether it is given its features or feeds its outputs back."""
    x, weights = np.full((5, 1), 0.3, np.float32), growing()
    kind = {"unit": "", "mean": 0.0, "std": 1.0}
    write_bundle(
        tmp_path / "growing" / "1",
        weights,
        features=[{"name": "y", **kind}],
        outputs=[{"name": "y", "size": 1, "kind": "value", "unit": ""}],
    )
    with running_server(tmp_path) as server, connected(server) as stub:
        begin(stub, "g", x[:1], "growing")
        before = state(stub, "g", "growing")
        for given in (x[1:], x[1:2], x[:0]):
            with failing("NOT_FINITE"):
                forecast(stub, "g", 4, given, "growing")
        assert state(stub, "g", "growing") == before
        (told,) = forecast(stub, "g", 1, x[1:2], "growing")
        (answer,) = NumpyNetwork(weights).run(x[:2], NumpyNetwork(weights).initial())[0][1:]
        np.testing.assert_allclose(told, answer, rtol=1e-5)
