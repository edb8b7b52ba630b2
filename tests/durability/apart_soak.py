"""The soak, for some seconds; and that it finds what it is there to find."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.conftest import SmallModel
from tests.durability.soak.__main__ import Plan, soak
from tests.durability.soak.report import Verdict
from tests.durability.soak.samples import Growth, Sample, growth
from tests.durability.soak.tally import Floats, Ledger, Tally
from tidegate.cli.bench.record import Latencies
from training.reference import NumpyNetwork

SHORT = Plan(
    seconds=4.0, kill_every=1.0, callers=12, pause=0.02, time_to_live=60.0, fill=200, resident=8,
    line_seconds=2.0, sample_seconds=0.5,
)  # fmt: skip
NONE = Latencies()
SPOTLESS = Verdict(Tally(steps=9), 2, 1, Growth(20.0, 9.0), (18, 20), (9, 9), 0, (NONE, NONE))


def test_nothing_is_lost_doubled_wrong_or_left_in_some_seconds_of_soak() -> None:
    lines: list[str] = []
    verdict = soak(SHORT, lines.append)
    assert not verdict.faults, str(verdict)
    assert len(lines) == 3
    assert verdict.kills and verdict.drains
    done = verdict.tally.events
    assert all(done[each] for each in ("opened", "closed", "vanished", "given up")), done


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"tally": Tally(steps=9, lost=2)}, "2 steps lost"),
        ({"tally": Tally(steps=9, doubled=1)}, "1 steps doubled"),
        ({"tally": Tally(steps=9, wrong=3)}, "3 answers wrong"),
        ({"tally": Tally(steps=9, failures=Counter(["x", "y"]))}, "2 failures"),
        ({"tally": Tally()}, "no step was answered"),
        ({"fds": (18, 23)}, "file descriptors went from 18 to 23"),
        ({"growth": Growth(31.0, 7.0)}, "memory grew by 31 MiB an hour, 7.0 MiB in all"),
        ({"left": 4}, "4 sessions left"),
    ],
)
def test_each_fault_is_told(fault: dict[str, Any], told: str) -> None:
    assert not replace(SPOTLESS, growth=Growth(300.0, 1.0)).faults  # over a moment, by chance
    assert not replace(SPOTLESS, growth=Growth(1.0, 90.0)).faults  # once, and not since
    assert replace(SPOTLESS, **fault).faults == [told]
    assert "FAILED" in str(replace(SPOTLESS, **fault))


def test_memory_that_grows_steadily_is_told_from_memory_that_jumps_about() -> None:
    chance = np.random.default_rng(0)
    noise = chance.normal(0, 1, 600)
    noise[chance.integers(0, 600, 20)] += 40
    level = growth([Sample(2.0 * k, 150 + n, 30, 9, 0.0) for k, n in enumerate(noise)])
    assert abs(level.slope) < 5 and abs(level.rise) < 1
    grown = [Sample(2.0 * k, 150 + 0.05 * k + n, 30, 9, 0.0) for k, n in enumerate(noise)]
    assert growth(grown).slope == pytest.approx(90, abs=5)
    assert growth(grown).rise == pytest.approx(20, abs=1)


@pytest.fixture
def played(small: SmallModel) -> tuple[Ledger, Tally, Floats, Floats]:
    """A ledger without an entry, with inputs and their answers."""
    tally, lstm = Tally(), NumpyNetwork(small.weights)
    ledger = Ledger(small.weights, tally, 0, "s")
    xs = ledger.draw(40)
    return ledger, tally, xs, lstm.run(xs, lstm.initial())[0].astype(np.float32)


def test_a_ledger_counts_answers_that_differ(
    played: tuple[Ledger, Tally, Floats, Floats], capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, tally, xs, ys = played
    for at in range(30):
        ledger.answered(xs[at : at + 1], ys[at : at + 1] + (at in (5, 20)))
    ledger.check()
    branch = ledger.branch(1, "b")
    branch.check_ahead(xs[30:], ys[30:])
    branch.answered(xs[30:], np.where(np.arange(10)[:, None] == 4, np.nan, ys[30:]))
    branch.check()
    assert (tally.steps, tally.wrong, branch.steps) == (40, 3, 40)
    tally.counted("s", 28, 30)
    tally.counted("b", 41, 40)
    assert (tally.lost, tally.doubled) == (2, 1)
    assert "s: the server counts 28 steps, its caller 30" in capsys.readouterr().err
