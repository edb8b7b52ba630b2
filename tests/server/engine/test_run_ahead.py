"""The next run is prepared and asked for while one is under way, over a GPU's double whose runs
take a while: nobody's steps are others than if each had been waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from server.bundle.repository import Bundle
from server.config import Config
from server.engine.captured import CapturedRows
from server.errors import RunFailed, SessionClosed, SessionLost
from server.metrics import Metrics
from server.scheduler import running
from server.scheduler.submission import Submission
from server.serving.model import ServedModel
from tests.server.core.parts import Caller, expected, make_bundle
from tests.server.core.test_walks import assert_state
from tests.server.engine.double import double_engine

PACE, WAIT, STEPS = 0.02, 20, 12
X = np.random.default_rng(3).normal(0, 2, (STEPS, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("models"))


@dataclass
class Seen:
    """Runs by number, as they are asked for and waited for."""

    asked: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    most: int = 0
    """How many were under way at once."""
    fail: Callable[[str, int], bool] = lambda *_: False
    """Whether a run fails as it is asked for ("ask"), or waited for ("wait")."""

    def ask(self, engine: CapturedRows, *rows: Any) -> Callable[[], Any]:
        number = len(self.asked) + 1
        self.asked.append(number)
        if self.fail("ask", number):
            raise RuntimeError("a launch that fails")
        self.most = max(self.most, len(self.asked) - len(self.ended))
        asked = ASK(engine, *rows)
        return lambda: self._end(number, asked)

    def _end(self, number: int, asked: Callable[[], Any]) -> Any:
        self.ended.append(number)
        answers = asked()
        if self.fail("wait", number):
            raise RuntimeError("a wait that fails")
        return answers


ASK = CapturedRows.ask


@contextmanager
def served(
    bundle: Bundle, folder: Path, pace: float = PACE, slots: int = 16
) -> Iterator[tuple[ServedModel, Seen]]:
    config, seen = Config(model_repository=folder, max_sessions=16, max_resident=slots), Seen()
    model = ServedModel(double_engine(bundle, slots, pace=pace), config, Metrics())
    model.start()
    _tell_how_long_runs_take(model, slots)
    with mock.patch.object(CapturedRows, "ask", lambda *given: seen.ask(*given)):
        yield model, seen
        model.stop()


def _tell_how_long_runs_take(model: ServedModel, most: int) -> None:
    """Of each size some that nothing comes behind, one after the other."""
    names = [f"before-{k}" for k in range(most)]
    for name in names:
        model.open(name)
    for count in (1, 2, 4, 8, 16) * 4:
        Caller(model).step([(name, None, X[:1]) for name in names[:count]])
    model.end_all()


class Pacer:
    """One caller, who sends the next step of its session as soon as the last one is answered."""

    def __init__(self, model: ServedModel, name: str) -> None:
        self.caller, self.name, self.done = Caller(model), name, threading.Event()
        self.answers, self.errors = list[Any](), list[Any]()
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
    with mock.patch.object(running, "LATE", WAIT), served(bundle, tmp_path) as (model, seen):
        by_turns(model, "abcdef")
    assert seen.most == 1


def test_where_callers_do_not_wait_for_the_engine_nothing_is_asked_for_behind_a_run(
    bundle: Bundle, tmp_path: Path
) -> None:
    with mock.patch.object(running, "MOSTLY", 1.1), served(bundle, tmp_path) as (model, seen):
        by_turns(model, "abcdef")
    assert seen.most == 1


def test_of_two_runs_under_way_the_one_that_fails_loses_its_sessions_alone(
    bundle: Bundle, tmp_path: Path
) -> None:
    for where in ("ask", "wait"):
        with served(bundle, tmp_path) as (model, seen):
            seen.fail = lambda what, number, where=where: (what, number) == (where, 8)  # type: ignore[misc]
            pacers = by_turns(model, "abcdef")
            lost = [each for each in pacers if each.errors]
            assert lost and len(lost) < len(pacers)
            for each in pacers:
                wanted = expected(X)[: len(each.answers)]
                np.testing.assert_allclose(np.concatenate(each.answers), wanted, atol=1e-5)
                assert len(each.answers) == STEPS or isinstance(
                    each.errors[0], SessionLost | RunFailed
                )
            for each in lost:
                with pytest.raises(SessionLost):
                    model.directory.find(each.name)
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


def test_the_slot_of_a_session_that_ends_while_it_runs_is_nobody_s_until_that_is_over(
    bundle: Bundle, tmp_path: Path
) -> None:
    """Others that begin meanwhile want slots, and there are no more than are taken."""
    with served(bundle, tmp_path, slots=4) as (model, seen):
        by_turns(model, "abcd")
        for name in "bcd":
            model.close(name)
        going, coming = Pacer(model, "e"), [Pacer(model, name) for name in "fgh"]
        going.go()
        threading.Event().wait(PACE / 4)
        model.close("e")
        for each in coming:
            each.go()
        assert all(each.done.wait(WAIT) for each in (going, *coming))
        assert all(isinstance(error, SessionClosed) for error in going.errors)
        for each in coming:
            np.testing.assert_allclose(np.concatenate(each.answers), expected(X), atol=1e-5)
    assert seen.most == 2
