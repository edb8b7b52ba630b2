"""The face on libcudart: every code is looked at and told, and all that was taken comes back."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import numpy as np
import pytest

from server.engine import cuda
from server.engine.cuda import CudaError, CudaStream

SIZE = 64


class Library:
    """A libcudart over the host's memory, which fails what it is told to, as that one would."""

    def __init__(self, **codes: int) -> None:
        self.codes, self.called = codes, list[str]()
        self.held = dict[int, Any]()

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.called.append(name)
            if code := self.codes.get(name, 0):
                return code
            does = vars(Library).get(f"_{name}")
            return does(self, *arguments) if does else 0

        return call

    def cudaGetErrorString(self, code: int) -> bytes:  # noqa: N802
        return f"reason {code}".encode()

    def _cudaMalloc(self, place: Any, nbytes: int, *_: int) -> int:  # noqa: N802
        held = ctypes.create_string_buffer(b"\xff" * nbytes, nbytes)
        self.held[ctypes.addressof(held)] = held
        ctypes.cast(place, ctypes.POINTER(ctypes.c_void_p))[0] = ctypes.addressof(held)
        return 0

    _cudaHostAlloc = _cudaMalloc  # noqa: N815

    def _cudaFree(self, address: int) -> int:  # noqa: N802
        del self.held[address]
        return 0

    _cudaFreeHost = _cudaFree  # noqa: N815

    def _cudaMemcpyAsync(self, to: int, source: int, nbytes: int, *_: int) -> int:  # noqa: N802
        ctypes.memmove(to, source, nbytes)
        return 0

    def _cudaMemsetAsync(self, to: int, value: int, nbytes: int, _: int) -> int:  # noqa: N802
        ctypes.memset(to, value, nbytes)
        return 0


def stream_on(library: Library, monkeypatch: pytest.MonkeyPatch) -> CudaStream:
    monkeypatch.setattr(cuda, "_library", lambda: library)
    return CudaStream(0)


def test_what_goes_in_comes_out_and_memory_begins_zeroed(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = stream_on(Library(), monkeypatch)
    place, back = stream.allocate(SIZE), stream.pinned(SIZE)
    assert not back.any() and ctypes.string_at(place, SIZE) == bytes(SIZE)
    sent = np.arange(SIZE, dtype=np.uint8)
    stream.copy_in(place, sent, 9)
    stream.copy_out(back, place, SIZE)
    stream.wait()
    assert back.tolist() == [*range(9), *[0] * (SIZE - 9)]


@pytest.mark.parametrize("call", ["cudaSetDevice", "cudaStreamCreateWithFlags"])
def test_a_device_that_cannot_be_used_is_told(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CudaError, match=f"^{call} failed with 101: reason 101$"):
        stream_on(Library(**{call: 101}), monkeypatch)


@pytest.mark.parametrize(
    ("call", "does"),
    [
        ("cudaMalloc", lambda stream: stream.allocate(1)),
        ("cudaMemsetAsync", lambda stream: stream.allocate(1)),
        ("cudaHostAlloc", lambda stream: stream.pinned(1)),
        ("cudaFree", lambda stream: stream.free(stream.allocate(1))),
        ("cudaFreeHost", lambda stream: stream.free_pinned(stream.pinned(1))),
        ("cudaMemcpyAsync", lambda stream: stream.copy_in(0, np.zeros(1, np.uint8), 1)),
        ("cudaMemcpyAsync", lambda stream: stream.copy_out(np.zeros(1, np.uint8), 0, 1)),
        ("cudaStreamSynchronize", lambda stream: stream.wait()),
        ("cudaMemGetInfo", lambda stream: stream.free_bytes()),
    ],
)
def test_every_calls_failure_is_told_and_not_left_for_onnxruntime_to_find(
    call: str, does: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(**{call: 700})
    stream = stream_on(library, monkeypatch)
    with pytest.raises(CudaError, match=f"^{call} failed with 700: reason 700$"):
        does(stream)
    assert library.called[-1] == "cudaGetLastError"  # which forgets it


def test_memory_that_is_not_to_be_had_is_told_with_its_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = stream_on(Library(cudaMalloc=cuda.OUT_OF_MEMORY), monkeypatch)
    with pytest.raises(CudaError, match=r"^12,345 bytes more are not to be had"):
        stream.allocate(12_345)


@pytest.mark.parametrize("closed", [True, False])
def test_all_that_was_taken_comes_back(closed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `close`, or because nobody holds the stream any more."""
    library = Library()
    stream = stream_on(library, monkeypatch)
    first, _, pinned = stream.allocate(1), stream.allocate(2), stream.pinned(3)
    stream.free(first)
    assert len(library.held) == 2
    del pinned
    if closed:
        stream.close()
        stream.close()
    else:
        del stream
        gc.collect()
    assert not library.held
    assert library.called.count("cudaStreamDestroy") == 1


def test_without_cuda_loaded_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "PROVIDER", "libnone.so")
    with pytest.raises(CudaError, match=r"^onnxruntime has not loaded CUDA's runtime: "):
        CudaStream(0)
