"""A GPU's double: on the CPU, in real onnxruntime sessions, what CUDA and its graphs do to others.

It keeps what was seen of the real ones: copies and replays are done when they are waited for, and
not before; the first run of a graph's id is executed three times; a replay runs what was bound as
it was captured, whatever is bound now; a graph is the thread's that captured it, and another thread
captures anew; a call of another thread breaks a capture; a graph with nodes for the CPU has none.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock
from weakref import WeakSet

import numpy as np
import onnxruntime

from server.bundle.repository import Bundle
from server.engine import device as devices
from server.engine import opening
from server.engine.cuda_engine import CudaEngine, operators_of
from server.engine.device import Device
from server.engine.engine import Engine
from server.engine.gpu import GRAPH_ID, Bytes, Gpu, GpuSession
from server.engine.graph import GraphError, open_session
from server.scheduler import running

CUDA = Device("cuda")
PACE = 0.002  # seconds that a server's run takes: enough to prepare the next meanwhile
EXECUTIONS = 3  # of the first run of an id
ON_CPU = {"GRU", "If", "LSTM", "Loop", "RNN", "Scan"}  # or some node around them


class BrokenCapture(RuntimeError):
    """CUDA was called from beside a capture."""


class _Capture:
    """The one capture under way in the process."""

    def __init__(self) -> None:
        self._thread, self.broken = 0, False

    def called(self) -> None:
        """CUDA is called: beside a capture that fails, and spoils the capture."""
        if self._thread not in (0, threading.get_ident()):
            self.broken = True
            raise BrokenCapture("a call from beside a capture")

    def __enter__(self) -> None:
        self.called()
        self._thread, self.broken = threading.get_ident(), False

    def __exit__(self, *_: object) -> None:
        self._thread = 0
        if self.broken:
            raise BrokenCapture("the capture was spoiled")


CAPTURE = _Capture()


class DoubleStream:
    """As `CudaStream`. Addresses are the host's; nothing is done before somebody waits.

    Args:
        pace: seconds that a run takes, one behind the other, from when it was asked for.
    """

    handle = 0

    def __init__(self, memory: int = 1 << 30, pace: float = 0.0) -> None:
        self.memory, self.pace, self.held = memory, pace, dict[int, Bytes]()
        self._todo: list[Callable[[], object]] = []
        self._done, self._moments = 0, list[int]()  # of each event, how much is done by then
        self._over = dict[int, float]()  # of each event, not before when that is
        self.sessions: WeakSet[onnxruntime.InferenceSession] = WeakSet()

    def use(self) -> None:
        CAPTURE.called()

    def allocate(self, nbytes: int) -> int:
        return int(self._take(nbytes).ctypes.data)

    def free(self, address: int) -> None:
        CAPTURE.called()
        assert not self._todo, "memory is given back that a copy may yet need"
        del self.held[address]

    def pinned(self, nbytes: int) -> Bytes:
        return self._take(nbytes)

    def free_pinned(self, memory: Bytes) -> None:
        self.free(memory.ctypes.data)

    def copy_in(self, device: int, host: Bytes, nbytes: int) -> None:
        self.later(lambda: ctypes.memmove(device, host.ctypes.data, nbytes))

    def copy_out(self, host: Bytes, device: int, nbytes: int) -> None:
        self.later(lambda: ctypes.memmove(host.ctypes.data, device, nbytes))

    def later(self, work: Callable[[], object]) -> None:
        CAPTURE.called()
        self._todo.append(work)

    def wait(self) -> None:
        CAPTURE.called()
        self._do(len(self._todo))

    def event(self) -> int:
        CAPTURE.called()
        self._moments.append(0)
        return len(self._moments) - 1

    def record(self, event: int) -> None:
        CAPTURE.called()
        self._moments[event] = self._done + len(self._todo)
        last = max(self._over.values(), default=0.0)
        self._over[event] = max(time.monotonic(), last) + self.pace

    def wait_for(self, event: int) -> None:
        CAPTURE.called()
        if self.pace:
            time.sleep(max(0.0, self._over[event] - time.monotonic()))
        self._do(self._moments[event] - self._done)

    def is_lost(self) -> bool:
        self.wait()
        return False

    def has_come(self, event: int) -> bool:
        CAPTURE.called()
        return time.monotonic() >= self._over[event]

    def _do(self, count: int) -> None:
        todo, self._todo = self._todo[: max(0, count)], self._todo[max(0, count) :]
        for work in todo:
            self._done += 1
            work()

    @property
    def idle(self) -> bool:
        """Whether nothing is left to be done."""
        return not self._todo

    def free_bytes(self) -> int:
        return self.memory - sum(map(len, self.held.values()))

    def close(self) -> None:
        self.wait()
        assert not self.sessions, "a session outlives the stream that it runs on"
        self.held.clear()

    def _take(self, nbytes: int) -> Bytes:
        CAPTURE.called()
        taken = np.zeros(nbytes, np.uint8)
        self.held[taken.ctypes.data] = taken
        return taken


class DoubleSession(GpuSession):
    """As `GpuSession`, bound to the host's memory."""

    kind = "cpu"
    stream: DoubleStream

    def _open(
        self, graph: bytes, device: Device, threads: int, stream: Any, captured: bool, most: int
    ) -> onnxruntime.InferenceSession:
        CAPTURE.called()
        if captured and ON_CPU & set(operators_of(graph)):
            raise GraphError("cannot use the graph capture feature as requested by the user")
        self._captured = captured
        self._graphs: dict[tuple[int, int], Any] = {}
        session = open_session(graph, Device("cpu"), threads)
        stream.sessions.add(session)
        return session

    def _on_host(self) -> set[str]:
        return {"lengths"} & {each.name for each in self.session.get_inputs()}

    def run(self, binding: Any, options: onnxruntime.RunOptions) -> None:
        graph_id = int(options.get_run_config_entry(GRAPH_ID))
        key = threading.get_ident(), graph_id
        if graph_id < 0 or not self._captured:
            self._execute(binding, 1, options)
        elif key in self._graphs:
            captured = self._graphs[key]
            self.stream.later(lambda: self.session.run_with_iobinding(captured))
        else:
            with CAPTURE:
                self._execute(binding, EXECUTIONS, options)
                time.sleep(0.0005)  # others have their turn, as they do while C captures
            self._graphs[key] = binding

    def _execute(self, binding: Any, times: int, options: onnxruntime.RunOptions) -> None:
        """What comes before is done, too: onnxruntime's own memory is looked at from outside."""
        self.stream.wait()
        for _ in range(times):
            self.session.run_with_iobinding(binding, options)


