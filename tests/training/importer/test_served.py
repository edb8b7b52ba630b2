"""Imported models behind a real server: fixed batches, and states that are no float32."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from tests.harness import RunningServer, running_server
from tests.training.importer.graphs import LEAKY, import_file, model_of, save, typed
from tidegate import Client
from training.network import Floats

HARD = "one = Constant<value = int64[2] {1, 3}>()\n    flat = Reshape(x, one)\n    "
ONE_ROW = LEAKY.replace("hn = Add(kept, x)", f"{HARD}hn = Add(kept, flat)")
KINDS = ("float64", "int64", "int32", "bool")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """`alone/1` takes one session at a time; models named after a type have such a state."""
    models, files = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("files")
    path, options = save(model_of(ONE_ROW), files), "--state h=hn --input x --output y"
    import_file(path, models / "alone" / "1", options)
    for kind in KINDS:
        path = save(typed(kind), files)
        import_file(path, models / kind / "1", "--state s=sn --input x --output y")
    with running_server(models, max_sessions=50) as running:
        yield running


def together(server: RunningServer, model: str, signals: Floats) -> Floats:
    """Outputs of signals [B, T, I], a session each, all at the same time."""

    async def run() -> Floats:
        async with Client(server.address) as client:
            sessions = [client.session(model, f"{model}-{k}") for k in range(len(signals))]
            await asyncio.gather(*(session.open() for session in sessions))
            chunks = zip(sessions, signals, strict=True)
            found = await asyncio.gather(*(session.chunk(xs) for session, xs in chunks))
            return np.array(found)

    return asyncio.run(run())


def test_sessions_of_a_graph_of_one_row_are_served_together(server: RunningServer) -> None:
    """Also where few enough come in one message for the server to run them at once."""
    signals = np.random.default_rng(8).normal(size=(12, 6, 3)).astype(np.float32)
    found = together(server, "alone", signals)
    assert server.metric("tidegate_batch_rows_count", model="alone") == 12 * 6
    h = np.zeros((12, 3), np.float32)
    for t in range(6):
        h = h * np.float32(0.5) + signals[:, t]
        np.testing.assert_allclose(found[:, t], np.tanh(h), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_session_with_a_state_of_another_type_is_seen_moved_and_forked(
    server: RunningServer, kind: str
) -> None:
    given = np.random.default_rng(9).normal(0, 3, (7, 2)).astype(np.float32)

    async def run() -> None:
        async with Client(server.address) as client:
            async with client.session(kind, "first") as session:
                await session.chunk(given[:6])
                (state,) = (await session.peek()).values()
                assert state.dtype == kind
                fork = await session.fork("fork")
                kept, left = await session.export(), (await fork.step(given[6])).tolist()
                await fork.close()
            await client.import_session(kept)
            async with client.session(kind, "first") as again:
                assert again.steps == 6
                assert (await again.step(given[6])).tolist() == left

    asyncio.run(run())
