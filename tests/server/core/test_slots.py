"""Residence: sessions share fewer slots than there are sessions, and nobody notices."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from server.engine.engine import Engine, EngineRows
from server.errors import Internal, ServingError, SessionLost
from server.serving.model import ServedModel
from server.sessions.directory import Directory
from server.sessions.replay_cache import ReplayCache
from server.sessions.slots import FreeSlots, Residence, Slots
from tests.server.core.parts import WEIGHTS, Caller, Floats, expected, make_bundle, make_model
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


def test_slots_that_were_left_are_taken_before_any_fresh_one() -> None:
    free, held = FreeSlots(12), list[int]()
    assert free.take(0) == [] and free.take(5) == [1, 2, 3, 4, 5]
    free.put([2, 4])
    assert len(free) == 9
    assert free.take(1) == [4] and free.take(2) == [2, 6]
    free.put([])
    rng = random.Random(5)
    for _ in range(200):
        if rng.random() < 0.5:
            count = rng.randint(0, len(free))
            taken = free.take(count)
            assert len(taken) == count and not set(taken) & set(held)
            held += taken
        else:
            rng.shuffle(held)
            free.put(held[:3])
            del held[:3]
        assert len(held) + len(free) == 6  # the first six stay held
    assert set(held) <= set(range(7, 13))


def test_a_slot_is_not_taken_from_a_session_that_ended_before_its_run_is_over() -> None:
    directory = Directory("small", 1, 8, 60.0)
    residence = Residence(2, directory, ReplayCache(2, 4, 5, 1))
    handles = {name: np.array([directory.open(name)[0]]) for name in "abc"}
    first = np.ones(1, np.bool_)
    slots = {name: residence.resolve(handles[name], first) for name in "ab"}
    directory.close("a")
    assert residence.resolve(handles["c"], first, handles["a"]) == [0]
    assert residence.resolve(handles["c"], first, handles["b"]) == slots["a"]


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


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads change places thousands of times a second, so that what can meet does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@contextmanager
def churn(model: ServedModel, names: list[str]) -> Iterator[None]:
    """Sessions are closed and opened all the while."""
    over, dice = threading.Event(), random.Random(1)

    def close_and_open() -> None:
        while not over.wait(5e-5):
            with suppress(ServingError):
                model.close(dice.choice(names))
            for name in names:
                model.open(name)

    thread = threading.Thread(target=close_and_open)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("slots", [SESSIONS, 10])
def test_no_two_sessions_of_a_run_ever_share_a_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slots: int
) -> None:
    """Once one that was closed at that moment gave its slot to another of the same run."""
    model, run, shared = crowded(tmp_path, slots), Engine.run, list[list[int]]()

    def running(engine: Engine, rows: EngineRows) -> Floats:
        if len(np.unique(rows.slots)) < len(rows.slots):
            shared.append(rows.slots.tolist())
        return run(engine, rows)

    monkeypatch.setattr(Engine, "run", running)
    caller = Caller(model)
    with churn(model, NAMES):
        for _ in range(300):
            with suppress(ServingError):
                caller.step([(name, None, X[0, :1]) for name in NAMES])
    model.stop()
    assert not shared


@pytest.mark.usefixtures("hasty")
def test_a_session_that_is_closed_meanwhile_is_never_told_as_another(tmp_path: Path) -> None:
    """Neither by what reads it, nor by a copy of it that lives on. Each session has seen its own
    observation first, so that its state tells who it is."""
    model, lstm = crowded(tmp_path, 2), NumpyNetwork(WEIGHTS)
    caller, dice = Caller(model), random.Random(2)
    states = [lstm.run(xs[:1], lstm.initial())[1][0][0] for xs in X]
    for k, name in enumerate(NAMES):
        caller.step([(name, 0, X[k, :1])])
    told = 0
    for turn in range(250):
        who = dice.sample(range(SESSIONS), 2)
        asked = [(k, model.operations.peek(NAMES[k])) for k in who]
        copies = [(k, model.operations.fork(NAMES[k], f"copy-{turn}-{k}")) for k in who[:1]]
        time.sleep(dice.random() * 6e-4)
        for k in who:
            with suppress(ServingError):
                model.close(NAMES[k])
        for k, copy in copies:
            if copy.exception(20) is None:
                asked.append((k, model.operations.peek(copy.result().session_id)))
        for k, peek in asked:
            if peek.exception(20) is None and peek.result()[0].steps:
                np.testing.assert_allclose(peek.result()[1][0].values, states[k], atol=1e-5)
                told += 1
        for _, copy in copies:
            if copy.exception() is None:
                model.close(copy.result().session_id)
        for k in who:
            model.open(NAMES[k])
            caller.step([(NAMES[k], 0, X[k, :1])])
    model.stop()
    assert told > 50


def test_a_session_that_could_not_be_brought_in_to_be_read_is_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once it stayed in another's slot: its next step went on from the other's state."""
    model = crowded(tmp_path, 1)
    caller = Caller(model)
    for k, name in enumerate(NAMES[:2]):
        caller.step([(name, 0, X[k, :1])])
    with monkeypatch.context() as broken:
        broken.setattr(Engine, "write", lambda *_: 1 / 0)
        with pytest.raises(Internal):
            model.operations.export(NAMES[0]).result(20)
    assert "work between two runs failed" in caplog.text
    for k, name in enumerate(NAMES[:2]):
        done = caller.step([(name, 1, X[k, 1:2])])
        assert done.outputs is not None and not done.failed
        np.testing.assert_allclose(done.outputs, expected(X[k])[1:2], atol=1e-5)
    model.stop()


