"""What no run can be faster than: the driver's own launches, copies and waits, and its bandwidth.

The driver alone is asked (libcuda), so that this needs no package. An empty kernel comes as PTX,
which the driver compiles.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

from benchmarks.gpu.options import Options, Say, Unusable
from benchmarks.gpu.tables import ON_DEVICE, RUN, TO_DEVICE, TO_HOST

NOTHING = b"""
.version 7.0
.target sm_75
.address_size 64
.visible .entry nothing() { ret; }
"""
CALLS: dict[str, list[Any]] = {
    "cuInit": [c_uint],
    "cuDeviceGet": [POINTER(c_int), c_int],
    "cuDevicePrimaryCtxRetain": [POINTER(c_void_p), c_int],
    "cuCtxSetCurrent": [c_void_p],
    "cuStreamCreate": [POINTER(c_void_p), c_uint],
    "cuStreamSynchronize": [c_void_p],
    "cuStreamBeginCapture_v2": [c_void_p, c_int],
    "cuStreamEndCapture": [c_void_p, POINTER(c_void_p)],
    "cuGraphInstantiateWithFlags": [POINTER(c_void_p), c_void_p, c_uint64],
    "cuGraphLaunch": [c_void_p, c_void_p],
    "cuModuleLoadData": [POINTER(c_void_p), c_char_p],
    "cuModuleGetFunction": [POINTER(c_void_p), c_void_p, c_char_p],
    "cuLaunchKernel": [c_void_p, *[c_uint] * 7, c_void_p, c_void_p, c_void_p],
    "cuMemGetInfo_v2": [POINTER(c_size_t), POINTER(c_size_t)],
    "cuMemAlloc_v2": [POINTER(c_uint64), c_size_t],
    "cuMemHostAlloc": [POINTER(c_void_p), c_size_t, c_uint],
    "cuMemcpyDtoDAsync_v2": [c_uint64, c_uint64, c_size_t, c_void_p],
    "cuMemcpyHtoDAsync_v2": [c_uint64, c_void_p, c_size_t, c_void_p],
    "cuMemcpyDtoHAsync_v2": [c_void_p, c_uint64, c_size_t, c_void_p],
}
NON_BLOCKING, GLOBAL = 1, 0
SMALL, LARGE, PINNED = 4096, 1 << 30, 16 << 20
CHAIN = 50
"""Kernels of the longer graph, about as many as a step of two layers has."""


def run(options: Options, say: Say) -> None:
    """Say what each takes.

    Raises:
        Unusable: there is no driver, or it lacks or fails a call.
    """
    if options.device != "cuda":
        raise Unusable("what the driver takes is measured on a GPU alone")
    driver = _Driver()
    for what, work in _works(driver).items():
        say("floor", what=what, seconds=_median(work, options.seconds))
    for what, nbytes, work in _copies(driver):
        say("bandwidth", what=what, bytes_per_second=nbytes / _median(work, options.seconds))


def _works(driver: _Driver) -> dict[str, Callable[[], None]]:
    one, chain = driver.graph(1), driver.graph(CHAIN)

    def kernel() -> None:
        driver.launch()
        driver.wait()

    def kernels() -> None:
        for _ in range(CHAIN):
            driver.launch()
        driver.wait()

    def as_a_run(graph: c_void_p) -> None:
        driver.copy_in(SMALL)
        driver.replay(graph)
        driver.copy_out(SMALL)
        driver.wait()

    def replayed(graph: c_void_p) -> None:
        driver.replay(graph)
        driver.wait()

    return {
        "an empty kernel, and the wait": kernel,
        f"{CHAIN} empty kernels, and the wait": kernels,
        "a graph of 1 empty kernel, and the wait": lambda: replayed(one),
        f"a graph of {CHAIN} empty kernels, and the wait": lambda: replayed(chain),
        RUN: lambda: as_a_run(one),
        f"the same, with {CHAIN} kernels": lambda: as_a_run(chain),
    }


def _copies(driver: _Driver) -> list[tuple[str, int, Callable[[], None]]]:
    def waited(copy: Callable[[int], None], nbytes: int) -> Callable[[], None]:
        def work() -> None:
            copy(nbytes)
            driver.wait()

        return work

    return [
        (ON_DEVICE, 2 * driver.large, waited(driver.copy, driver.large)),
        (TO_DEVICE, PINNED, waited(driver.copy_in, PINNED)),
        (TO_HOST, PINNED, waited(driver.copy_out, PINNED)),
    ]


def _median(work: Callable[[], None], seconds: float) -> float:
    for _ in range(10):
        work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 10 or time.perf_counter() < end:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


class _Driver:
    """A stream of device 0, an empty kernel, and memory to copy. Each call raises Unusable."""

    def __init__(self) -> None:
        self._library = _library()
        device, context = c_int(), c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._stream = self._made("cuStreamCreate", NON_BLOCKING)
        module = self._made("cuModuleLoadData", NOTHING)
        self._kernel = self._made("cuModuleGetFunction", module, b"nothing")
        self._from, self._to = c_uint64(), c_uint64()
        free, total = c_size_t(), c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        self.large = max(PINNED, min(LARGE, free.value // 8))
        """Bytes that are copied on the device, more than its caches hold."""
        for each in (self._from, self._to):
            self._call("cuMemAlloc_v2", ctypes.byref(each), self.large)
        self._host = self._made("cuMemHostAlloc", PINNED, 0)

    def launch(self) -> None:
        """The empty kernel, one thread of it."""
        self._call("cuLaunchKernel", self._kernel, *[1] * 6, 0, self._stream, None, None)

    def graph(self, kernels: int) -> c_void_p:
        """So many of them, one after the other, captured."""
        self._call("cuStreamBeginCapture_v2", self._stream, GLOBAL)
        for _ in range(kernels):
            self.launch()
        graph = c_void_p()
        self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        return self._made("cuGraphInstantiateWithFlags", graph, 0)

    def replay(self, graph: c_void_p) -> None:
        self._call("cuGraphLaunch", graph, self._stream)

    def copy(self, nbytes: int) -> None:
        self._call("cuMemcpyDtoDAsync_v2", self._to, self._from, nbytes, self._stream)

    def copy_in(self, nbytes: int) -> None:
        self._call("cuMemcpyHtoDAsync_v2", self._to, self._host, nbytes, self._stream)

    def copy_out(self, nbytes: int) -> None:
        self._call("cuMemcpyDtoHAsync_v2", self._host, self._to, nbytes, self._stream)

    def wait(self) -> None:
        self._call("cuStreamSynchronize", self._stream)

    def _made(self, name: str, *arguments: Any) -> c_void_p:
        made = c_void_p()
        self._call(name, ctypes.byref(made), *arguments)
        return made

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise Unusable(f"the driver's {name} failed with {code}")


def _library() -> Any:
    try:
        library = ctypes.CDLL("libcuda.so.1")
        for name, arguments in CALLS.items():
            call = getattr(library, name)
            call.argtypes, call.restype = arguments, c_int
    except (OSError, AttributeError) as error:
        raise Unusable(f"the driver cannot be asked: {error}") from error
    return library
