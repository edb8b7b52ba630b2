"""Residence: sessions share fewer slots than there are sessions, and nobody notices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from server.engine.engine import Engine
from server.errors import SessionLost
from server.serving.model import ServedModel
from server.sessions.slots import Slots
from tests.server.core.parts import WEIGHTS, Caller, Floats, make_bundle, make_model
from tidegate.wire import APPLIED, REMEMBERED
from training.reference import NumpyNetwork

SESSIONS, STEPS = 40, 6
NAMES = [f"s{k}" for k in range(SESSIONS)]
X = np.random.default_rng(1).normal(0, 2, (SESSIONS, STEPS, 5)).astype(np.float32)


def crowded(folder: Path, resident: int) -> ServedModel:
    """A model of forty sessions that share some slots, all of them open."""
    bundle = make_bundle(folder)
    model = make_model(bundle, folder, max_sessions=SESSIONS, max_resident=resident)
    model.start()
    for name in NAMES:
        model.open(name)
    return model


def expected(xs: Floats) -> Floats:
    lstm = NumpyNetwork(WEIGHTS)
    return lstm.run(xs, lstm.initial())[0].astype(np.float32)


def resident(model: ServedModel) -> int:
    return len(model.operations._residence)


@pytest.mark.parametrize("slots", [1, 7, 39, 40])
def test_sessions_that_share_slots_go_on_as_if_each_had_its_own(tmp_path: Path, slots: int) -> None:
    model = crowded(tmp_path, slots)
    caller = Caller(model)
    for step in range(STEPS):
        rows = [(name, step, X[k, step : step + 1]) for k, name in enumerate(NAMES)]
        done = caller.step(rows[step:] + rows[:step])
        assert done.outputs is not None and not done.failed
        wanted = np.stack([expected(xs[: step + 1])[-1] for xs in X])
        np.testing.assert_allclose(done.outputs, np.roll(wanted, -step, axis=0), atol=1e-5)
        assert resident(model) <= slots
    retried = caller.step([(NAMES[0], 2, X[0, 2:])])
    assert retried.status[0] == REMEMBERED
    model.stop()


def test_many_sessions_come_back_in_one_run_of_a_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = crowded(tmp_path, 20)
    caller = Caller(model)
    halves = NAMES[:20], NAMES[20:]
    for half in halves:
        caller.step([(name, 0, X[0, :1]) for name in half])
    moved: list[tuple[str, int]] = []
    read, write = Engine.read, Engine.write

    def reading(engine: Engine, slots: Slots) -> object:
        moved.append(("read", len(slots)))
        return read(engine, slots)

    def writing(engine: Engine, slots: Slots, rows: list[Floats]) -> None:
        moved.append(("write", len(slots)))
        write(engine, slots, rows)

    monkeypatch.setattr(Engine, "read", reading)
    monkeypatch.setattr(Engine, "write", writing)
    assert not caller.step([(name, 1, X[0, 1:2]) for name in halves[0]]).failed
    assert moved == [("read", 20), ("write", 20)]
    model.stop()


def test_the_sessions_used_longest_ago_leave_first(tmp_path: Path) -> None:
    model = crowded(tmp_path, 3)
    caller = Caller(model)
    for name in ("s0", "s1", "s2", "s0", "s3"):
        caller.step([(name, None, X[0, :1])])
    shelf = model.operations._residence.shelf
    handles = {name: model.directory.find(name)[0] for name in NAMES[:4]}
    assert [name for name, handle in handles.items() if handle in shelf] == ["s1"]
    model.stop()


def test_a_session_that_ends_while_it_is_not_resident_leaves_nothing_behind(tmp_path: Path) -> None:
    model = crowded(tmp_path, 4)
    caller = Caller(model)
    for name in NAMES:
        caller.step([(name, 0, X[0, :1])])
    shelf = model.operations._residence.shelf
    assert len(shelf) == SESSIONS - 4
    for name in NAMES:
        model.close(name)
    assert len(shelf) == 0
    model.open("new")
    assert caller.step([("new", 0, X[3, :1])]).status[0] == APPLIED
    model.stop()


def test_sessions_that_cannot_be_brought_in_are_lost_and_nobody_waits_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = crowded(tmp_path, 2)
    caller = Caller(model)
    for name in NAMES[:4]:
        caller.step([(name, 0, X[0, :1])])
    with monkeypatch.context() as broken:
        broken.setattr(Engine, "write", lambda *_: 1 / 0)
        done = caller.step([("s0", 1, X[0, 1:2]), ("s3", 1, X[0, 1:2])])
    assert "sessions could not be brought in" in caplog.text
    assert isinstance(done.errors[0], SessionLost)
    assert done.status[1] == APPLIED
    assert done.outputs is not None
    np.testing.assert_allclose(done.outputs[1], expected(X[0])[1], atol=1e-5)
    again = caller.step([(name, 1, X[0, 1:2]) for name in ("s1", "s2")])
    assert not again.failed
    model.stop()
