"""Each proof of `benchmarks.gpu` over a GPU's double: good where that is right, and not where it is
wrong in what the proof is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pytest

from benchmarks.gpu.arenas import check_in_place, check_rows, is_flat
from benchmarks.gpu.options import Options
from benchmarks.gpu.parity import check_ahead, check_captured, check_outputs, sizes_about
from benchmarks.gpu.proofs import ROWS
from benchmarks.gpu.sharing import check_memory, check_thread, check_together
from benchmarks.gpu.subjects import Subject
from server.engine import memory, opening
from server.engine.cuda_engine import CudaEngine
from server.engine.device import Device
from server.engine.engine import EngineRows
from server.engine.gate import Gate
from tests.benchmarks import gpu_doubles
from tests.server.engine.double import DoubleStream
from tests.server.engine.wrong import (
    captured_as_it_is_first_used,
    captured_with_the_first_session,
    one_id_for_all,
    one_mirror_for_the_run_ahead_and_the_one_behind,
    padded_with_the_scratch_row,
)

CUDA = Device("cuda")
H64 = Subject("h64")
MOST = 9


@pytest.fixture
def doubled() -> Iterator[None]:
    with (
        mock.patch.object(opening, "open_engine", gpu_doubles.opened),
        mock.patch.object(memory, "free_on", gpu_doubles.free_on),
    ):
        yield


@contextmanager
def off_by_a_hundredth() -> Iterator[None]:
    run = CudaEngine.run

    def off(engine: CudaEngine, rows: EngineRows) -> np.ndarray:
        return run(engine, rows) * np.float32(1.01)

    with mock.patch.object(CudaEngine, "run", off):
        yield


@contextmanager
def nothing_captured() -> Iterator[None]:
    with mock.patch.object(CudaEngine, "_capture", lambda *_: None):
        yield


@contextmanager
def any_thread_runs() -> Iterator[None]:
    with mock.patch.object(CudaEngine, "_check_thread", lambda _: None):
        yield


@contextmanager
def memory_is_kept() -> Iterator[None]:
    with mock.patch.object(DoubleStream, "close", DoubleStream.wait):
        yield


@contextmanager
def captures_beside_runs() -> Iterator[None]:
    @contextmanager
    def alone(_: Gate) -> Iterator[None]:
        yield

    with mock.patch.object(Gate, "alone", alone):
        yield


@contextmanager
def stale_reads() -> Iterator[None]:
    """What is read is what lay there before."""
    read = CudaEngine.read
    kept: dict[bytes, Any] = {}

    def stale(engine: CudaEngine, slots: Any) -> Any:
        return kept.setdefault(slots.tobytes(), read(engine, slots))

    with mock.patch.object(CudaEngine, "read", stale):
        yield


Wrong = Callable[[], AbstractContextManager[None]]
FINDS: dict[str, tuple[Callable[[], Any], Wrong]] = {
    "outputs": (lambda: check_outputs(H64, CUDA), off_by_a_hundredth),
    "captured": (lambda: check_captured(H64, CUDA, MOST), one_id_for_all),
    "captured at all": (lambda: check_captured(H64, CUDA, MOST), nothing_captured),
    "begun": (lambda: check_rows(H64, CUDA, MOST), captured_with_the_first_session),
    "rows": (lambda: check_rows(H64, CUDA, MOST), captured_as_it_is_first_used),
    "others": (lambda: check_rows(H64, CUDA, MOST), captured_with_the_first_session),
    "forecast": (lambda: check_rows(H64, CUDA, MOST), padded_with_the_scratch_row),
    "ahead": (
        lambda: check_ahead(H64, CUDA, MOST),
        one_mirror_for_the_run_ahead_and_the_one_behind,
    ),
    "ahead at all": (lambda: check_ahead(H64, CUDA, MOST), nothing_captured),
    "thread": (lambda: check_thread(H64, CUDA, MOST), any_thread_runs),
    "memory": (lambda: check_memory(H64, CUDA, MOST, 40_000), memory_is_kept),
    "together": (lambda: check_together([H64, H64], CUDA, MOST), captures_beside_runs),
    "in place": (lambda: check_in_place(H64, CUDA, (10,)), stale_reads),
}


def goodness(finds: Callable[[], Any], at: int | None) -> bool:
    """Whether a proof finds all well, or one of its findings; one that raises does not."""
    try:
        found = [good for good, _ in finds()]
    except Exception:
        return False
    return all(found) if at is None else found[at]


@pytest.mark.parametrize("name", FINDS)
def test_what_is_wrong_fails_the_proof_that_is_about_it(doubled: None, name: str) -> None:
    finds, wrong = FINDS[name]
    at = ROWS.index(name) if name in ROWS else None
    with wrong():
        assert not goodness(finds, at)
    if name != "in place":  # that is for the clock to say, too
        assert goodness(finds, at)


@pytest.mark.parametrize(("cost", "flat"), [(110e-6, True), (5e-3, False)])
def test_a_cost_that_grows_with_the_arena_is_not_flat(cost: float, flat: bool) -> None:
    assert is_flat([100e-6, 105e-6, cost], "cpu") is flat
    assert is_flat([100e-6, 105e-6, cost], "cuda") is flat


def test_batches_are_proven_on_either_side_of_every_bucket_s_edge() -> None:
    assert sizes_about(9) == [1, 2, 3, 4, 5, 7, 8, 9]
    assert {4095, 4096, 4097} <= set(sizes_about(Options().most))
