"""Runs the command `tidegate` as users do."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.harness import ROOT, RunningServer
from tidegate import SyncClient


def words(*given: object) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "tidegate", *map(str, given)]


def tidegate(*given: object, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run to the end; what it wrote is text."""
    done = tidegate_bytes(*given, stdin=stdin)
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def tidegate_bytes(
    *given: object, stdin: bytes = b"", folder: Path = ROOT
) -> subprocess.CompletedProcess[bytes]:
    """Run to the end, in that folder."""
    return subprocess.run(
        words(*given), input=stdin, capture_output=True, timeout=120, cwd=folder, env=None
    )


@contextmanager
def started(*given: object) -> Iterator[subprocess.Popen[bytes]]:
    """Start it; it is killed at the end, if it is there still."""
    pipe = subprocess.PIPE
    with subprocess.Popen(words(*given), stdout=pipe, stderr=pipe, cwd=ROOT) as run:
        try:
            yield run
        finally:
            run.kill()


def live_sessions(server: RunningServer, model: str = "exercise") -> list[str]:
    """The ids of the model's live sessions."""
    with SyncClient(server.address) as client:
        return [session.session_id for session in client.sessions(model)]


def bench(server: RunningServer, *given: object) -> dict[str, Any]:
    """The figures of `tidegate bench exercise`."""
    done = tidegate("bench", "exercise", "--address", server.address, "--json", *given)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def eventually(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.05)
