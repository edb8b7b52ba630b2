"""How long the loop waits behind a run that is under way, by a clock that goes as it is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

import numpy as np
import pytest

from server.engine.engine import EngineRows, Floats
from server.scheduler import running
from server.scheduler.running import LATE, SLICE, Run, Runner

LEAD = 200e-6
ROWS = EngineRows(
    np.ones(1, np.int64),
    np.ones(1, np.bool_),
    np.ones(1, np.int32),
    np.zeros((1, 1, 1), np.float32),
)


@dataclass
class Time:
    """In place of the module."""

    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Timed:
    """A run that is over at some moment."""

    time: Time
    until: float

    def over(self) -> bool:
        return self.time.now >= self.until

    def outputs(self) -> Floats:
        self.time.now = max(self.time.now, self.until)
        return np.zeros((1, 1, 1), np.float32)


@pytest.fixture
def time() -> Iterator[Time]:
    with mock.patch.object(running, "time", Time()) as replaced:
        yield replaced


@dataclass
class Busy:
    """Runs one behind the other, of which each is followed by the next if it may be."""

    time: Time
    runner: Runner
    ahead: Run | None = None

    def go(self, seconds: float) -> tuple[float, bool]:
        """A run; for how long after it was over it was not collected, and whether the next one was
        asked for meanwhile."""
        run = self.ahead or self._asked(seconds, 0.0)
        assert isinstance(run.asked, Timed)
        self.ahead = None
        if followed := self.runner.nearly_over(run):
            self.ahead = self._asked(seconds, run.asked.until)
        self.runner.end(run)
        self.runner.note(run)
        return self.time.now - run.asked.until, followed

    def _asked(self, seconds: float, free_at: float) -> Run:
        started = self.time.now
        self.time.now += LEAD
        until = max(self.time.now, free_at) + seconds
        return Run([], started, mock.Mock(), np.arange(1), ROWS, Timed(self.time, until),
                   self.time.now, LEAD, overlaps=True)  # fmt: skip


@pytest.fixture
def busy(time: Time) -> Busy:
    engine = mock.Mock(lost=False)
    return Busy(time, Runner(engine, mock.Mock(), mock.Mock(), mock.Mock()))


def test_runs_that_take_long_are_followed_without_a_pause(busy: Busy) -> None:
    for _ in range(20):
        busy.go(0.005)
    for _ in range(20):
        late, followed = busy.go(0.005)
        assert followed and late < 1e-9


def test_a_run_that_was_held_up_holds_up_none_after_it(busy: Busy) -> None:
    busy.go(0.3)
    for at in range(50):
        late, followed = busy.go(0.001)
        assert late <= SLICE + LEAD + LATE, f"run {at} was over {late} s before it was collected"
    assert followed


def test_runs_that_become_quicker_are_known_to_at_once(busy: Busy) -> None:
    for _ in range(20):
        busy.go(0.02)
    for at in range(50):
        late, _ = busy.go(0.002)
        assert late <= SLICE + LEAD + LATE, f"run {at} was over {late} s before it was collected"
    for _ in range(10):
        late, followed = busy.go(0.002)
        assert followed and late <= LATE + LEAD


def test_short_runs_are_not_followed(busy: Busy) -> None:
    assert not any(busy.go(LEAD)[1] for _ in range(50))


def test_where_the_engine_is_seldom_waited_for_runs_are_not_followed(busy: Busy) -> None:
    for _ in range(50):
        assert not busy.go(0.005)[1]
        busy.time.now += 0.02
