"""A server in a process of its own, on a core of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cores import cpu_seconds, pinned

ROOT = Path(__file__).resolve().parent.parent
READY = re.compile(r"serving grpc=(\S+) ")
START_SECONDS = 60.0


@dataclass(frozen=True)
class ServerProcess:
    """A server that has said it serves."""

    pid: int
    address: str

    def cpu_seconds(self) -> float:
        """CPU time it has used so far."""
        return cpu_seconds(self.pid)


@contextmanager
def serving(repository: Path, core: int) -> Iterator[ServerProcess]:
    """A CPU server over `repository` on a free port of the loopback address.

    Raises:
        RuntimeError: it does not start; the message holds its log.
    """
    command = [sys.executable, "-m", "server", "--model-repository", str(repository)]
    command += ["--port", "0", "--metrics-port", "0", "--device", "cpu"]
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        with pinned(core):
            process = subprocess.Popen(command, stderr=log, cwd=ROOT)
        try:
            yield ServerProcess(process.pid, _await_ready(process, Path(log.name)))
        finally:
            process.terminate()
            process.wait(30)


def _await_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if ready := READY.search(log.read_text()):
            return ready[1]
        time.sleep(0.02)
    raise RuntimeError(f"the server did not start:\n{log.read_text()}")
