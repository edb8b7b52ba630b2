"""Whether a device computes what the CPU does, and a captured graph what an eager run does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from benchmarks.gpu.options import ALIKE
from benchmarks.gpu.subjects import CPU, Subject, difference, opened, single_rows
from server.engine.buckets import UNDER_WAY
from server.engine.cuda_engine import CudaEngine
from server.engine.device import Device
from server.engine.engine import Asked, Engine, EngineRows

SESSIONS, RUNS, CHUNK = 16, 40, 8

Finding = tuple[bool, str]
"""Whether it is as it should be, and the figures that say so."""


def check_outputs(subject: Subject, device: Device) -> Iterator[Finding]:
    """Single steps, ragged chunks and the two mixed, beside the CPU's engine in float32."""
    exact = replace(subject, precision="float32").bundle()
    with (
        opened(subject.bundle(), device, SESSIONS) as ours,
        opened(exact, CPU, SESSIONS) as theirs,
    ):
        for kind, widths in (("single", [1]), ("ragged", [CHUNK]), ("mixed", [1, CHUNK])):
            outputs, states, steps = _compared(subject, widths, ours, theirs)
            good = outputs <= subject.bound and states <= subject.bound
            yield good, f"{kind}: outputs {outputs:.1e}, states {states:.1e}, {steps:,} steps"


def _compared(
    subject: Subject, widths: list[int], ours: Engine, theirs: Engine
) -> tuple[float, float, int]:
    rng = np.random.default_rng(5)
    worst, steps = 0.0, 0
    for k in range(RUNS):
        rows = _ragged(rng, subject.inputs, widths[k % len(widths)], fresh=k == 0)
        mask = np.arange(rows.features.shape[1]) < rows.lengths[:, None]
        worst = max(worst, difference(ours.run(rows)[mask], theirs.run(rows)[mask]))
        steps += int(rows.lengths.sum())
    return worst, _states_apart(ours, theirs, SESSIONS), steps


def _states_apart(ours: Engine, theirs: Engine, sessions: int) -> float:
    """The largest difference in the states of all."""
    slots = np.arange(1, sessions + 1, dtype=np.int64)
    pairs = zip(ours.read(slots), theirs.read(slots), strict=True)
    return max(difference(a, b) for a, b in pairs)


def _ragged(rng: np.random.Generator, inputs: int, width: int, fresh: bool) -> EngineRows:
    """Some sessions, at first all, in another order each time, by 1 to `width` steps."""
    count = SESSIONS if fresh else int(rng.integers(1, SESSIONS + 1))
    return EngineRows(
        slots=rng.permutation(np.arange(1, SESSIONS + 1, dtype=np.int64))[:count],
        fresh=np.full(count, fresh, dtype=np.bool_),
        lengths=rng.integers(1, width + 1, count).astype(np.int32),
        features=rng.normal(size=(count, width, inputs)).astype(np.float32),
    )


def check_captured(subject: Subject, device: Device, most: int) -> Iterator[Finding]:
    """The same batches of every size to `most`, captured and eager on the same device."""
    bundle, rng = subject.bundle(most), np.random.default_rng(6)
    eager_device = replace(device, captures=False)
    with opened(bundle, device, most) as ours, opened(bundle, eager_device, most) as eager:
        worst, other = 0.0, True
        sizes = rng.permutation(sizes_about(most)).tolist()
        for k, count in enumerate(sizes):
            slots = rng.permutation(most)[:count] + 1
            rows = single_rows(rng, slots, subject.inputs, 1.0 if k == 0 else 0.2)
            given, wanted = ours.run(rows), eager.run(rows)
            worst = max(worst, difference(given, wanted))
            # Nothing equals nothing, so it must be something, and another for each row.
            other &= len(np.unique(given[:, 0], axis=0)) == count
        captured = not isinstance(ours, CudaEngine) or ours.captured
    said = "" if other else ", and rows of other features are answered alike"
    said += "" if captured else ", and nothing was captured"
    good = worst <= ALIKE[subject.precision] and other and captured
    yield good, f"{len(sizes)} sizes of batches, outputs {worst:.1e}{said}"


def check_ahead(subject: Subject, device: Device, most: int) -> Iterator[Finding]:
    """Batches of every size to `most`, each asked for while the one before is under way, beside the
    CPU's engine in float32, which waits for each."""
    exact, rng = replace(subject, precision="float32").bundle(most), np.random.default_rng(7)
    with opened(subject.bundle(most), device, most) as ours, opened(exact, CPU, most) as theirs:
        sizes, worst = rng.permutation([*sizes_about(most)] * 2).tolist(), 0.0
        under_way: list[tuple[EngineRows, Asked]] = []
        for k, count in enumerate(sizes):
            slots = rng.permutation(most)[:count] + 1
            rows = single_rows(rng, slots, subject.inputs, 1.0 if k == 0 else 0.2)
            if len(under_way) == UNDER_WAY:
                worst = max(worst, _ended(theirs, *under_way.pop(0)))
            under_way.append((rows, ours.ask(rows)))
        worst = max(worst, *(_ended(theirs, *each) for each in under_way))
        states = _states_apart(ours, theirs, most)
        overlapped = device.kind == "cpu" or ours.overlaps(rows)
    said = "" if overlapped else ", and each was over before the next was asked for"
    good = worst <= subject.bound and states <= subject.bound and overlapped
    yield good, f"{len(sizes)} batches, outputs {worst:.1e}, states {states:.1e}{said}"


def _ended(theirs: Engine, rows: EngineRows, asked: Asked) -> float:
    return difference(asked.outputs(), theirs.run(rows))


def sizes_about(most: int) -> list[int]:
    """Numbers of rows at the edges of buckets: 1, 2, 3, 4, 5, 7, 8, 9, 15 ... `most`."""
    edges = {
        count
        for power in range(most.bit_length() + 1)
        for count in ((1 << power) - 1, 1 << power, (1 << power) + 1)
    }
    return sorted(each for each in edges | {most} if 1 <= each <= most)
