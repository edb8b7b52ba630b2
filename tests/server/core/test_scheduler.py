"""The scheduler: every row gets an outcome, whatever fails and whoever submits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from server.bundle.repository import Bundle
from server.config import Config
from server.engine.engine import Engine
from server.errors import Internal, QueueFull, SessionClosed
from server.metrics import Metrics
from server.scheduler.queue import StepQueue
from server.scheduler.submission import Submission
from server.serving.model import ServedModel
from server.sessions.replay_cache import ReplayCache
from server.sessions.slots import Slots
from tests.server.core.parts import CPU, WEIGHTS, Caller, expected, make_model
from tidegate.wire import APPLIED
from training.reference import NumpyNetwork

X = np.random.default_rng(5).normal(0, 2, (64, 5)).astype(np.float32)


@pytest.fixture
def model(bundle: Bundle, folder: Path) -> Iterator[ServedModel]:
    served = make_model(bundle, folder, max_sessions=64)
    served.start()
    yield served
    served.stop()


def test_a_loop_that_dies_leaves_nobody_waiting_and_tells(
    bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    died, config = threading.Event(), Config(model_repository=folder)
    model = ServedModel(Engine(bundle, CPU, 8), config, Metrics(), died.set)
    caller = Caller(model)
    for name in "abc":
        model.open(name)
    sent = [caller.send([(name, 0, X[:2])]) for name in "aab"]
    exported = [model.operations.export(name) for name in "ab"]
    monkeypatch.setattr(StepQueue, "take", lambda *_: 1 / 0)
    model.start()
    assert died.wait(20)
    for submission, done in sent:
        assert done.wait(20)
        assert isinstance(submission.errors[0], Internal)
    for each in exported:
        with pytest.raises(Internal):
            each.result(20)
    with pytest.raises(Internal):  # and nobody else will begin to wait
        caller.send([("c", 0, X[:1])])
    with pytest.raises(Internal):
        model.operations.export("c").result(20)
    assert "the scheduler's loop died" in caplog.text


def test_a_loop_that_dies_with_rows_between_their_run_and_their_answer_forgets_none(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = Caller(model)
    for name in "ab":
        model.open(name)
    monkeypatch.setattr(StepQueue, "finish", lambda *_: 1 / 0)
    many = X[:40]  # more than run at once in the caller's thread
    rows = [(name, None, x[None]) for x in many for name in "ab"]
    submission, done = caller.send(rows)
    assert done.wait(20)
    assert len(submission.errors) == len(rows)
    assert all(isinstance(error, Internal) for error in submission.errors.values())


def test_rows_that_all_failed_before_are_done_and_never_run(model: ServedModel) -> None:
    model.open("a")
    handle, done = model.directory.find("a")[0], list[Submission]()
    for lengths in ([1], [1, 1], [2, 3], []):
        each = Submission(
            handles=np.full(len(lengths), handle),
            first_steps=np.zeros(len(lengths), np.int64),
            lengths=np.array(lengths, np.int32),
            features=X[: sum(lengths)],
            on_done=done.append,
        )
        for row in range(len(lengths)):
            each.fail(row, QueueFull("no", 1.0))
        model.submit(each)
        assert done.pop() is each
    assert model.get("a").steps == 0


def test_steps_may_be_submitted_from_any_thread(model: ServedModel) -> None:
    """Some run at once in the thread that brings them, some in the scheduler's."""
    wrong: list[str] = []

    def use(name: str) -> None:
        caller, lstm = Caller(model), NumpyNetwork(WEIGHTS)
        model.open(name)
        state = lstm.initial()
        for at in range(0, 60, 3):
            done = caller.step([(name, at, X[at : at + 1]), (name, at + 1, X[at + 1 : at + 3])])
            wanted, state = lstm.run(X[at : at + 3], state)
            assert done.outputs is not None
            if done.failed or not np.allclose(done.outputs, wanted, atol=1e-5):
                wrong.append(name)

    threads = [threading.Thread(target=use, args=(f"t{k}",)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert {model.get(f"t{k}").steps for k in range(8)} == {60}


def test_who_runs_steps_itself_does_the_work_that_waits_for_the_engine_after_each(
    bundle: Bundle, folder: Path
) -> None:
    model = make_model(bundle, folder, max_sessions=64)
    model.start()
    handle, here = model.attach("a", create=True)[0], threading.get_ident()
    exported: list[int] = []

    for step in range(50):
        over, brought = threading.Event(), list[int]()

        def answered(_: Submission) -> None:
            """Whoever is here holds the engine, and the loop's thread at most waits for it."""
            brought.append(threading.get_ident())  # noqa: B023
            asked = model.operations.export("a")
            asked.add_done_callback(lambda _: exported.append(threading.get_ident()))
            asked.add_done_callback(lambda _: over.set())  # noqa: B023

        features, ones = X[step : step + 1], np.ones(1, dtype=np.int32)
        firsts = np.array([step], dtype=np.int64)
        model.submit(Submission(np.array([handle]), firsts, ones, features, answered))
        if brought == [here]:
            assert over.is_set() and exported[-1] == here
        assert over.wait(20)
    assert here in exported
    model.stop()


def test_a_completion_may_bring_the_next_step(model: ServedModel) -> None:
    handle, applied, over = model.attach("a", create=True)[0], list[int](), threading.Event()

    def step(number: int) -> None:
        features, ones = X[number : number + 1], np.ones(1, dtype=np.int32)
        firsts = np.array([number], dtype=np.int64)
        model.submit(Submission(np.array([handle]), firsts, ones, features, answered))

    def answered(submission: Submission) -> None:
        assert not submission.errors
        applied.append(int(submission.first_steps[0]))
        if len(applied) < 30:
            step(len(applied))
        else:
            over.set()

    step(0)
    assert over.wait(20)
    assert applied == list(range(30))


def test_outputs_are_remembered_while_others_look_sessions_up(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it was done under the lock that every call needs, for up to a tenth of a second."""
    keep, found = ReplayCache.keep, list[int]()

    def keeping(*of: object) -> None:
        other = threading.Thread(target=lambda: found.append(model.directory.find("a")[1]))
        other.start()
        other.join(20)
        keep(*of)  # type: ignore[arg-type]

    model.open("a")
    monkeypatch.setattr(ReplayCache, "keep", keeping)
    assert Caller(model).step([("a", 0, X[:2])]).status[0] == APPLIED
    assert found == [0]


def test_many_exports_share_a_run_of_a_graph(
    bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(bundle, folder, max_sessions=64)
    names = [f"s{k}" for k in range(60)]
    model.start()
    for k, name in enumerate(names):
        model.open(name)
        Caller(model).step([(name, 0, X[: 1 + k])])
    read, reads, go_on = Engine.read, list[int](), threading.Event()

    def reading(engine: Engine, slots: Slots) -> object:
        reads.append(len(slots))
        go_on.wait(20)
        return read(engine, slots)

    monkeypatch.setattr(Engine, "read", reading)
    exported = [model.operations.export(name) for name in names]
    go_on.set()
    for k, each in enumerate(exported):
        taken = each.result(20)
        assert (taken.session_id, taken.steps) == (names[k], 1 + k)
        np.testing.assert_allclose(taken.outputs, expected(X[: 1 + k]), atol=1e-5)
    assert len(reads) <= 3 and sum(reads) == 60
    model.stop()


def test_a_reset_never_brings_a_session_back_to_life(model: ServedModel) -> None:
    model.open("a")
    model.close("a")
    with pytest.raises(SessionClosed):
        model.operations.reset("a").result(20)
    assert "a" not in model.directory
