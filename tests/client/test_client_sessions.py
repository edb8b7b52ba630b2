"""Sessions over a real channel: their outputs, their counts, their beginning and end."""

import asyncio
from uuid import uuid4

import numpy as np
import pytest

from tests.client.bundles import CHUNK, FEATURES, LABELS, MODEL, VALUE_MODEL
from tests.client.observations import assert_close, expected, observations
from tests.harness import RunningServer
from tidegate import Client, SyncClient, errors


def name() -> str:
    return f"watch-{uuid4()}"


def test_steps_and_chunks_of_a_session_are_what_the_equations_say(serving: RunningServer) -> None:
    async def play() -> None:
        xs = observations(3 * CHUNK + 7)
        async with Client(serving.address) as client, client.session(MODEL, name()) as session:
            assert (session.created, session.steps, session.version) == (True, 0, 1)
            first = np.array([await session.step(x) for x in xs[:5]])
            rest = await session.chunk(xs[5:])
            assert_close(np.concatenate([first, rest]), expected(xs))
            assert session.steps == len(xs)
            assert (await session.info()).steps == len(xs)

    asyncio.run(play())


def test_the_synchronous_client_does_the_same(serving: RunningServer) -> None:
    xs = observations(3 * CHUNK + 7)
    with SyncClient(serving.address) as client, client.session(MODEL, name()) as session:
        assert (session.created, session.steps, session.version) == (True, 0, 1)
        first = np.array([session.step(x) for x in xs[:5]])
        assert_close(np.concatenate([first, session.chunk(xs[5:])]), expected(xs))
        assert session.steps == session.info().steps == len(xs)
        assert session.model.labels == LABELS
        assert session.session_id in {each.session_id for each in client.sessions(MODEL)}
    with SyncClient(serving.address) as client, pytest.raises(errors.SessionClosed):
        client.close_session(MODEL, session.session_id)


def test_lists_and_wider_floats_are_taken_as_features(serving: RunningServer) -> None:
    xs = observations(2)
    with SyncClient(serving.address) as client, client.session(MODEL, name()) as session:
        outputs = [session.step(xs[0].tolist()), session.step(xs[1].astype(np.float64))]
        assert_close(np.array(outputs), expected(xs))
        assert session.chunk(np.empty((0, 6))).shape == (0, len(LABELS))


def test_a_kept_session_goes_on_at_its_count_in_another_client(serving: RunningServer) -> None:
    async def play() -> None:
        xs, session_id = observations(20), name()
        async with (
            Client(serving.address) as client,
            client.session(MODEL, session_id, keep=True) as session,
        ):
            first = await session.chunk(xs[:11])
        async with Client(serving.address) as client, client.session(MODEL, session_id) as session:
            assert (session.created, session.steps) == (False, 11)
            assert_close(np.concatenate([first, await session.chunk(xs[11:])]), expected(xs))

    asyncio.run(play())


def test_leaving_a_session_closes_it_even_where_its_block_failed(serving: RunningServer) -> None:
    async def play() -> None:
        async with Client(serving.address) as client:
            session = client.session(MODEL, name())
            with pytest.raises(ZeroDivisionError):
                async with session:
                    _ = 1 / 0
            with pytest.raises(errors.SessionClosed) as caught:
                await session.step(np.zeros(6))
            assert caught.value.ended_at is not None

    asyncio.run(play())


def test_leaving_a_session_that_has_ended_already_is_no_failure(serving: RunningServer) -> None:
    with SyncClient(serving.address) as client, client.session(MODEL, name()) as session:
        session.step(np.zeros(6))
        assert client.close_session(MODEL, session.session_id) == 1


def test_a_sessions_steps_asked_for_at_once_go_out_in_order(serving: RunningServer) -> None:
    async def play() -> None:
        xs = observations(40)
        async with Client(serving.address) as client, client.session(MODEL, name()) as session:
            outputs = await asyncio.gather(*(session.step(x) for x in xs))
            assert_close(np.array(outputs), expected(xs))

    asyncio.run(play())


def test_sessions_side_by_side_never_see_each_other(serving: RunningServer) -> None:
    async def play(client: Client, seed: int) -> None:
        xs = observations(15, seed)
        async with client.session(MODEL, name()) as session:
            assert_close(np.array([await session.step(x) for x in xs]), expected(xs))

    async def play_all() -> None:
        async with Client(serving.address) as client, asyncio.TaskGroup() as group:
            for seed in range(30):
                group.create_task(play(client, seed))

    asyncio.run(play_all())


def test_models_tell_their_features_outputs_and_labels(serving: RunningServer) -> None:
    async def ask() -> None:
        async with Client(serving.address) as client:
            assert {each.name for each in await client.models()} == {MODEL, VALUE_MODEL}
            exercise = await client.model(MODEL)
            assert exercise.feature_names == FEATURES
            assert exercise.features[0].unit == "g"
            assert (exercise.labels, exercise.max_chunk, exercise.width) == (LABELS, CHUNK, 3)
            pump = await client.model(VALUE_MODEL, 3)
            assert pump.labels == ()
            assert [(each.name, each.kind, each.unit) for each in pump.outputs] == [
                ("temp", "value", "F"),
                ("wear", "value", ""),
            ]

    asyncio.run(ask())


def test_a_listing_follows_every_page(serving: RunningServer) -> None:
    async def play() -> None:
        ids = [f"page-{at:04}" for at in range(1005)]  # a page holds 1,000 at most
        async with Client(serving.address) as client:
            opened = [client.session(VALUE_MODEL, each) for each in ids]
            await asyncio.gather(*(each.open(timeout=60) for each in opened))
            listed = [each.session_id async for each in client.sessions(VALUE_MODEL)]
            await asyncio.gather(*(each.close(timeout=60) for each in opened))
            assert listed == ids
            assert [each async for each in client.sessions(VALUE_MODEL)] == []

    asyncio.run(play())


def test_using_what_is_not_open_is_told_at_once(serving: RunningServer) -> None:
    async def play() -> None:
        with pytest.raises(RuntimeError, match="async with Client"):
            await Client(serving.address).models()
        async with Client(serving.address) as client:
            with pytest.raises(RuntimeError, match=r"async with client\.session"):
                await client.session(MODEL, "x").step(np.zeros(6))

    asyncio.run(play())
    with pytest.raises(RuntimeError, match="with SyncClient"):
        SyncClient(serving.address).models()
    with (
        SyncClient(serving.address) as client,
        pytest.raises(RuntimeError, match=r"with client\.session"),
    ):
        client.session(MODEL, "x").step(np.zeros(6))
