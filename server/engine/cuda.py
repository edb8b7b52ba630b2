"""libcudart, as far as an engine needs it: a stream of one device, memory there, copies in order.

A thin face: every call's code is looked at, and what went wrong is told as a sentence. The library
is the very one that onnxruntime's CUDA provider has loaded, since symbols are looked up through the
provider; another copy of it would have devices and streams of its own.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import capi

from server.engine.gate import gate

Bytes = NDArray[np.uint8]

PROVIDER = "libonnxruntime_providers_cuda.so"
NON_BLOCKING = 1  # the stream neither waits for the default one nor holds it up
UNTIMED = 2  # an event that only says what is done costs less
TO_DEVICE, TO_HOST = 1, 2
OUT_OF_MEMORY = 2
NOT_READY = 600
CALLS: dict[str, list[Any]] = {
    "cudaGetDevice": [POINTER(c_int)],
    "cudaSetDevice": [c_int],
    "cudaStreamCreateWithFlags": [POINTER(c_void_p), c_uint],
    "cudaStreamDestroy": [c_void_p],
    "cudaStreamSynchronize": [c_void_p],
    "cudaEventCreateWithFlags": [POINTER(c_void_p), c_uint],
    "cudaEventRecord": [c_void_p, c_void_p],
    "cudaEventSynchronize": [c_void_p],
    "cudaEventQuery": [c_void_p],
    "cudaEventDestroy": [c_void_p],
    "cudaMalloc": [POINTER(c_void_p), c_size_t],
    "cudaFree": [c_void_p],
    "cudaHostAlloc": [POINTER(c_void_p), c_size_t, c_uint],
    "cudaFreeHost": [c_void_p],
    "cudaMemsetAsync": [c_void_p, c_int, c_size_t, c_void_p],
    "cudaMemcpyAsync": [c_void_p, c_void_p, c_size_t, c_int, c_void_p],
    "cudaMemGetInfo": [POINTER(c_size_t), POINTER(c_size_t)],
    "cudaGetLastError": [],
}
"""What is called, and with what; each returns a code, 0 where all is well."""


class CudaError(RuntimeError):
    """A call of CUDA failed; the message says which and why."""


class CudaStream:
    """One stream of device `index`; whatever is asked of it happens in that order.

    What it has allocated it gives back by `close`, or when nobody holds it any more.

    Raises:
        CudaError: any call does, if CUDA fails it.
    """

    def __init__(self, index: int) -> None:
        self._library, self._index = _library(), index
        self._device, self._host, self._events = set[int](), set[int](), set[int]()
        self.use()
        handle = c_void_p()
        self._call("cudaStreamCreateWithFlags", ctypes.byref(handle), NON_BLOCKING)
        self.handle = int(handle.value or 0)
        """As onnxruntime takes it for its `user_compute_stream`."""
        self._end = weakref.finalize(
            self,
            _give_back,
            self._library,
            index,
            self.handle,
            self._device,
            self._host,
            self._events,
        )
        self._end.atexit = False  # the driver takes back what a process had

    def use(self) -> None:
        """What this thread calls from now on is for this device."""
        self._call("cudaSetDevice", self._index)

    def allocate(self, nbytes: int) -> int:
        """The address of that much of the device's memory, zeroed."""
        address = self._allocated("cudaMalloc", nbytes)
        self._device.add(address)
        self._call("cudaMemsetAsync", address, 0, nbytes, self.handle)
        return address

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""
        self._device.remove(address)
        self._call("cudaFree", address)

    def pinned(self, nbytes: int) -> Bytes:
        """That much of the host's memory, which the device reads and writes by itself. Nobody may
        look at it after `free_pinned` or `close`."""
        address = self._allocated("cudaHostAlloc", nbytes, 0)
        self._host.add(address)
        whole = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
        whole[:] = 0
        return whole

    def free_pinned(self, memory: Bytes) -> None:
        """Give back what `pinned` gave."""
        self._host.remove(memory.ctypes.data)
        self._call("cudaFreeHost", memory.ctypes.data)

    def copy_in(self, device: int, host: Bytes, nbytes: int) -> None:
        """To the device. The host's memory must stay as it is until that is waited for."""
        self._copy(device, host.ctypes.data, nbytes, TO_DEVICE)

    def copy_out(self, host: Bytes, device: int, nbytes: int) -> None:
        """To the host, where it is to be found once it is waited for."""
        self._copy(host.ctypes.data, device, nbytes, TO_HOST)

    def wait(self) -> None:
        """Until all that was asked for is done."""
        self._call("cudaStreamSynchronize", self.handle)

    def event(self) -> int:
        """What may stand for a moment in the stream."""
        found = c_void_p()
        self._call("cudaEventCreateWithFlags", ctypes.byref(found), UNTIMED)
        self._events.add(int(found.value or 0))
        return int(found.value or 0)

    def record(self, event: int) -> None:
        """From now on it stands for this moment: all that was asked for before."""
        self._call("cudaEventRecord", event, self.handle)

    def wait_for(self, event: int) -> None:
        """Until all that was asked for before its moment is done; what came after may go on."""
        self._call("cudaEventSynchronize", event)

    def has_come(self, event: int) -> bool:
        """Whether that is done."""
        code = self._library.cudaEventQuery(event)
        if code != NOT_READY:
            self._check("cudaEventQuery", code)
        return bool(code != NOT_READY)

    def is_lost(self) -> bool:
        """Whether the device has failed in such a way that it answers this process no more."""
        try:
            self.wait()
        except CudaError:
            return True
        return False

    def free_bytes(self) -> int:
        """What is free on the device now, whoever has the rest."""
        free, total = c_size_t(), c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def close(self) -> None:
        """Give everything back; nothing can be asked for any more."""
        self._end()

    def _allocated(self, name: str, nbytes: int, *more: int) -> int:
        found = c_void_p()
        self._call(name, ctypes.byref(found), nbytes, *more, of=nbytes)
        return int(found.value or 0)

    def _copy(self, to: int, source: int, nbytes: int, kind: int) -> None:
        self._call("cudaMemcpyAsync", to, source, nbytes, kind, self.handle)

    def _call(self, name: str, *arguments: Any, of: int = 0) -> None:
        self._check(name, getattr(self._library, name)(*arguments), of)

    def _check(self, name: str, code: int, of: int = 0) -> None:
        if not code:
            return
        self._library.cudaGetLastError()  # or onnxruntime would take it for its own
        text = self._library.cudaGetErrorString(code) or b"unknown error"
        if code == OUT_OF_MEMORY and of:
            raise CudaError(f"{of:,} bytes more are not to be had ({name}: {text.decode()})")
        raise CudaError(f"{name} failed with {code}: {text.decode()}")


