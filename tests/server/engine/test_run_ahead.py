"""The next run is prepared and asked for while one is under way, over a GPU's double whose runs
take a while: nobody's steps are others than if each had been waited for."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from server.bundle.repository import Bundle
from server.config import Config
from server.engine.captured import CapturedRows
from server.engine.engine import Asked
from server.errors import Internal, SessionClosed, SessionLost
from server.metrics import Metrics
from server.scheduler import running
from server.scheduler.queue import StepQueue
from server.scheduler.submission import Submission
from server.serving.model import ServedModel
from tests.server.core.parts import Caller, expected, make_bundle
from tests.server.core.test_walks import assert_state
from tests.server.engine.double import DoubleSession, DoubleStream, double_engine

PACE, WAIT, STEPS = 0.02, 20, 12
NOTHING = np.zeros((0, 3), np.float32)
X = np.random.default_rng(3).normal(0, 2, (STEPS, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("models"))


@dataclass
class Seen:
    """Runs by number, as they are asked for and waited for."""

    asked: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    under_way: dict[int, set[int]] = field(default_factory=dict)
    """The slots that each steps."""
    most: int = 0
    """How many were under way at once."""
    shared: set[int] = field(default_factory=set)
    """Slots that two which were under way together had both."""
    died: threading.Event = field(default_factory=threading.Event)
    """Whether the model has told that it serves no more."""
    fail: Callable[[str, int], bool] = lambda *_: False
    """Whether a run fails as it is launched ("ask"), or waited for ("wait")."""

    def ask(self, engine: CapturedRows, slots: Any, *rest: Any) -> Asked:
        number, mine = len(self.asked) + 1, set(slots.tolist())
        self.asked.append(number)
        self.shared |= mine & set().union(*self.under_way.values())
        self.under_way[number] = mine
        self.most = max(self.most, len(self.under_way))
        asked = ASK(engine, slots, *rest)
        return Watched(self, number, asked)

    def launch(self, session: DoubleSession, *given: Any) -> None:
        if self.fail("ask", len(self.asked)):
            del self.under_way[len(self.asked)]
            raise RuntimeError("a launch that fails")
        RUN(session, *given)


@dataclass(frozen=True)
class Watched:
    """A run that was asked for, and is waited for under the eyes of `Seen`."""

    seen: Seen
    number: int
    asked: Asked

    def over(self) -> bool:
        return self.asked.over()

    def outputs(self) -> Any:
        fails = self.seen.fail("wait", self.number)
        del self.seen.under_way[self.number]
        self.seen.ended.append(self.number)
        answers = self.asked.outputs()
        if fails:
            raise RuntimeError("a wait that fails")
        return answers


ASK, RUN = CapturedRows.ask, DoubleSession.run


@contextmanager
def served(
    bundle: Bundle, folder: Path, slots: int = 16, late: float = PACE / 4, mostly: float = 0.0
) -> Iterator[tuple[ServedModel, Seen]]:
    """A model whose runs take `PACE`, and are asked for behind others however slow the machine."""
    config, seen = Config(model_repository=folder, max_sessions=16, max_resident=slots), Seen()
    model = ServedModel(double_engine(bundle, slots, pace=PACE), config, Metrics(), seen.died.set)
    model.start()
    _tell_how_long_runs_take(model, slots)
    with (
        mock.patch.multiple(running, LATE=late, MOSTLY=mostly),
        mock.patch.object(CapturedRows, "ask", lambda *given: seen.ask(*given)),
        mock.patch.object(DoubleSession, "run", lambda *given: seen.launch(*given)),
    ):
        yield model, seen
        model.stop()
    assert not seen.shared, "a slot was in two runs that were under way together"


def _tell_how_long_runs_take(model: ServedModel, most: int) -> None:
    """Of each size one that nothing comes behind."""
    names = [f"before-{k}" for k in range(most)]
    for name in names:
        model.open(name)
    for count in (1, 2, 4, 8, 16):
        Caller(model).step([(name, None, X[:1]) for name in names[:count]])
    model.end_all()


class Pacer:
    """One caller, who sends the next step of its session a moment after the last one is answered,
    so that some step comes while a run is under way, whichever run that is."""

    def __init__(self, model: ServedModel, name: str) -> None:
        self.caller, self.name, self.done = Caller(model), name, threading.Event()
        self.answers, self.errors = list[Any](), list[Any]()
        self._pause = random.Random(name)
        model.open(name)
        self._handle = np.array([model.directory.find(name)[0]])

    def go(self, at: int = 0) -> None:
        if at == STEPS:
            self.done.set()
            return
        one = np.ones(1, np.int32)
        self.caller.model.submit(
            Submission(self._handle, np.array([at]), one, X[at : at + 1], self._answered)
        )

    def _answered(self, submission: Submission) -> None:
        if submission.errors:
            self.errors.append(submission.errors[0])
            self.done.set()
            return
        self.answers.append(submission.outputs)
        threading.Timer(self._pause.uniform(0, PACE), self._next).start()

    def _next(self) -> None:
        with suppress(Internal):  # nobody serves any more
            self.go(len(self.answers))


def by_turns(model: ServedModel, names: str) -> list[Pacer]:
    """Callers who come one after the other, so that some send while others' steps run."""
    pacers = [Pacer(model, name) for name in names]
    for pacer in pacers:
        pacer.go()
        threading.Event().wait(PACE / 4)
    assert all(each.done.wait(WAIT) for each in pacers)
    return pacers


def test_steps_that_come_while_a_run_is_under_way_are_asked_for_before_it_is_over(
    bundle: Bundle, tmp_path: Path
) -> None:
    with served(bundle, tmp_path) as (model, seen):
        pacers = by_turns(model, "abcdef")
        for each in pacers:
            np.testing.assert_allclose(np.concatenate(each.answers), expected(X), atol=1e-5)
    assert seen.most == 2 and seen.ended == seen.asked


