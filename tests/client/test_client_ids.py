"""What is no id, name or version is refused where it is handed over, and harms nobody else."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from tests.client.bundles import LABELS, MODEL
from tests.client.observations import assert_close, expected, observations
from tests.harness import RunningServer
from tidegate import Client, SyncClient, errors

NO_IDS = [123, None, b"watch", "\ud800", "a\udfffb", "", "x" * 257, "é" * 129]

CALLS: dict[str, Callable[[SyncClient, Any], object]] = {
    "session": lambda client, each: client.session(MODEL, each),
    "open": lambda client, each: client.open_session(MODEL, each),
    "get": lambda client, each: client.get_session(MODEL, each),
    "close": lambda client, each: client.close_session(MODEL, each),
    "export": lambda client, each: client.export_session(MODEL, each),
    "reset": lambda client, each: client.reset_session(MODEL, each),
    "peek": lambda client, each: client.peek(MODEL, each),
    "forecast": lambda client, each: client.forecast(MODEL, each, 1),
    "fork": lambda client, each: client.fork_session(MODEL, each, "copy"),
}


@pytest.mark.parametrize("session_id", NO_IDS, ids=ascii)
def test_every_call_refuses_what_is_no_id(serving: RunningServer, session_id: Any) -> None:
    with SyncClient(serving.address) as client:
        for call in CALLS.values():
            with pytest.raises(errors.BadInput) as caught:
                call(client, session_id)
            assert caught.value.field == "session_id"


@pytest.mark.parametrize("session_id", NO_IDS, ids=ascii)
def test_a_copys_id_is_checked_too(serving: RunningServer, session_id: Any) -> None:
    with SyncClient(serving.address) as client, client.session(MODEL, f"{uuid4()}") as session:
        with pytest.raises(errors.BadInput) as caught:
            session.fork(session_id)
        assert caught.value.field == "new_session_id"
        packed = session.export()
        if session_id != "":  # the snapshot's own
            with pytest.raises(errors.BadInput):
                client.import_session(packed, session_id=session_id)


@pytest.mark.parametrize("model", [7, None, b"exercise", "\ud800"], ids=ascii)
def test_what_is_no_models_name_is_refused_by_field(serving: RunningServer, model: Any) -> None:
    with SyncClient(serving.address) as client:
        calls: list[Callable[[], object]] = [
            lambda: client.session(model, "a"),
            lambda: client.model(model),
            lambda: list(client.sessions(model)),
            lambda: client.get_session(model, "a"),
            lambda: client.step_many(model, ["a"], [0], np.zeros((1, 6))),
        ]
        for call in calls:
            with pytest.raises(errors.BadInput) as caught:
                call()
            assert caught.value.field == "model"


@pytest.mark.parametrize("version", ["1", None, -1, 2**63, 1.0, True], ids=ascii)
def test_what_is_no_version_is_refused_by_field(serving: RunningServer, version: Any) -> None:
    with SyncClient(serving.address) as client:
        calls: list[Callable[[], object]] = [
            lambda: client.session(MODEL, "a", version=version),
            lambda: client.model(MODEL, version),
            lambda: client.get_session(MODEL, "a", version=version),
            lambda: client.step_many(MODEL, ["a"], [0], np.zeros((1, 6)), version=version),
        ]
        for call in calls:
            with pytest.raises(errors.BadInput) as caught:
                call()
            assert caught.value.field == "version"


def test_bad_ids_among_many_are_their_rows_errors_and_harm_no_other(
    serving: RunningServer,
) -> None:
    async def run() -> None:
        async with Client(serving.address) as client, client.session(MODEL, f"{uuid4()}") as other:
            ids: list[Any] = [f"{uuid4()}" for _ in range(12)]
            ids[0], ids[4], ids[5], ids[11] = 123, "\ud800", "", "x" * 257
            xs = observations(12)
            done, y = await asyncio.gather(
                client.step_many(MODEL, ids, np.zeros(12, int), xs, timeout=20), other.step(xs[0])
            )
            assert sorted(done.errors) == [0, 4, 5, 11]
            for error in done.errors.values():
                assert isinstance(error, errors.BadInput) and error.field == "session_id"
            assert np.isnan(done.outputs[[0, 4, 5, 11]]).all()
            for row in (1, 2, 3, 6, 10):
                assert_close(done.outputs[row : row + 1], expected(xs[row : row + 1]))
            assert_close(y[None], expected(xs[:1]))
            none = await client.step_many(MODEL, [None], [0], xs[:1])  # type: ignore[list-item]
            assert sorted(none.errors) == [0] and none.outputs.shape == (1, len(LABELS))

    asyncio.run(run())


@pytest.mark.parametrize("ids", ["watch", 5, None])
def test_ids_that_are_no_sequence_are_refused(serving: RunningServer, ids: Any) -> None:
    with SyncClient(serving.address) as client, pytest.raises(errors.BadInput) as caught:
        client.step_many(MODEL, ids, np.zeros(5, int), np.zeros((5, 6)))
    assert caught.value.field == "session_ids"


def test_numbers_past_the_largest_harm_no_other_row_of_the_message(serving: RunningServer) -> None:
    async def run() -> None:
        async with Client(serving.address) as client, client.session(MODEL, f"{uuid4()}") as other:
            x = observations(1)
            many, y = await asyncio.gather(
                client.step_many(MODEL, ["a"], [2**62 + 1], x), other.step(x[0]),
                return_exceptions=True,
            )  # fmt: skip
            assert isinstance(many, errors.BadInput) and many.field == "first_steps"
            assert isinstance(y, np.ndarray)

    asyncio.run(run())


@pytest.mark.parametrize("timeout", [1e300, float("inf"), 2**40, 1e14])
def test_a_timeout_of_ages_is_waited_with(serving: RunningServer, timeout: float) -> None:
    with SyncClient(serving.address) as client, client.session(MODEL, f"{uuid4()}") as session:
        x = observations(1)
        assert_close(session.step(x[0], timeout=timeout)[None], expected(x))


@pytest.mark.parametrize("timeout", [float("nan"), "soon"])
def test_what_is_no_timeout_is_refused(serving: RunningServer, timeout: Any) -> None:
    with SyncClient(serving.address) as client, client.session(MODEL, f"{uuid4()}") as session:
        calls: list[Callable[[], object]] = [
            lambda: session.step(np.zeros(6), timeout=timeout),
            lambda: session.forecast(1, timeout=timeout),
            lambda: client.step_many(MODEL, ["a"], [0], np.zeros((1, 6)), timeout=timeout),
        ]
        for call in calls:
            with pytest.raises(errors.BadInput) as caught:
                call()
            assert caught.value.field == "timeout"
