"""The machine that is measured: its cores, a server on one of them, and when and where that was.

A server has one core and its load another, so that neither takes the other's time.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ROOT = Path(__file__).resolve().parent.parent
READY = re.compile(r"serving grpc=(\S+) ")
START_SECONDS = 60.0


def choose_cores() -> tuple[int, int]:
    """The server's core and the load's; the same one where there is no second."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[-1], cores[0]


@contextmanager
def pinned(*cores: int) -> Iterator[None]:
    """Run on `cores`; threads and processes started meanwhile stay on them."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def kept_busy(core: int) -> Iterator[None]:
    """A process that computes on `core` all the time."""
    with pinned(core):
        process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used so far, all its threads together."""
    # The name, in parentheses, may hold spaces; the fields after it start with the third.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """A process's resident memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def description() -> str:
    """The processor, how many cores this process may use, and how busy the machine is."""
    text = Path("/proc/cpuinfo").read_text()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return f"{names[0] if names else 'unknown'}, {cores} core(s), load average {load:.2f}"


def now() -> str:
    """The minute, for what is printed."""
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


def save(file: Path, when: str, where: str, results: Sequence[DataclassInstance]) -> None:
    """Write results as JSON."""
    document = {"when": when, "machine": where, "results": [asdict(each) for each in results]}
    file.write_text(json.dumps(document, indent=1) + "\n")


@dataclass(frozen=True)
class ServerProcess:
    """A server that has said it serves."""

    pid: int
    address: str

    def cpu_seconds(self) -> float:
        """CPU time it has used so far."""
        return cpu_seconds(self.pid)


@contextmanager
def serving(
    repository: Path,
    core: int,
    *flags: str,
    device: str = "cpu",
    more_cores: Sequence[int] = (),
) -> Iterator[ServerProcess]:
    """A server over `repository` on a free port of the loopback address; it keeps no sessions
    unless `flags` say so.

    Args:
        more_cores: on which it may run as well.

    Raises:
        RuntimeError: it does not start; the message holds its log.
    """
    command = [sys.executable, "-m", "server", "--model-repository", str(repository)]
    command += ["--port", "0", "--metrics-port", "0", "--device", device]
    command += flags or ("--store", "none")
    with started(command, core, *more_cores) as server:
        yield server


@contextmanager
def started(command: Sequence[str], *cores: int) -> Iterator[ServerProcess]:
    """A process that says on stderr where it serves. Raises as `serving`."""
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        with pinned(*cores):
            process = subprocess.Popen(command, stderr=log, cwd=ROOT)
        try:
            yield ServerProcess(process.pid, _await_ready(process, Path(log.name)))
        finally:
            process.terminate()
            process.wait(60)


def _await_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if ready := READY.search(log.read_text()):
            return ready[1]
        time.sleep(0.02)
    raise RuntimeError(f"the server did not start:\n{log.read_text()}")
