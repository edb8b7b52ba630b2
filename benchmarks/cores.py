"""Gives the server one core and its load another, so that neither takes the other's time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def choose() -> tuple[int, int]:
    """The server's core and the load's; the same one where there is no second."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[-1], cores[0]


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Run on `core`; threads and processes started meanwhile stay on it."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used so far, all its threads together."""
    # The name, in parentheses, may hold spaces; the fields after it start with the third.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine() -> str:
    """The processor, how many cores this process may use, and how busy the machine is."""
    text = Path("/proc/cpuinfo").read_text()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return f"{names[0] if names else 'unknown'}, {cores} core(s), load average {load:.2f}"
