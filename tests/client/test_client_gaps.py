"""Observations with gaps: NaN travels like any value, and a retry is known whatever its bits."""

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from tests.client.proxy import Proxy
from tests.harness import RunningServer, running_server
from tests.server.gaps import SIDES, WEIGHTS, gappy_model
from tidegate import Client, SyncClient, errors
from tidegate._stream.packing import same
from tidegate.model import FloatArray
from training.reference import NumpyNetwork

OTHER_NAN = np.array([0xFFC0BEEF], np.uint32).view(np.float32)[0]


@pytest.fixture(scope="module")
def gappy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of a model whose x1 and x3 may be missing."""
    repository = tmp_path_factory.mktemp("models")
    gappy_model(repository)
    with running_server(repository) as server:
        yield server


def with_gaps(steps: int) -> FloatArray:
    x = np.random.default_rng(4).normal(size=(steps, 5)).astype(np.float32)
    x[::2, 1], x[1::3, 3] = np.nan, np.nan
    return x


def expected(x: FloatArray) -> FloatArray:
    network = NumpyNetwork(WEIGHTS)
    return network.run(np.nan_to_num(x), network.initial())[0].astype(np.float32)


def test_callers_see_what_may_be_missing_and_step_with_gaps(gappy: RunningServer) -> None:
    x = with_gaps(12)
    with SyncClient(gappy.address) as client, client.session("small", "plain") as session:
        features = session.model.features
        assert [each.missing for each in features] == [False, True, False, True, False]
        assert features[4].labels == SIDES
        steps = [session.step(each) for each in x[:4]]
        outputs = np.concatenate([steps, session.chunk(x[4:])])
        np.testing.assert_allclose(outputs, expected(x), atol=2e-5)
        with pytest.raises(errors.BadInput, match="'x0' of step 0") as caught:
            session.step(np.full(5, np.nan))
        assert caught.value.feature == "x0"
        assert session.steps == len(x)


def test_a_lost_step_with_gaps_is_asked_for_again_by_any_nan(gappy: RunningServer) -> None:
    x = with_gaps(3)
    again = np.where(np.isnan(x), OTHER_NAN, x)
    assert again.tobytes() != x.tobytes()

    async def play() -> None:
        with Proxy(gappy.address) as proxy:
            async with Client(proxy.address) as client, client.session("small", "lost") as session:
                await session.step(x[0])
                proxy.holding.set()
                with pytest.raises(errors.DeadlineExceeded):
                    await session.step(x[1], timeout=0.3)
                proxy.cut()
                proxy.holding.clear()
                rest = [await session.step(again[1]), await session.step(again[2])]
                np.testing.assert_allclose(rest, expected(x)[1:], atol=2e-5)
                assert (await session.info()).steps == session.steps == 3

    asyncio.run(play())


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        ([1.0, np.nan], [1.0, OTHER_NAN], True),
        ([1.0, np.nan], [1.5, np.nan], False),
        ([1.0, np.nan], [np.nan, 1.0], False),
        ([0.0, np.nan], [-0.0, np.nan], False),
        ([0.0, np.inf], [0.0, np.nan], False),
    ],
)
def test_observations_are_the_same_as_the_server_has_it(
    one: list[float], other: list[float], verdict: bool
) -> None:
    packed = [np.array(each, "<f4").tobytes() for each in (one, other)]
    assert same(packed[0], packed[1]) is verdict
