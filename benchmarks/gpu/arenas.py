"""Whether runs and captures touch the rows of the arenas that they are told to, and no others.

All rows are marked and all are looked at, bit by bit, after the capture and after every run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.parity import Finding, sizes_about
from benchmarks.gpu.subjects import CPU, Subject, difference, opened, single_rows
from server.engine import opening
from server.engine.device import Device
from server.engine.engine import Engine
from server.engine.probe import probe
from server.errors import BadModel

SPARE = 200  # slots more than the largest batch has rows
BATCH, ROUNDS = 128, 100
SLACK = {"cpu": (2.0, 200e-6), "cuda": (1.5, 50e-6)}
"""By device: a run in the largest arena may take so many times the smallest's, and so much more. A
copy of 512 MiB there takes more than 100 µs on any GPU of today."""

States = list[NDArray[Any]]


def check_rows(subject: Subject, device: Device, most: int) -> Iterator[Finding]:
    """Shuffled batches of every size about a bucket's edges, beside the CPU's engine."""
    capacity = most + SPARE
    bundle = subject.bundle(most)
    ours = opening.open_engine(bundle, device, capacity)
    try:
        exact = replace(subject, precision="float32").bundle(most)
        with opened(exact, CPU, capacity) as theirs:
            yield from _Walk(subject, ours, theirs).findings(most)
    finally:
        ours.release()


class _Walk:
    """Two engines whose arenas hold the same; the first is not begun yet."""

    def __init__(self, subject: Subject, ours: Engine, theirs: Engine) -> None:
        self._subject, self._ours, self._theirs = subject, ours, theirs
        self._rng = np.random.default_rng(7)
        self._all = np.arange(ours.capacity + 1, dtype=np.int64)
        self._worst, self._states = 0.0, 0.0
        self._others = self._own = 0
        """Rows that changed though nobody named them; and did not, though they were."""

    def findings(self, most: int) -> Iterator[Finding]:
        yield self._captured()
        sizes = self._rng.permutation(sizes_about(most)).tolist()
        for count in sizes:
            self._run(self._rng.permutation(self._all[1:])[:count], 0.1)
        bound = self._subject.bound
        yield (
            self._worst <= bound and self._states <= bound,
            f"answers {self._worst:.1e}, all states {self._states:.1e} over {len(sizes)} runs "
            f"of 1 to {most:,} rows",
        )
        yield (
            not self._others and not self._own,
            f"{len(sizes)} runs: {self._others:,} rows of others changed, {self._own:,} of "
            "those named did not",
        )
        yield self._forecasts(min(most, 64))

    def _captured(self) -> Finding:
        """What lies in the arenas as the engine is begun stays there, but for the scratch row."""
        lain = [self._rng.normal(size=each.shape).astype("f4") for each in self._read()]
        for engine in (self._ours, self._theirs):
            engine.write(self._all, lain)
        found = self._read()  # as it came back: what has not been written is none
        wrote = all(np.array_equal(a, b) for a, b in zip(found, lain, strict=True))
        self._ours.begin()
        after = self._read()
        changed = int(_moved(lain, after)[1:].sum())
        self._ours.write(self._all[:1], [each[:1] for each in lain])
        lost = "" if wrote else "; and what was written was not read back"
        return wrote and not changed, f"begun: {changed:,} of {len(lain[0]) - 1:,} changed{lost}"

    def _forecasts(self, largest: int) -> Finding:
        """The scratch row beside sessions, in batches that pad."""
        self._worst = self._states = 0.0
        self._others = self._own = 0
        counts = [each for each in range(2, largest + 1) if each & (each - 1)][:12]
        for k, count in enumerate(counts):
            slots = np.append(self._rng.permutation(self._all[1:])[: count - 1], 0)
            self._run(self._rng.permutation(slots), float(k == 0))
        worst = max(self._worst, self._states)
        good = worst <= self._subject.bound and not self._others and not self._own
        return good, f"row 0 in {len(counts)} padded runs: answers and states {worst:.1e}"

    def _run(self, slots: NDArray[np.int64], fresh: float) -> None:
        rows = single_rows(self._rng, slots, self._subject.inputs, fresh)
        before = self._read()
        self._worst = max(self._worst, difference(self._ours.run(rows), self._theirs.run(rows)))
        after, wanted = self._read(), self._theirs.read(self._all)
        pairs = zip(after, wanted, strict=True)
        self._states = max(self._states, *(difference(a, b) for a, b in pairs))
        moved, named = _moved(before, after), np.isin(self._all, slots)
        self._others += int(moved[~named].sum())
        self._own += int((~moved[named]).sum())

    def _read(self) -> States:
        return self._ours.read(self._all)


def _moved(before: States, after: States) -> NDArray[np.bool_]:
    """By row, whether any bit of any state is another."""
    moved = np.zeros(len(before[0]), np.bool_)
    for a, b in zip(before, after, strict=True):
        differ = a.view(np.uint8) != b.view(np.uint8)
        moved |= differ.reshape(len(a), -1).any(axis=1)
    return moved


def check_in_place(subject: Subject, device: Device, slots: tuple[int, ...]) -> Iterator[Finding]:
    """The server's probe in arenas of each size, and what runs of 128 rows cost there: with a
    hidden copy of the arena the cost would grow with it."""
    costs: dict[str, list[float]] = {"single": [], "ragged": []}
    bundle, batch = subject.bundle(), min(BATCH, *slots)
    for capacity in sorted(slots):
        with opened(bundle, device, capacity) as engine, opened(bundle, device, 2) as tiny:
            where = [arena.address for arena in engine.arenas]
            problem = _probed(engine, tiny)
            for kind, width in (("single", 1), ("ragged", 16)):
                costs[kind].append(_median(engine, batch, width, subject.inputs))
            stayed = where == [arena.address for arena in engine.arenas]
            size = engine.state_bytes / 2**20
        problem = problem or ("" if stayed else "an arena has moved")
        yield not problem, f"{capacity:,} slots, {size:,.1f} MiB: {problem or 'probed'}"
    for kind, each in costs.items():
        told = ", ".join(f"{cost * 1e6:,.0f}" for cost in each)
        yield is_flat(each, device.kind), f"{kind}: {told} µs a run of {batch} rows"


def is_flat(costs: list[float], kind: str) -> bool:
    """Whether the largest arena's runs cost about what the smallest's do."""
    times, more = SLACK[kind]
    return costs[-1] <= times * costs[0] + more


def _probed(engine: Engine, tiny: Engine) -> str:
    """What the server's own check finds wrong, if anything."""
    try:
        probe(engine, tiny)
    except BadModel as error:
        return str(error)
    return ""


def _median(engine: Engine, batch: int, width: int, inputs: int) -> float:
    rows = single_rows(np.random.default_rng(0), np.arange(1, batch + 1), inputs)
    rows.features = np.repeat(rows.features, width, axis=1)
    rows.lengths[:] = width
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        engine.run(rows)
        times.append(time.perf_counter() - started)
    return float(np.median(times))
