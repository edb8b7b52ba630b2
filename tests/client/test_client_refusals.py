"""What the server, or the way to it, refuses: typed, naming the culprit, nothing changed."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import grpc
import numpy as np
import pytest

from tests.client.bundles import CHUNK, MODEL
from tests.client.observations import assert_close, expected, observations
from tests.harness import RunningServer, running_server
from tidegate import Client, ClientOptions, RetryPolicy, SyncClient, SyncSession, errors

ONCE = ClientOptions(retry=RetryPolicy(attempts=1))


@pytest.fixture
def client(serving: RunningServer) -> Iterator[SyncClient]:
    with SyncClient(serving.address) as client:
        yield client


@pytest.fixture
def session(client: SyncClient) -> Iterator[SyncSession]:
    with client.session(MODEL, f"watch-{uuid4()}") as session:
        yield session


def test_an_unknown_model_version_or_session_is_named(client: SyncClient) -> None:
    with pytest.raises(errors.UnknownModel, match="nonesuch"):
        client.session("nonesuch", "a").open()
    with pytest.raises(errors.UnknownVersion, match="99"):
        client.session(MODEL, "a", version=99).open()
    with pytest.raises(errors.UnknownSession, match="never-opened") as caught:
        client.close_session(MODEL, "never-opened")
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
    assert caught.value.ended_at is None
    with pytest.raises(errors.UnknownModel, match="exercise/1"):
        client.model("nonesuch")
    with pytest.raises(errors.UnknownVersion, match="exercise/1"):
        client.model(MODEL, 9)


@pytest.mark.parametrize("session_id", ["", "x" * 257, "é" * 129])
def test_an_empty_or_too_long_id_is_bad_input(client: SyncClient, session_id: str) -> None:
    with pytest.raises(errors.BadInput) as caught:
        client.session(MODEL, session_id).open()
    assert caught.value.field == "session_id"


@pytest.mark.parametrize("features", [[1.0], np.zeros((2, 6)), 3.0, ["a"] * 6, None])
def test_a_step_of_another_shape_is_explained(session: SyncSession, features: object) -> None:
    with pytest.raises(errors.BadInput, match=r"takes 6 features \(accel_x|not numbers") as caught:
        session.step(features)  # type: ignore[arg-type]
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.field == "features"
    with pytest.raises(errors.BadInput, match=r"\[steps, 6\] features"):
        session.chunk(np.zeros(6))
    assert session.steps == session.info().steps == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e300])
def test_a_value_that_is_not_finite_is_the_servers_to_name(
    session: SyncSession, value: float
) -> None:
    xs = observations(2)
    first = session.step(xs[0])
    bad = xs[1].astype(np.float64)
    bad[4] = value
    with pytest.raises(errors.BadInput, match="gyro_y") as caught:
        session.step(bad)
    assert (caught.value.feature, caught.value.index) == ("gyro_y", 0)
    assert_close(np.array([first, session.step(xs[1])]), expected(xs))


def test_a_bad_value_deep_in_a_chunk_is_found_by_its_place_in_the_chunk(
    session: SyncSession,
) -> None:
    xs = observations(2 * CHUNK + 5)
    bad = xs.copy()
    bad[CHUNK + 3, 0] = np.nan
    with pytest.raises(errors.BadInput) as caught:
        session.chunk(bad)
    assert caught.value.index == CHUNK + 3
    assert session.steps == CHUNK
    # The part before it was applied; the mended chunk is recognised and applied once.
    assert_close(session.chunk(xs), expected(xs))
    assert session.steps == session.info().steps == len(xs)


def test_a_model_that_is_full_says_when_to_come_back(repository: Path) -> None:
    with (
        running_server(repository, max_sessions=1) as server,
        SyncClient(server.address, ONCE) as client,
        client.session(MODEL, "a"),
    ):
        with pytest.raises(errors.SessionsFull) as caught:
            client.session(MODEL, "b").open()
        assert caught.value.retry_after is not None
        assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_request_over_the_servers_limit_is_too_large(repository: Path) -> None:
    with (
        running_server(repository, max_message_bytes=1024) as server,
        SyncClient(server.address, ONCE) as client,
        client.session(MODEL, "y") as session,
    ):
        with pytest.raises(errors.MessageTooLarge, match="larger than max"):
            session.forecast(100, np.zeros((100, 6)))
        session.step(np.zeros(6))


def test_an_idle_session_expires_and_the_error_says_when(repository: Path) -> None:
    with (
        running_server(repository, session_ttl=0.3) as server,
        SyncClient(server.address) as client,
        client.session(MODEL, "idle") as session,
    ):
        session.step(np.zeros(6))
        while server.metric("tidegate_sessions_live"):
            pass
        with pytest.raises(errors.SessionExpired) as caught:
            session.step(np.zeros(6))
        assert caught.value.ended_at is not None


def test_another_writers_steps_are_a_conflict_or_a_gap_not_a_surprise(client: SyncClient) -> None:
    xs, session_id = observations(3), f"watch-{uuid4()}"
    with client.session(MODEL, session_id) as mine, client.session(MODEL, session_id) as theirs:
        theirs.step(xs[0])
        with pytest.raises(errors.StepConflict) as caught:
            mine.step(xs[1])
        assert caught.value.expected_step == 1
        client.close_session(MODEL, session_id)
        with client.session(MODEL, session_id), pytest.raises(errors.StepGap) as gap:
            theirs.step(xs[2])
        assert gap.value.expected_step == 0


def test_a_server_that_is_not_there_is_unavailable_after_bounded_tries() -> None:
    """Long before the call's own time is over."""
    options = ClientOptions(timeout=3600, retry=RetryPolicy(3, 0.01, 0.05))
    with SyncClient("127.0.0.1:1", options) as client, pytest.raises(errors.Unavailable):
        client.models()


def test_a_stopping_server_is_given_up_after_bounded_tries(repository: Path) -> None:
    options = ClientOptions(timeout=3600, retry=RetryPolicy(3, 0.01, 0.05))
    with running_server(repository) as server, SyncClient(server.address, options) as client:
        session = client.session(MODEL, "a", keep=True)
        session.open()
        session.step(np.zeros(6))
        assert server.terminate() == 0
        with pytest.raises(errors.Unavailable):
            session.step(np.zeros(6))


def test_a_chunk_larger_than_the_queue_is_refused_whole(repository: Path) -> None:
    with (
        running_server(repository, max_queued_steps=CHUNK - 1) as server,
        SyncClient(server.address, ONCE) as client,
        client.session(MODEL, "a") as session,
    ):
        with pytest.raises(errors.BadInput, match="more than the queue's"):
            session.chunk(observations(CHUNK))
        assert session.steps == session.info().steps == 0


def test_a_full_model_is_waited_out_by_the_retries(repository: Path) -> None:
    async def play(address: str) -> None:
        async with Client(address, ClientOptions(timeout=30)) as client:
            async with client.session(MODEL, "a"):
                waiting = asyncio.create_task(client.session(MODEL, "b").open())
                await asyncio.sleep(0.1)
                assert not waiting.done()
            await waiting

    with running_server(repository, max_sessions=1) as server:
        asyncio.run(play(server.address))
        assert server.metric("tidegate_errors_total", reason="sessions_full") > 0
