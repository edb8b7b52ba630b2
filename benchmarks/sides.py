"""The sides of the clients' comparison: a server, a client, and one measured window of both."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.cores import pinned
from benchmarks.models import H64
from benchmarks.witness import WrongAnswer
from training.reference import NumpyNetwork

ROOT = Path(__file__).resolve().parent.parent
TRITON_PYTHON = ROOT / ".venv-triton/bin/python"
MORE_SECONDS = 60.0


class Server(Protocol):
    """Something that serves h64."""

    @property
    def address(self) -> str:
        """HOST:PORT."""

    def cpu_seconds(self) -> float:
        """CPU time it has used so far."""


@dataclass(frozen=True)
class Side:
    """A client library against the server it is made for."""

    name: str
    backend: str
    command: tuple[str, ...]
    """The load's process; ADDRESS, SESSIONS, SECONDS and SEED follow, after `way`."""
    way: tuple[str, ...]
    tolerance: float


OURS = Side(
    "tidegate.Client", "onnxruntime", (sys.executable, "-m", "benchmarks.coalesced"), (), 1e-5
)
TRITON = tuple(
    Side(
        f"tritonclient.grpc.aio, {way}",
        "Python (numpy)",
        (str(TRITON_PYTHON), str(ROOT / "benchmarks/triton/driver.py")),
        (way,),
        1e-4,
    )
    for way in ("unary", "stream")
)


@dataclass(frozen=True)
class Window:
    """What one window showed. Times are in microseconds."""

    rate: float
    p50: float
    p99: float
    client_cpu: float
    server_cpu: float
    checked: int


def measure(
    side: Side, server: Server, sessions: int, seconds: float, seed: int, core: int
) -> Window:
    """One window with a client process of its own on `core`, its answers checked.

    Raises:
        WrongAnswer: an output of the followed session is not the NumPy LSTM's.
        RuntimeError: the load failed.
    """
    words = [*side.command, server.address, *side.way, str(sessions), str(seconds), str(seed)]
    if not side.way:
        words = [*side.command, server.address, str(sessions), str(seconds), str(seed)]
    with pinned(core):
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        _await(process, "begin")
        used = server.cpu_seconds()
        _await(process, "end")
        used = server.cpu_seconds() - used
        output, _ = process.communicate(timeout=MORE_SECONDS)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise RuntimeError(f"{side.name} with {sessions} sessions failed")
    return _window(json.loads(output), used, side.tolerance)


def _await(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    if process.stdout.readline().strip() != word:
        raise RuntimeError(f"the load ended before its window's {word}: {process.args!r}")


def _window(report: dict[str, Any], used: float, tolerance: float) -> Window:
    steps = report["steps"]
    p50, p99 = np.percentile(report["latencies"], [50, 99]) * 1e6
    return Window(
        rate=steps / report["seconds"],
        p50=float(p50),
        p99=float(p99),
        client_cpu=1e6 * report["cpu"] / steps,
        server_cpu=1e6 * used / steps,
        checked=_check(report["inputs"], report["outputs"], tolerance),
    )


def _check(inputs: Sequence[Any], outputs: Sequence[Any], tolerance: float) -> int:
    """Compare the followed session's first steps with the equations."""
    if not outputs:
        raise WrongAnswer("no step was answered")
    given = np.array(outputs, np.float32)
    observations = np.resize(np.array(inputs, np.float32), (len(given), H64.inputs))
    model = NumpyNetwork(H64.weights())
    expected = model.run(observations, model.initial())[0]
    error = np.abs(given - expected).max(axis=1)
    if not error.max() <= tolerance:
        raise WrongAnswer(f"step {int(error.argmax())} is off by {error.max():.2g}")
    return len(given)