def test_rows_given_up_while_they_wait_for_their_sessions_hold_up_nobody(tmp_path: Path) -> None:
    """Once such sessions kept their slots for ever, and a core ran idle at full speed."""
    model = crowded(tmp_path, 4)
    caller, dice = Caller(model), random.Random(3)
    for name in NAMES:
        caller.step([(name, None, X[0, :1])])
    for _ in range(120):
        rows = [(name, None, X[0, :1]) for name in dice.sample(NAMES, 16)]
        given_up, done = caller.send(rows)
        time.sleep(dice.random() * 2e-3)
        given_up.cancelled = True
        assert done.wait(20)
    assert caller.step([(NAMES[0], None, X[0, :1])]).status[0] == APPLIED
    assert model.operations._residence.room == 4
    model.stop()


@pytest.mark.parametrize("slots", [1, 8])
def test_steps_and_calls_that_need_each_others_slots_both_go_on(tmp_path: Path, slots: int) -> None:
    """Once a call took the slot of a session that was just brought in, again and again."""
    model = crowded(tmp_path, slots)
    caller, over, answered = Caller(model), threading.Event(), list[int]()
    for name in NAMES:
        caller.step([(name, None, X[0, :1])])

    def ask(k: int) -> None:
        answered.append(k)
        if not over.is_set():
            model.operations.peek(NAMES[k % 30]).add_done_callback(lambda _: ask(k + 1))

    for k in range(20):
        ask(k)
    for _ in range(5):
        for name in NAMES[30:]:
            assert caller.step([(name, None, X[0, :1])]).status[0] == APPLIED
    assert len(answered) > 50
    over.set()
    model.stop()


def test_a_new_session_whose_slot_is_not_free_yet_is_stepped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many slots as sessions, and the end of the one before is not heard of yet: once such a
    row, stepped where it had arrived, waited for ever."""
    model = make_model(make_bundle(tmp_path), tmp_path, max_sessions=2)
    model.start()
    caller = Caller(model)
    for k, name in enumerate("ab"):
        model.open(name)
        caller.step([(name, 0, X[k, :1])])
    model.close("a")
    model.open("c")
    monkeypatch.setattr(Residence, "_bury", lambda *_: None)
    stepped = caller.step([("c", 0, X[2, :1])])
    assert stepped.outputs is not None and not stepped.failed
    np.testing.assert_allclose(stepped.outputs, expected(X[2, :1]), atol=1e-5)
    model.stop()
