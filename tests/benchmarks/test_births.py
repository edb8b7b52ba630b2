"""The benchmark of whole lives: every session is opened, stepped and closed, and looked at."""

from __future__ import annotations

import re

import numpy as np
import pytest

from benchmarks import births
from benchmarks.load import WrongAnswer


def test_lives_are_measured_and_leave_nothing_behind() -> None:
    first, second = births.run(300, 2)
    for each in (first, second):
        assert each.sessions == 300 and each.seconds > 0
        assert each.server_microseconds >= 0 and each.client_microseconds > 0
    assert re.search(r"\| 300 \| \d+\.\d \|", births.table([first, second]))


def test_a_wrong_output_is_no_life(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wrong(*_: object) -> np.ndarray:
        return np.full(32, 0.5, np.float32)

    monkeypatch.setattr(births, "live", wrong)
    with pytest.raises(WrongAnswer):
        births.run(3, 1)
