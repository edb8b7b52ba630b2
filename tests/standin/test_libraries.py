"""The stand-ins are what onnxruntime's CUDA provider links to, and keep CUDA's rules where a
program could break them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from tests.standin.libraries import LIBRARIES, build, run
from tests.standin.trace import (
    Allocation,
    Captured,
    Copy,
    Launch,
    Refusal,
    Replay,
    Sync,
    Trace,
)

PROVIDER = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
# What the provider asks cuDNN for by name, and no recurrent graph needs.
NOT_OFFERED = re.compile("cudnn(Backend|BatchNorm|.*Convolution|DeriveBN|.*LRN|.*Pooling)")
# In programs: CUDA's calls, each of which must succeed unless it is asked with `status`.
PREAMBLE = """
import ctypes, json, sys, threading
from tests.standin.trace import RUNTIME, part
lib = ctypes.CDLL(RUNTIME)
size, pointer = ctypes.c_size_t, ctypes.c_void_p
def status(name, *given):
    given = [pointer(g) if isinstance(g, int) and g > 2**31 else g for g in given]
    return getattr(lib, name)(*given)
def call(name, *given):
    got = status(name, *given)
    assert got == 0, (name, got)
def made(name, *given):
    value = pointer()
    call(name, ctypes.byref(value), *given)
    return value.value
def elsewhere(*given):
    found = []
    thread = threading.Thread(target=lambda: found.append(status(*given)))
    thread.start(); thread.join()
    return found[0]
NONBLOCKING, H2D, D2H = 1, 1, 2
"""
Program = Callable[..., tuple[Trace, Any]]


@pytest.fixture
def program(libraries: Path, tmp_path: Path) -> Program:
    """Runs calls of CUDA's in a process of their own; its trace, and what it printed as JSON."""

    def runs(code: str, **settings: object) -> tuple[Trace, Any]:
        trace, printed = run(libraries, tmp_path, "-c", PREAMBLE + code, **settings)
        return trace, json.loads(printed)

    return runs


def symbols(library: Path, which: str) -> set[str]:
    """Names of a library's dynamic symbols: "--defined-only" or "--undefined-only"."""
    command = ["nm", "--dynamic", "--format=just-symbols", which, str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {line.partition("@")[0] for line in done.stdout.splitlines()}


def texts(library: Path, beginning: bytes) -> Iterator[str]:
    """The texts in a library that begin so; it is large, and is not read whole."""
    with library.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        at = content.find(b"\0" + beginning)
        while at >= 0:
            yield content[at + 1 : content.find(b"\0", at + 1)].decode(errors="replace")
            at = content.find(b"\0" + beginning, at + 1)


def offered(libraries: Path) -> set[str]:
    return set().union(*(symbols(libraries / each, "--defined-only") for each in LIBRARIES))


def test_every_symbol_that_the_provider_links_to_is_there(libraries: Path) -> None:
    linked = {
        name
        for name in symbols(PROVIDER, "--undefined-only")
        if re.match("(__)?cu[A-Z]|(__)?(cuda|cublas|cublasLt|curand|cufft|cudnn|nvrtc)[A-Z]", name)
    }
    assert {"cudaLaunchKernel", "cublasSgemm_v2", "cublasLtMatmul"} <= linked
    assert not linked - offered(libraries)


def test_what_the_provider_asks_cudnn_for_by_name_is_there_but_for_convolutions_and_such(
    libraries: Path,
) -> None:
    asked = {text for text in texts(PROVIDER, b"cudnn") if re.fullmatch(r"cudnn[A-Z]\w+", text)}
    assert {"cudnnRNNForward", "cudnnCreate"} <= asked
    absent = asked - offered(libraries)
    assert not [name for name in absent if not NOT_OFFERED.match(name)]


def test_processes_that_build_at_once_share_one_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(build, [tmp_path, tmp_path])
    assert first == second
    assert list(tmp_path.iterdir()) == [first]
    assert set(LIBRARIES) <= {each.name for each in first.iterdir()}


def test_without_gcc_they_fail_and_say_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="need gcc: make tools installs it"):
        build(tmp_path)


def test_copies_are_real_and_told_by_where_their_ends_lie(program: Program) -> None:
    trace, came_back = program("""
device, pinned = made("cudaMalloc", size(64)), made("cudaHostAlloc", size(64), 0)
pageable = ctypes.create_string_buffer(b"moved", 64)
with part("copies"):
    call("cudaMemcpy", device, ctypes.addressof(pageable), size(64), H2D)
    call("cudaMemcpyAsync", pinned, device, size(32), D2H, None)
    call("cudaStreamSynchronize", None)
print(json.dumps(ctypes.string_at(pinned).decode()))
""")
    assert came_back == "moved"
    copies = trace.part("copies")
    told = [(c.function, c.bytes, c.source, c.target, c.pageable) for c in copies.of(Copy)]
    assert told == [
        ("cudaMemcpy", 64, "pageable", "device", True),
        ("cudaMemcpyAsync", 32, "device", "pinned", False),
    ]
    assert [sync.function for sync in copies.of(Sync)] == ["cudaStreamSynchronize"]
    assert [(each.place, each.bytes) for each in trace.of(Allocation)] == [
        ("device", 64), ("pinned", 64),
    ]  # fmt: skip


