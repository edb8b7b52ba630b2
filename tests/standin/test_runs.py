"""What a run does to the device, whatever the network and however its graphs are written.

One process runs every case over the stand-ins (`runs.py`); each claim reads its trace.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.standin.libraries import run
from tests.standin.runs import (
    BATCHES,
    BEHIND,
    CASES,
    CHUNK,
    ELSEWHERE,
    KINDS,
    LOAD,
    NOT_IN_PLACE,
    OVER_ALL,
    SESSIONS,
    SHAPES,
    Case,
)  # fmt: skip
from tests.standin.trace import (
    Allocation,
    Call,
    Capture,
    Captured,
    Copy,
    Event,
    Free,
    Launch,
    Refusal,
    Replay,
    Sync,
    Trace,
)

ELEMENTS_A_THREAD = 4  # of onnxruntime's kernels that go over a whole tensor
SIZES = [1 << k for k in range(13)]  # of buckets, up to the 4,096 rows of a run
PADDING = SESSIONS + 1
SINGLE = [kind for kind in KINDS if kind.startswith("single")]
EAGER = [kind for kind in KINDS if kind not in SINGLE]
SOUND = [case for case in CASES if case.form.precision != "int8"]
SHAPED = [case for case in SOUND if case.network_name in SHAPES]
# Kernels, libraries' calls, copies and fills of a run: at most (these, and those more a layer).
MOST = {
    ("packed", "joined", "float32"): (15, 12),
    ("packed", "gemm", "float32"): (15, 14),
    ("packed", "joined", "float16"): (13, 17),
    ("packed", "operator", "float32"): (18, 2),
    ("apart", "joined", "float32"): (9, 20),
    ("apart", "gemm", "float32"): (9, 21),
    ("step", "operator", "float32"): (23, 10),
    ("step", "operator", "float16"): (25, 14),
    ("step", "scan", "float32"): (17 + 2 * CHUNK, 8 + 15 * CHUNK),
    ("step", "scan", "float16"): (17 + 2 * CHUNK, 8 + 17 * CHUNK),
}


@dataclass(frozen=True)
class Traced:
    """The trace of all cases, and what the log does not say of each."""

    trace: Trace
    told: dict[str, dict[str, Any]]

    def part(self, case: Case, kind: str) -> Trace:
        return self.trace.part(f"{case.name} {kind}")

    def placed(self, case: Case, kind: str) -> Counter[tuple[str, str]]:
        """Nodes that ran, by operator and device."""
        return Counter((op, where) for op, where in self.told[case.name]["placed"][kind])

    def graph(self, case: Case, size: int) -> Trace:
        """What was captured for runs of so many rows; the largest came first."""
        return list(self.part(case, LOAD).graphs.values())[-1 - SIZES.index(size)]


@pytest.fixture(scope="module")
def traced(libraries: Path, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    folder = tmp_path_factory.mktemp("runs")
    told = folder / "told.json"
    trace, _ = run(libraries, folder, "-m", "tests.standin.runs", str(told), parts=1)
    return Traced(trace, json.loads(told.read_text()))


def copied(trace: Trace, arena: int) -> list[Copy]:
    """Copies of `arena` bytes or more, at once or in a graph."""
    return [each for each in trace.of(Copy) if each.bytes >= arena]


def gone_over(trace: Trace, arena: int) -> list[Launch]:
    """Kernels that could go over all of `arena` bytes of float32."""
    return [each for each in trace.of(Launch) if each.threads * ELEMENTS_A_THREAD >= arena // 4]


def ends(trace: Trace) -> list[tuple[str, str]]:
    return [(each.source, each.target) for each in trace.of(Copy)]


def by_name(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


@by_name(SOUND)
def test_single_read_and_write_graphs_run_whole_on_the_device(traced: Traced, case: Case) -> None:
    for kind in ("single", "read", "write"):
        placed = traced.placed(case, kind)
        assert placed
        assert not [each for each in placed if each[1] != "CUDA" or "Memcpy" in each[0]], kind


@by_name(SOUND)
def test_of_a_chunk_s_graph_only_shapes_are_computed_on_the_cpu(traced: Traced, case: Case) -> None:
    """The LSTM operator takes its lengths there too: one node that brings them."""
    placed = traced.placed(case, "step")
    off = {op for op, where in placed if where != "CUDA"}
    assert off <= {"Gather", "Squeeze", "Concat"}
    moved = {op for op, _ in placed if "Memcpy" in op}
    assert moved == ({"MemcpyFromHost"} if case.form.step == "operator" else set())


@by_name([case for case in CASES if case not in SOUND])
def test_int8_whose_products_would_leave_the_device_is_refused_by_name(
    traced: Traced, case: Case
) -> None:
    assert (
        "MatMulInteger, which onnxruntime would take to the CPU"
        in (traced.told[case.name]["refused"])
    )


@by_name(SOUND)
def test_a_run_of_single_steps_is_a_copy_in_a_replay_a_copy_out_and_a_wait(
    traced: Traced, case: Case
) -> None:
    for kind in SINGLE:
        *asked, wait = traced.part(case, kind).calls
        assert is_asked_for(asked) and isinstance(wait, Sync)


@by_name(SOUND)
def test_the_next_run_is_asked_for_while_one_is_under_way_and_each_is_waited_for_by_itself(
    traced: Traced, case: Case
) -> None:
    calls = traced.part(case, BEHIND).calls
    first, second, waits = calls[:4], calls[4:8], calls[8:]
    assert is_asked_for(first) and is_asked_for(second)
    assert [each.function for each in Trace(waits).of(Sync)] == ["cudaEventSynchronize"] * 2
    assert len(waits) == 2 and len(traced.told[case.name]["behind"]) == 2


def is_asked_for(calls: Sequence[Call]) -> bool:
    """A copy in, a launch, a copy out, and what is to be waited for."""
    into, replay, out, event = calls
    there_and_back = [("pinned", "device"), ("device", "pinned")]
    assert ends(Trace((into, out))) == there_and_back
    return isinstance(replay, Replay) and isinstance(event, Event)


@by_name(SOUND)
def test_other_runs_wait_once_and_copy_nothing_from_or_to_pageable_memory(
    traced: Traced, case: Case
) -> None:
    for kind in EAGER:
        trace = traced.part(case, kind)
        assert len(trace.of(Sync)) == 1 and trace.launches and not trace.of(Replay)
        assert not [each for each in trace.of(Copy) if each.pageable]


@by_name(SOUND)
def test_every_size_is_captured_once_at_load_by_one_thread_with_the_padding_s_row_alone(
    traced: Traced, case: Case
) -> None:
    load = traced.part(case, LOAD)
    assert len(load.of(Capture)) == len(SIZES)
    assert not [each for each in load.of(Captured) if each.lost] and not load.of(Refusal)
    assert len({each.thread for each in load.of(Capture)}) == 1
    first = traced.told[case.name]["named_first"]
    assert {int(size): rows for size, rows in first.items()} == {s: [PADDING] for s in SIZES}
    assert not [kind for kind in KINDS if traced.part(case, kind).of(Capture)]


@by_name([case for case in SOUND if case.single != "operator"])
def test_a_graph_that_was_captured_reads_nothing_of_the_host_s(traced: Traced, case: Case) -> None:
    for graph in traced.part(case, LOAD).graphs.values():
        assert set(ends(graph)) <= {("device", "device")}


@by_name(SOUND)
def test_a_run_steps_the_rows_that_are_asked_for_and_fills_its_size_with_padding(
    traced: Traced, case: Case
) -> None:
    named = traced.told[case.name]["named"]
    assert named["single 1"] == [1]
    assert named["single 5"] == [1, 2, 3, 4, 5, PADDING, PADDING, PADDING]
    assert named["single 8"] == [*range(1, 9)]
    for kind in EAGER:  # of a state's own rows in what all of them lie in
        assert named[kind] == [case.stride * slot for slot in range(1, 9)]


@by_name(SOUND)
def test_a_run_from_another_thread_is_refused_before_the_device_is_asked_for_anything(
    traced: Traced, case: Case
) -> None:
    assert traced.told[case.name]["elsewhere"] == "WrongThread"
    assert not traced.part(case, ELSEWHERE).calls


@by_name(SOUND)
def test_no_run_copies_or_goes_over_an_arena(traced: Traced, case: Case) -> None:
    arena = min(traced.told[case.name]["arenas"])
    runs = [traced.part(case, kind) for kind in EAGER]
    for trace in (*runs, *(traced.graph(case, size) for size in (1, 8))):
        assert not [*copied(trace, arena), *gone_over(trace, arena)]


def test_a_run_that_copies_an_arena_or_goes_over_one_would_be_seen(traced: Traced) -> None:
    size = SESSIONS * SHAPES["1x64"].layers[0].r.shape[1] * 4
    copies = copied(traced.trace.part(NOT_IN_PLACE), size)
    assert [(each.source, each.target) for each in copies] == [("device", "device")] * 2
    kernels = gone_over(traced.trace.part(OVER_ALL), size)
    assert len(kernels) == 2 and all("Neg" in each.name for each in kernels)


@by_name(SOUND)
def test_a_run_like_ones_before_it_takes_no_memory_and_gives_none_back(
    traced: Traced, case: Case
) -> None:
    for kind in KINDS:
        trace = traced.part(case, kind)
        assert not [*trace.of(Allocation), *trace.of(Free)], kind


@by_name(CASES)
def test_a_model_that_is_released_or_refused_gives_back_all_that_it_took_of_the_device(
    traced: Traced, case: Case
) -> None:
    assert traced.told[case.name]["kept"] == 0


@by_name(SHAPED)
def test_a_run_has_the_device_do_no_more_than_is_stated(traced: Traced, case: Case) -> None:
    layers, precision = len(case.network.layers), case.form.precision
    (replay,) = traced.part(case, f"single {BATCHES[-1]}").of(Replay)
    lie = "packed" if case.stride > 1 else "apart"
    base, more = MOST[lie, case.single, precision]
    assert 0 < replay.launches + replay.copies + replay.fills <= base + more * layers
    step = traced.part(case, "step")
    base, more = MOST["step", case.form.step, precision]
    assert 0 < len(step.calls) <= base + more * layers
    states = len(list(case.network.states()))
    for kind in ("read", "write"):
        assert len(traced.part(case, kind).launches) == states


@by_name(SOUND)
def test_outputs_have_the_shapes_asked_for(traced: Traced, case: Case) -> None:
    shapes, outputs = traced.told[case.name]["shapes"], case.network.outputs
    for kind, batch in zip(SINGLE, BATCHES, strict=True):
        assert shapes[kind] == [batch, 1, outputs]
    assert shapes["step"] == [BATCHES[-1], CHUNK, outputs]
    assert shapes["read"] == [BATCHES[-1], next(case.network.states())[1]]
