"""Runs a real server process for tests, and the small models it serves."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import forked
from training.bundle import random_bundle
from training.network import Network, random_network

ROOT = forked.ROOT
DATA = tempfile.mkdtemp(prefix="tidegate-data-")
"""Where servers keep their sessions, each in a folder of its own; gone with the tests' process."""
atexit.register(shutil.rmtree, DATA, ignore_errors=True)
READY = re.compile(r"serving grpc=(\S+) metrics=(\S+) device=")


@dataclass
class RunningServer:
    """A server process that has said it serves."""

    process: subprocess.Popen[bytes]
    log_file: Path
    address: str
    metrics_url: str

    def log(self) -> str:
        """What the process wrote so far."""
        return self.log_file.read_text()

    def metrics(self) -> str:
        """The metrics page."""
        with urllib.request.urlopen(self.metrics_url, timeout=5) as page:
            text: str = page.read().decode()
        return text

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        total = 0.0
        for line in self.metrics().splitlines():
            wanted = all(f'{key}="{value}"' in line for key, value in labels.items())
            if wanted and re.match(rf"{name}[{{ ]", line):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def terminate(self, timeout: float = 20) -> int:
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


def start(
    repository: Path, *flags: str, code: str = "", before: Sequence[str] = ()
) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a server on free ports, without waiting for it; returns it and its log. `code` may
    stand in place of its main module; `before` is a command that runs it."""
    words = ["--model-repository", str(repository), *([] if "--port" in flags else ["--port", "0"])]
    words += ["--metrics-port", "0", *flags]
    if not {"--store", "--data-folder"} & set(flags):  # sessions of its own
        words += ["--data-folder", tempfile.mkdtemp(dir=DATA)]
    with tempfile.NamedTemporaryFile(suffix=".log", delete=False) as log:
        if not before:
            own = ["-c", code, *words] if code else ["server", *words]
            return forked.Forked(own, stderr=log, cwd=ROOT), Path(log.name)
        main = ["-c", code] if code else ["-m", "server"]
        command = [*before, sys.executable, *main, *words]
        return subprocess.Popen(command, stderr=log, cwd=ROOT), Path(log.name)


def await_ready(process: subprocess.Popen[bytes], log: Path, seconds: float = 30) -> RunningServer:
    """Wait until the server says that it serves."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if ready := READY.search(log.read_text()):
            address, metrics = ready.groups()
            return RunningServer(process, log, address, f"http://{metrics}/metrics")
        if process.poll() is not None:
            break
        time.sleep(0.02)
    process.kill()
    process.wait()
    raise RuntimeError(f"the server did not start:\n{log.read_text()}")


@contextmanager
def running_server(repository: Path, code: str = "", /, **flags: object) -> Iterator[RunningServer]:
    """A server over `repository`; flags by name, e.g. `session_ttl=0.5`; `code` as in `start`."""
    words = [w for k, v in flags.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    process, log = start(repository, *words, code=code)
    try:
        yield await_ready(process, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        log.unlink()


def freeze(process: subprocess.Popen[bytes]) -> None:
    """SIGSTOP: it does nothing, and its connections stay. The signal alone is not enough: it
    reaches one thread, and on a busy machine the others work on until that one is run, so wait
    until the kernel tells the parent that all have stopped."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def thaw(process: subprocess.Popen[bytes]) -> None:
    """SIGCONT: it goes on where it was frozen."""
    process.send_signal(signal.SIGCONT)


def small_model(repository: Path, name: str = "small", version: int = 1, seed: int = 7) -> Network:
    """Write a bundle of a small LSTM (5 features, 2x12 units, 3 outputs); returns its weights."""
    weights = random_network(5, 12, 2, 3, seed=seed, softmax=False)
    random_bundle(repository / name / str(version), weights)
    return weights
