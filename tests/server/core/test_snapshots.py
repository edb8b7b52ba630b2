"""Sessions taken out and put in, in process: what may happen in between, and whose data is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from server.engine.engine import Engine
from server.errors import BadSnapshot, Internal, ServingError, SessionClosed, SessionLost
from server.serving.model import ServedModel
from server.sessions.snapshot import Snapshot
from tests.server.core.parts import (
    Caller,
    Clock,
    Floats,
    expected,
    make_bundle,
    make_model,
)
from tidegate.wire import APPLIED, REMEMBERED

WAIT = 20


@pytest.fixture
def model(tmp_path: Path) -> Iterator[ServedModel]:
    served = make_model(make_bundle(tmp_path), tmp_path, max_sessions=3)
    served.start()
    yield served
    served.stop()


def observations(seed: int, steps: int) -> Floats:
    return np.random.default_rng(seed).normal(0, 2, (steps, 5)).astype(np.float32)


def assert_close(got: Floats | None, wanted: Floats) -> None:
    assert got is not None
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


def stepped(model: ServedModel, name: str, xs: Floats) -> None:
    """A session that has seen `xs`."""
    model.open(name)
    Caller(model).step([(name, 0, xs)])


def exported(model: ServedModel, name: str) -> Snapshot:
    return model.operations.export(name).result(WAIT)


def forgetful(snapshot: Snapshot) -> Snapshot:
    """The snapshot of a server that remembers nothing."""
    return replace(snapshot, outputs=snapshot.outputs[:0], prints=snapshot.prints[:0])


def before(
    monkeypatch: pytest.MonkeyPatch, call: str, act: Callable[[], object]
) -> Callable[[], None]:
    """Have `act` done once, as the engine's next `call` begins; returns what undoes that."""
    real: Callable[..., object] = getattr(Engine, call)

    def acting(*of: object) -> object:
        monkeypatch.setattr(Engine, call, real)
        act()
        return real(*of)

    monkeypatch.setattr(Engine, call, acting)
    return lambda: monkeypatch.setattr(Engine, call, real)


def test_what_a_snapshot_did_not_bring_is_not_made_up_from_the_slots_last_holder(
    model: ServedModel,
) -> None:
    """Neither in its own export nor in a retry: those outputs were another session's."""
    xs, others = observations(1, 6), observations(2, 40)
    stepped(model, "mine", xs)
    brought = forgetful(exported(model, "mine"))
    stepped(model, "theirs", others)
    model.close("theirs")
    model.operations.take_in(brought, "copy").result(WAIT)  # takes over the slot
    again = exported(model, "copy")
    assert (len(again.outputs), len(again.prints)) == (0, 0)
    for features in (others[5:6], xs[5:6]):  # which of them it was nobody here can know
        refused = Caller(model).step([("copy", 5, features)]).errors[0]
        assert (refused.reason, refused.expected_step) == ("STEP_TOO_OLD", 6)
    more = observations(3, 2)
    assert_close(
        Caller(model).step([("copy", 6, more)]).outputs, expected(np.concatenate([xs, more]))[6:]
    )
    assert_close(exported(model, "copy").outputs, expected(np.concatenate([xs, more]))[6:])


def test_an_import_whose_session_is_closed_and_opened_anew_meanwhile_harms_neither(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id gets another slot, in which somebody else's state still lies."""
    xs, others = observations(4, 7), observations(5, 9)
    stepped(model, "mine", xs)
    snapshot = exported(model, "mine")
    stepped(model, "gone", others)

    def meddle() -> None:
        model.close("target")
        model.open("squatter")  # has the target's slot now
        model.close("gone")
        model.open("target")  # has the slot of the one gone

    undo = before(monkeypatch, "write", meddle)
    taking = model.operations.take_in(snapshot, "target")
    try:
        taking.result(WAIT)
    except ServingError:
        pass
    finally:
        undo()
    caller = Caller(model)
    for name in ("target", "squatter"):
        assert model.get(name).steps == 0
        done = caller.step([(name, 0, others[:3])])
        assert list(done.status) == [APPLIED]
        assert_close(done.outputs, expected(others[:3]))


def test_an_export_whose_session_is_closed_and_opened_anew_meanwhile_is_of_the_old_one(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    xs, others = observations(6, 6), observations(7, 9)
    stepped(model, "mine", xs)
    stepped(model, "gone", others)

    def meddle() -> None:
        model.close("mine")
        model.close("gone")
        model.open("mine")  # has the slot of the one gone

    undo = before(monkeypatch, "read", meddle)
    try:
        snapshot = exported(model, "mine")
    except SessionClosed:
        return
    finally:
        undo()
    assert snapshot.steps == 6
    assert_close(snapshot.outputs, expected(xs))


def test_a_session_being_put_in_is_never_seen_at_another_step(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped(model, "mine", observations(8, 6))
    snapshot, seen = exported(model, "mine"), list[int]()
    before(monkeypatch, "write", lambda: seen.append(model.open("copy")[0].steps))
    model.operations.take_in(snapshot, "copy").result(WAIT)
    assert seen == [6]


def test_an_import_that_the_engine_cannot_do_leaves_no_session_behind(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stepped(model, "mine", observations(9, 6))
    snapshot = exported(model, "mine")
    with monkeypatch.context() as broken:
        broken.setattr(Engine, "write", lambda *_: 1 / 0)
        with pytest.raises(Internal):
            model.operations.take_in(snapshot, "copy").result(WAIT)
    assert "1 sessions could not be written" in caplog.text
    with pytest.raises(SessionLost):
        model.get("copy")
    assert model.operations.take_in(snapshot, "copy").result(WAIT).steps == 6


def test_a_session_replaced_or_reset_is_in_use(tmp_path: Path) -> None:
    clock = Clock()
    model = make_model(make_bundle(tmp_path), tmp_path, clock, max_sessions=3)
    model.start()
    for name in ("source", "replaced", "reset", "left"):
        if name != "left":
            stepped(model, name, observations(10, 2))
    snapshot = exported(model, "source")
    clock.now += 1
    model.operations.take_in(snapshot, "replaced", replace=True).result(WAIT)
    model.operations.reset("reset").result(WAIT)
    clock.now += model.ttl - 0.5
    assert model.expire() == 1
    live = [name in model.directory for name in ("source", "replaced", "reset")]
    assert live == [False, True, True]
    model.stop()


def test_remembered_outputs_must_be_numbers(model: ServedModel) -> None:
    stepped(model, "mine", observations(11, 3))
    snapshot = exported(model, "mine")
    spoiled: NDArray[np.float32] = snapshot.outputs.copy()
    spoiled[1, 2] = np.nan
    with pytest.raises(BadSnapshot, match="remembered outputs that are not finite"):
        model.operations.take_in(replace(snapshot, outputs=spoiled), "copy")
    assert list(Caller(model).step([("mine", 1, observations(11, 3)[1:])]).status) == [REMEMBERED]
