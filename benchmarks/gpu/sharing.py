"""What engines owe each other: an engine is its thread's, gives its memory back, and goes on while
others run or are loaded."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np

from benchmarks.gpu.parity import Finding
from benchmarks.gpu.subjects import CPU, Subject, difference, opened, single_rows
from server.engine import memory
from server.engine.cuda_engine import WrongThread
from server.engine.device import Device
from server.engine.engine import EngineRows

SESSIONS, TURNS, LATE = 300, 40, 3
ROUNDS = 3
KEPT = 8 << 20
"""Bytes that a device may have less after a model that came and went, or a twentieth of what that
took: what CUDA keeps by the page is not the engine's."""


def check_thread(subject: Subject, device: Device, most: int) -> Iterator[Finding]:
    """A run, a read and a write from a second thread are refused, and change nothing."""
    slots = np.arange(1, min(most, 5) + 1)
    rows = single_rows(np.random.default_rng(8), slots, subject.inputs)
    with opened(subject.bundle(most), device, most) as engine:
        engine.run(rows)
        stood = engine.read(slots)
        zeros = [np.zeros_like(each) for each in stood]
        calls: dict[str, Callable[[], object]] = {
            "run": lambda: engine.run(rows),
            "read": lambda: engine.read(slots),
            "write": lambda: engine.write(slots, zeros),
        }
        ended = {name: in_another_thread(call) for name, call in calls.items()}
        kept = all(np.array_equal(a, b) for a, b in zip(stood, engine.read(slots), strict=True))
    refused = all(each == WrongThread.__name__ for each in ended.values())
    told = ", ".join(f"{name}: {how or 'done'}" for name, how in ended.items())
    yield refused and kept, told + ("" if kept else "; and states changed")


def in_another_thread(call: Callable[[], object]) -> str:
    """The name of the exception that it ends with, or nothing."""
    ended = []

    def calls() -> None:
        try:
            call()
        except Exception as error:
            ended.append(type(error).__name__)

    thread = threading.Thread(target=calls)
    thread.start()
    thread.join()
    return "".join(ended)


def check_memory(subject: Subject, device: Device, most: int, slots: int) -> Iterator[Finding]:
    """What is free before a model is loaded, beside what is after it was used and released; once
    before that, since a process's first model loads libraries, too."""
    _come_and_go(subject, device, most, slots)
    for _ in range(ROUNDS):
        before = _free(device)
        within = _come_and_go(subject, device, most, slots)
        after, states = _free(device), (slots + device.spare_rows) * subject.state_bytes
        took, kept = before - within, before - after
        good = took >= states and kept <= max(KEPT, took // 20)
        yield (
            good,
            (
                f"took {took / 2**20:,.1f} MiB, of which states {states / 2**20:,.1f}; "
                f"{kept / 2**20:,.1f} not given back"
            ),
        )


def _free(device: Device) -> int:
    gc.collect()
    return memory.free_on(device) or 0


def _come_and_go(subject: Subject, device: Device, most: int, slots: int) -> int:
    """Load, run at the smallest and the largest size, and in chunks; what is free meanwhile."""
    rng = np.random.default_rng(9)
    with opened(subject.bundle(most), device, slots) as engine:
        for count in (1, min(slots, most)):
            engine.run(single_rows(rng, np.arange(1, count + 1), subject.inputs))
        chunk = single_rows(rng, np.arange(1, 2), subject.inputs)
        chunk.features, chunk.lengths = np.repeat(chunk.features, 4, axis=1), chunk.lengths * 4
        engine.run(chunk)
        return memory.free_on(device) or 0


def check_together(subjects: Sequence[Subject], device: Device, most: int) -> Iterator[Finding]:
    """Models loaded beside each other, each in its own thread as in a server: run by turns, then
    all at once while one more is loaded."""
    sessions = min(SESSIONS, most)
    with ExitStack() as stack:
        sides = [stack.enter_context(_Side(each, device, sessions)) for each in subjects]
        for _ in range(TURNS):
            for side in sides:
                side.go().result()
        yield _told(sides, f"{len(sides)} models by turns")
        late = [_Side(subjects[0], device, sessions) for _ in range(LATE)]
        with ThreadPoolExecutor(1) as loader:
            coming = [loader.submit(stack.enter_context, each) for each in late]
            while not all(each.done() for each in coming):
                _at_once(sides)
        for each in coming:
            each.result()
        for _ in range(TURNS):
            _at_once([*sides, *late])
        yield _told([*sides, *late], f"{len(sides)} models at once while {LATE} more are loaded")


def _at_once(sides: Sequence[_Side]) -> None:
    for each in [side.go() for side in sides]:
        each.result()


def _told(sides: Sequence[_Side], what: str) -> Finding:
    good = all(side.worst <= side.subject.bound for side in sides)
    worst = ", ".join(f"{side.subject.model} {side.worst:.1e}" for side in sides)
    runs = sum(side.runs for side in sides)
    return good and runs > 0, f"{what}: {runs:,} runs; {worst}"


class _Side:
    """An engine in a thread of its own, and what the CPU's answers to the same."""

    def __init__(self, subject: Subject, device: Device, sessions: int) -> None:
        self.subject, self.worst, self.runs = subject, 0.0, 0
        self._device, self._sessions = device, sessions
        self._thread, self._stack = ThreadPoolExecutor(1), ExitStack()
        self._rng = np.random.default_rng(sessions)

    def __enter__(self) -> _Side:
        try:
            self._thread.submit(self._begin).result()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()
        self._stack.close()

    def go(self) -> Future[None]:
        """Have a batch of any size run and its answers compared."""
        return self._thread.submit(self._run)

    def _begin(self) -> None:
        bundle = self.subject.bundle()
        self._ours = self._stack.enter_context(opened(bundle, self._device, self._sessions))
        self._theirs = self._stack.enter_context(opened(bundle, CPU, self._sessions))

    def _run(self) -> None:
        rows = self._rows()
        self.worst = max(self.worst, difference(self._ours.run(rows), self._theirs.run(rows)))
        self.runs += 1

    def _rows(self) -> EngineRows:
        count = int(self._rng.integers(1, self._sessions + 1))
        slots = self._rng.permutation(self._sessions)[:count] + 1
        return single_rows(self._rng, slots, self.subject.inputs, 0.1)