class DoubleGpu(Gpu):
    """As `Gpu`."""

    session = DoubleSession

    def __init__(self, memory: int = 1 << 30, device: Device = CUDA, pace: float = 0.0) -> None:
        self.device = device
        self.stream: DoubleStream = DoubleStream(memory, pace)


def double_engine(
    bundle: Bundle,
    capacity: int,
    memory: int = 1 << 30,
    device: Device = CUDA,
    pace: float = 0.0,
) -> CudaEngine:
    """A CUDA engine on a double of its own."""
    return CudaEngine(bundle, device, capacity, gpu=DoubleGpu(memory, device, pace))


def serve(pace: float = PACE) -> None:
    """Run a server on the double, with the process's arguments."""
    mock.patch.object(devices, "_cuda_problem", lambda: None).start()
    mock.patch.object(opening, "open_engine", partial(_opened, pace)).start()
    mock.patch.multiple(running, LATE=pace / 4, MOSTLY=0.0).start()  # however slow the machine is
    from server.__main__ import main  # whatever makes engines comes after

    sys.exit(main())


def _opened(pace: float, bundle: Bundle, device: Device, capacity: int, threads: int = 1) -> Engine:
    assert device.kind == "cuda"
    return CudaEngine(bundle, device, capacity, threads, DoubleGpu(device=device, pace=pace))
