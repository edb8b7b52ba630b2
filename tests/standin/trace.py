"""What a program did to the device: the stand-ins' log, read into calls.

The traced program runs with `libraries.run(...)` and names its parts with `part(...)`; the
reader cuts the log there:

    with trace.part("a run"):                       # in the traced program
        engine.run(rows)

    Trace.read(log).part("a run").of(Copy)          # in the test
"""

from __future__ import annotations

import ctypes
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

RUNTIME = "libcudart.so.13"


@dataclass(frozen=True)
class Call:
    """One call, and the kernel's number of the thread that made it."""

    thread: int


@dataclass(frozen=True)
class Launch(Call):
    """A kernel, or a library's call that computes; while a stream is captured a graph's node."""

    library: str
    """ "kernel", "cublas", "cublasLt" or "cudnn"."""
    name: str
    threads: int
    """The device's, in all blocks of a kernel; 0 for libraries."""
    stream: int
    captured: bool


@dataclass(frozen=True)
class Copy(Call):
    """Bytes moved; `source` and `target` are "device", "pinned" or "pageable"."""

    function: str
    bytes: int
    source: str
    target: str
    stream: int
    captured: bool

    @property
    def pageable(self) -> bool:
        """The driver stages it, and the host waits for it even where the call is named async."""
        return "pageable" in (self.source, self.target)


@dataclass(frozen=True)
class Fill(Call):
    """cudaMemset and its kin."""

    function: str
    bytes: int
    captured: bool


@dataclass(frozen=True)
class HostCall(Call):
    """A function of the host's put on a stream."""

    captured: bool


@dataclass(frozen=True)
class Capture(Call):
    """A stream is captured from here on. Mode 0 is global: any thread's unsafe call loses it."""

    graph: int
    mode: int


@dataclass(frozen=True)
class Captured(Call):
    """The capture's end; `lost` where something forbidden came between."""

    graph: int
    nodes: int
    lost: bool


@dataclass(frozen=True)
class Replay(Call):
    """A graph's launch: one call of the host for all its nodes."""

    graph: int
    launches: int
    copies: int
    fills: int
    stream: int


@dataclass(frozen=True)
class Allocation(Call):
    """Of the device's memory, or of pinned memory of the host's."""

    function: str
    place: str
    bytes: int
    status: int


@dataclass(frozen=True)
class Free(Call):
    """An allocation given back."""

    function: str
    place: str
    bytes: int


@dataclass(frozen=True)
class Sync(Call):
    """The host waits for a stream, an event or the device."""

    function: str
    stream: int


@dataclass(frozen=True)
class Refusal(Call):
    """A call that CUDA forbids while a stream is captured."""

    function: str


@dataclass(frozen=True)
class Event(Call):
    """An event recorded, or a stream told to wait for one."""

    function: str


@dataclass(frozen=True)
class Stream(Call):
    """A stream was made."""

    stream: int


@dataclass(frozen=True)
class Mark(Call):
    """What the traced program said itself."""

    text: str


KINDS: dict[str, type[Call]] = {
    "launch": Launch, "copy": Copy, "fill": Fill, "host": HostCall, "capture": Capture,
    "captured": Captured, "replay": Replay, "allocate": Allocation, "free": Free, "sync": Sync,
    "refused": Refusal, "event": Event, "stream": Stream, "mark": Mark,
}  # fmt: skip
Kind = TypeVar("Kind", bound=Call)


@dataclass(frozen=True)
class Trace:
    """Calls in the order in which they were made."""

    calls: tuple[Call, ...]

    @classmethod
    def read(cls, log: Path) -> Trace:
        """The whole log; a line of no known kind is an error."""
        told = [json.loads(line) for line in log.read_text().splitlines()]
        return cls(tuple(KINDS[each.pop("call")](**each) for each in told))

    def of(self, kind: type[Kind]) -> list[Kind]:
        """All calls of one kind."""
        return [each for each in self.calls if isinstance(each, kind)]

    def part(self, name: str) -> Trace:
        """What was done within `part(name)`, by any thread.

        Raises:
            ValueError: there was no such part, or more than one.
        """
        begin, end = self._marks.get(f"begin {name}", []), self._marks.get(f"end {name}", [])
        if len(begin) != 1:
            raise ValueError(f"{len(begin)} parts are named {name!r}")
        return Trace(self.calls[begin[0] + 1 : end[0]])

    @cached_property
    def _marks(self) -> dict[str, list[int]]:
        """Where each mark lies."""
        found = defaultdict[str, list[int]](list)
        for k, each in enumerate(self.calls):
            if isinstance(each, Mark):
                found[each.text].append(k)
        return found

    @property
    def launches(self) -> list[Launch]:
        """Those done at once, not captured."""
        return [each for each in self.of(Launch) if not each.captured]

    @property
    def copies(self) -> list[Copy]:
        """Those done at once, not captured."""
        return [each for each in self.of(Copy) if not each.captured]

    @cached_property
    def graphs(self) -> dict[int, Trace]:
        """What each graph that was captured here holds, by its number, in the order of capture."""
        found: dict[int, list[Call]] = {}
        for each in self.calls:
            if isinstance(each, Capture):
                found[each.graph] = []
            elif getattr(each, "captured", False):
                found[next(reversed(found))].append(each)
        return {graph: Trace(tuple(nodes)) for graph, nodes in found.items()}

    @property
    def threads(self) -> set[int]:
        """Who called."""
        return {each.thread for each in self.calls}


@contextmanager
def part(name: str) -> Iterator[None]:
    """In a traced program: what is done within is `Trace.part(name)`."""
    mark = ctypes.CDLL(RUNTIME).standin_mark
    mark.argtypes, mark.restype = [ctypes.c_char_p], None
    mark(f"begin {name}".encode())
    try:
        yield
    finally:
        mark(f"end {name}".encode())