def test_the_device_has_as_much_memory_as_it_is_told(program: Program) -> None:
    _, (first, second, free, after) = program(
        """
free, total = size(), size()
at = pointer()
found = [status("cudaMalloc", ctypes.byref(at), size(n)) for n in (600, 600)]
call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
found.append([free.value, total.value])
freed = pointer(at.value)
at = made("cudaMalloc", size(400))
call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
print(json.dumps([*found, free.value]))
""",
        memory=1000,
    )
    assert (first, second) == (0, 2)  # the second: cudaErrorMemoryAllocation
    assert free == [400, 1000]
    assert after == 0


def test_a_captured_stream_s_work_is_done_when_its_graph_is_launched(program: Program) -> None:
    trace, seen = program("""
from ctypes import c_uint
class Dim3(ctypes.Structure):
    _fields_ = [(n, c_uint) for n in "xyz"]
lib.cudaLaunchKernel.argtypes = [pointer, Dim3, Dim3, pointer, size, pointer]
stream = made("cudaStreamCreateWithFlags", NONBLOCKING)
device, pinned = made("cudaMalloc", size(8)), made("cudaHostAlloc", size(8), 0)
with part("capture"):
    call("cudaStreamBeginCapture", stream, 0)
    call("cudaMemcpyAsync", device, pinned, size(8), H2D, stream)
    lib.cudaLaunchKernel(None, Dim3(2, 3, 1), Dim3(32, 1, 1), None, 0, stream)
    graph, exec = pointer(), pointer()
    call("cudaStreamEndCapture", stream, ctypes.byref(graph))
call("cudaGraphInstantiate", ctypes.byref(exec), graph, ctypes.c_ulonglong(0))
seen = []
ctypes.memmove(pinned, b"now", 4)
seen.append(ctypes.string_at(device).decode())
with part("replay"):
    call("cudaGraphLaunch", exec, stream)
seen.append(ctypes.string_at(device).decode())
print(json.dumps(seen))
""")
    assert seen == ["", "now"]
    capture = trace.part("capture")
    assert not [*capture.launches, *capture.copies]
    assert [(each.threads, each.captured) for each in capture.of(Launch)] == [(192, True)]
    assert [(each.nodes, each.lost) for each in capture.of(Captured)] == [(2, False)]
    (replay,) = trace.part("replay").calls
    assert isinstance(replay, Replay)
    assert (replay.launches, replay.copies) == (1, 1)


@pytest.mark.parametrize(
    ("mode", "spoiling", "ends_with"),
    [
        (0, 'elsewhere("cudaMalloc", ctypes.byref(pointer()), size(8))', (900, 901)),
        (1, 'elsewhere("cudaMalloc", ctypes.byref(pointer()), size(8))', (0, 0)),
        (1, 'status("cudaMalloc", ctypes.byref(pointer()), size(8))', (900, 901)),
        (0, 'status("cudaStreamSynchronize", stream)', (900, 901)),
        (0, 'elsewhere("cudaDeviceSynchronize")', (900, 901)),
        (0, 'elsewhere("cudaStreamEndCapture", stream, ctypes.byref(pointer()))', (908, 0)),
    ],
)
def test_what_cuda_forbids_while_a_stream_is_captured_is_refused(
    program: Program, mode: int, spoiling: str, ends_with: tuple[int, int]
) -> None:
    """Its numbers: 900 unsupported, 901 the capture is lost, 908 the wrong thread."""
    trace, ended = program(f"""
stream = made("cudaStreamCreateWithFlags", NONBLOCKING)
call("cudaStreamBeginCapture", stream, {mode})
first = {spoiling}
print(json.dumps([first, status("cudaStreamEndCapture", stream, ctypes.byref(pointer()))]))
""")
    assert tuple(ended) == ends_with
    assert bool(trace.of(Refusal)) == (ends_with[0] == 900)


def test_a_log_is_cut_at_the_parts_that_the_program_names(tmp_path: Path) -> None:
    log = tmp_path / "log"
    lines = ["begin a", None, "end a", "begin b", "end b", "begin b", "end b"]
    mark = '{"thread": 1, "call": "mark", "text": "%s"}\n'
    sync = '{"thread": 2, "call": "sync", "function": "cudaDeviceSynchronize", "stream": 0}\n'
    log.write_text("".join(sync if line is None else mark % line for line in lines))
    trace = Trace.read(log)
    assert trace.part("a").calls == (Sync(2, "cudaDeviceSynchronize", 0),)
    assert trace.threads == {1, 2}
    for name in ("b", "c"):
        with pytest.raises(ValueError, match=r"[20] parts are named"):
            trace.part(name)
    log.write_text('{"thread": 1, "call": "unheard of"}\n')
    with pytest.raises(KeyError):
        Trace.read(log)
