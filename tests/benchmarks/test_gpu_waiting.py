"""`benchmarks.gpu.waiting`: servers that wait in place of a GPU answer, beside each other."""

from __future__ import annotations

import time

import numpy as np
import pytest

from benchmarks.gpu import waiting
from benchmarks.gpu.waiting import AHEAD, ALONE, NONE, Gpu, Waiting, measure
from benchmarks.models import H64, rows_of
from server.engine.device import Device


def test_it_waits_as_long_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Waiting, "gpu", Gpu("slow", 20_000, 10_000))
    engine = Waiting(H64.bundle(), Device("cpu"), 4)
    engine.begin()
    began = time.perf_counter()
    found = engine.run(rows_of(np.ones((3, 1, 16), np.float32)))
    assert time.perf_counter() - began >= 0.05
    assert found.shape == (3, 1, 32) and not found.any()


def test_a_run_that_is_asked_for_behind_another_is_over_that_much_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Waiting, "gpu", Gpu("slow", 20_000, 10_000))
    engine = Waiting(H64.bundle(), Device("cpu"), 4)
    engine.begin()
    began = time.perf_counter()
    first, second = (engine.ask(rows_of(np.ones((3, 1, 16), np.float32))) for _ in range(2))
    for each, seconds in ((first, 0.05), (second, 0.1)):
        assert not each.outputs().any() and each.over()
        assert time.perf_counter() - began >= seconds


def test_servers_are_measured_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Gpu("20 ms", 20_000, 0)
    monkeypatch.setattr(waiting, "WAYS", ((NONE, ALONE), (slow, ALONE), (slow, AHEAD)))
    monkeypatch.setattr(waiting, "LOADS", ((4, 2),))
    ((rows, in_flight, plain, *shares),) = measure(rounds=2, seconds=0.2)
    assert (rows, in_flight) == ("4", "2")
    assert int(plain.replace(",", "")) > 0
    assert len(shares) == 2 and all(0 < float(share.split()[0]) < 1 for share in shares)