def test_behind_a_run_that_is_shorter_than_preparing_one_nothing_is_asked_for(
    bundle: Bundle, tmp_path: Path
) -> None:
    with served(bundle, tmp_path, late=WAIT) as (model, seen):
        by_turns(model, "abcdef")
    assert seen.most == 1


def test_where_callers_do_not_wait_for_the_engine_nothing_is_asked_for_behind_a_run(
    bundle: Bundle, tmp_path: Path
) -> None:
    with served(bundle, tmp_path, mostly=1.1) as (model, seen):
        by_turns(model, "abcdef")
    assert seen.most == 1


@pytest.mark.parametrize("which", ["ask", "wait for the one ahead", "wait for the one behind"])
def test_of_two_runs_under_way_the_one_that_fails_loses_its_sessions_alone(
    bundle: Bundle, tmp_path: Path, which: str
) -> None:
    with served(bundle, tmp_path) as (model, seen):
        failed = list[int]()

        def fail(what: str, number: int) -> bool:
            """The first that is one of two, once."""
            if failed:
                return failed == [number] and what == "wait" and which != "ask"
            if len(seen.under_way) == 2 and which.startswith(what):
                failed.append(number + which.endswith("behind"))
            return failed == [number]

        seen.fail = fail
        pacers = by_turns(model, "abcdef")
        assert failed
        lost = [each for each in pacers if each.errors]
        assert 0 < len(lost) < len(pacers)
        for each in pacers:
            wanted = expected(X)[: len(each.answers)]
            np.testing.assert_allclose(np.vstack([NOTHING, *each.answers]), wanted, atol=1e-5)
            assert len(each.answers) == STEPS or isinstance(each.errors[0], SessionLost)
        for each in lost:
            with pytest.raises(SessionLost):
                model.directory.find(each.name)


def test_a_loop_that_dies_with_runs_under_way_leaves_nobody_waiting(
    bundle: Bundle, tmp_path: Path
) -> None:
    with (
        served(bundle, tmp_path) as (model, seen),
        mock.patch.object(StepQueue, "take_behind", lambda *_: 1 / 0),
    ):
        pacers = [Pacer(model, name) for name in "abc"]
        with suppress(Internal):  # of those who come after it
            for pacer in pacers:
                pacer.go()
                threading.Event().wait(PACE / 4)
        assert pacers[0].done.wait(WAIT) and isinstance(pacers[0].errors[0], Internal)
    assert seen.asked != seen.ended


def test_a_device_that_is_lost_under_two_runs_ends_the_loop(bundle: Bundle, tmp_path: Path) -> None:
    with (
        served(bundle, tmp_path) as (model, seen),
        mock.patch.object(DoubleStream, "is_lost", lambda _: True),
    ):
        seen.fail = lambda what, _: what == "wait" and len(seen.under_way) == 2
        pacers = [Pacer(model, name) for name in "abcdef"]
        with suppress(Internal):
            for pacer in pacers:
                pacer.go()
                threading.Event().wait(PACE / 4)
        assert seen.died.wait(WAIT)
        for each in pacers:
            assert each.done.is_set() == bool(each.errors)
    assert seen.most == 2


def test_work_between_runs_finds_each_session_where_its_count_says(
    bundle: Bundle, tmp_path: Path
) -> None:
    with served(bundle, tmp_path) as (model, seen):
        pacers = [Pacer(model, name) for name in "abcdef"]
        for pacer in pacers:
            pacer.go()
            threading.Event().wait(PACE / 4)
        while not all(each.done.is_set() for each in pacers):
            for each in [model.operations.export(one.name) for one in pacers]:
                snapshot = each.result(WAIT)
                assert_state(snapshot, X[: snapshot.steps])
            threading.Event().wait(2 * PACE)
        assert all(len(each.answers) == STEPS for each in pacers)
    assert seen.most == 2


@pytest.mark.parametrize("slots", [4, 8])
def test_sessions_that_share_slots_or_end_as_they_run_take_nobody_s_slot(
    bundle: Bundle, tmp_path: Path, slots: int
) -> None:
    """Others begin all the while, so that there are more sessions than slots."""
    with served(bundle, tmp_path, slots=slots) as (model, seen):
        pacers = [Pacer(model, f"s{k}") for k in range(9)]
        for k, each in enumerate(pacers):
            each.go()
            threading.Event().wait(PACE / 4)
            if k % 3 == 2:
                with suppress(SessionClosed):
                    model.close(each.name)
        assert all(each.done.wait(WAIT) for each in pacers)
        for each in pacers:
            wanted = expected(X)[: len(each.answers)]
            np.testing.assert_allclose(np.vstack([NOTHING, *each.answers]), wanted, atol=1e-5)
            assert len(each.answers) == STEPS or isinstance(each.errors[0], SessionClosed)
    assert seen.most == 2


def test_the_slot_of_a_session_that_ends_as_it_runs_is_nobody_s_before_that_is_over(
    bundle: Bundle, tmp_path: Path
) -> None:
    """There is no other slot for the session that begins meanwhile."""
    with served(bundle, tmp_path, slots=1) as (model, seen):
        ends, begins = Pacer(model, "a"), Pacer(model, "b")
        ends.go()
        while not seen.under_way:
            threading.Event().wait(PACE / 20)
        model.close("a")
        begins.go()
        assert begins.done.wait(WAIT) and ends.done.wait(WAIT)
        np.testing.assert_allclose(np.vstack(begins.answers), expected(X), atol=1e-5)
        assert isinstance(ends.errors[0], SessionClosed)
