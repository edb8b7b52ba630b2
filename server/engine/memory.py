"""How much memory is free for a model, and how a model that wants more is kept from taking it.

The host's is what the kernel calls available, or less where the process is in a control group with
a limit, as in a container. States lie on the device; all else lies on the host.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from server.engine.device import Device
from server.engine.gate import gate

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
_limiting = threading.Lock()


def free_on(device: Device) -> int | None:
    """Bytes free where a device's states lie; None where nobody can tell."""
    if device.kind == "cpu":
        return free_on_host()
    with gate:
        return _free_on_gpu(device.index)


def free_on_host(proc: Path = PROC, cgroup: Path = CGROUP) -> int | None:
    """Bytes that this process may take of the host's memory; None where nobody can tell."""
    available = _number(r"MemAvailable:\s+(\d+) kB", proc / "meminfo")
    found = [] if available is None else [available * 1024]
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, kinds, place = line.split(":", 2)
        if not kinds:
            names = "memory.max", "memory.current", r"^inactive_file (\d+)"
            found += _free_in_groups(cgroup, place, *names)
        elif "memory" in kinds.split(","):
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", r"^total_inactive_file (\d+)"
            found += _free_in_groups(cgroup / "memory", place, *names)
    return min(found, default=None)


def touched() -> int:
    """Bytes of this process's own that are in use: promised memory is so once it was written."""
    return (_number(r"RssAnon:\s+(\d+) kB", PROC / "self" / "status") or 0) * 1024


@contextmanager
def at_most(more: int | None) -> Iterator[None]:
    """Meanwhile the process's memory grows by no more than that: who asks for it is told that there
    is none (MemoryError, or an error of onnxruntime), in place of the kernel killing the process.
    """
    with _limiting:
        has = _number(r"VmData:\s+(\d+) kB", PROC / "self" / "status")
        if resource is None or more is None or has is None:
            yield
            return
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limits = [has * 1024 + more, *(each for each in (soft, hard) if each >= 0)]
        resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _free_in_groups(root: Path, place: str, most: str, used: str, cached: str) -> list[int]:
    """What each group from `place` up to the root leaves; within a container `place` may be as the
    host calls it, and the root is the container's own."""
    folders = [root / place.strip("/"), *(root / place.strip("/")).parents]
    found = []
    for folder in folders[: folders.index(root) + 1]:
        limit, use = _number(r"^(\d+)$", folder / most), _number(r"^(\d+)$", folder / used)
        if limit is not None and use is not None:
            reclaimed = _number(cached, folder / "memory.stat") or 0
            found.append(max(0, limit - use + reclaimed))
    return found


def _free_on_gpu(index: int) -> int | None:
    """As the driver tells; None where it does not."""
    with suppress(OSError, AttributeError):
        driver = ctypes.CDLL("libcuda.so.1")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), index):
            return None
        if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
            return None
        try:
            if driver.cuCtxPushCurrent_v2(context):
                return None
            failed = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
            driver.cuCtxPopCurrent_v2(ctypes.byref(context))
            return None if failed else free.value
        finally:
            driver.cuDevicePrimaryCtxRelease_v2(device)
    return None


def _number(pattern: str, path: Path) -> int | None:
    found = re.search(pattern, _text(path), re.MULTILINE)
    return int(found[1]) if found else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""