def _library() -> Any:
    """The libcudart that onnxruntime uses, with types for what is called."""
    provider = Path(capi.__file__).parent / PROVIDER
    try:
        library = ctypes.CDLL(str(provider), mode=os.RTLD_NOLOAD)
        for name, arguments in CALLS.items():
            call = getattr(library, name)
            call.argtypes, call.restype = arguments, c_int
        library.cudaGetErrorString.argtypes = [c_int]
        library.cudaGetErrorString.restype = c_char_p
    except (OSError, AttributeError) as error:
        raise CudaError(f"onnxruntime has not loaded CUDA's runtime: {error}") from error
    return library


def _give_back(
    library: Any, index: int, stream: int, device: set[int], host: set[int], events: set[int]
) -> None:  # by whoever lets go last; there is nobody to tell of a failure
    with gate, _device_of(library, index):
        library.cudaStreamSynchronize(stream)
        for address in device:
            library.cudaFree(address)
        for address in host:
            library.cudaFreeHost(address)
        for event in events:
            library.cudaEventDestroy(event)
        library.cudaStreamDestroy(stream)
    for given_back in (device, host, events):
        given_back.clear()


@contextmanager
def _device_of(library: Any, index: int) -> Iterator[None]:
    """Meanwhile this thread's calls are for that device."""
    before = c_int()
    library.cudaGetDevice(ctypes.byref(before))
    library.cudaSetDevice(index)
    try:
        yield
    finally:
        library.cudaSetDevice(before)
