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

from tests import forked
from tests.harness import ROOT, RunningServer
from tidegate import SyncClient


def words(*given: object) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "tidegate", *map(str, given)]


def start(*given: object, stdin: int | None = None, folder: Path = ROOT) -> subprocess.Popen[bytes]:
    """Start it in that folder, with what it writes in pipes."""
    command, pipe = ["tidegate", *map(str, given)], subprocess.PIPE
    return forked.Forked(command, stdin=stdin, stdout=pipe, stderr=pipe, cwd=folder)


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
    with start(*given, stdin=subprocess.PIPE, folder=folder) as run:
        try:
            written = run.communicate(stdin, timeout=120)
        finally:
            run.kill()
    return subprocess.CompletedProcess(run.args, run.returncode, *written)


@contextmanager
def started(*given: object) -> Iterator[subprocess.Popen[bytes]]:
    """Start it; it is killed at the end, if it is there still."""
    with start(*given) as run:
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
