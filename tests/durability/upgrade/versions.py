"""Trees of code, today's and a commit's, and their clients as processes that stream."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness import ROOT

STREAMER = Path(__file__).with_name("streamer.py")


@dataclass(frozen=True)
class Version:
    """A tree of code, and how to run it."""

    name: str
    folder: Path

    @property
    def before(self) -> tuple[str, ...]:
        """A command that runs another one with this code."""
        return ("env", "-C", str(self.folder), f"PYTHONPATH={self.folder}")

    def check(self) -> None:
        """The server that will run is this one, and no other that is installed."""
        code = "import server, tidegate; print(server.__file__, tidegate.__file__)"
        command = [*self.before, sys.executable, "-c", code]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if any(not Path(each).is_relative_to(self.folder) for each in told.split()):
            sys.exit(f"{self.name} would run {told}")


def extracted(commit: str, folder: Path) -> Version:
    """The code of a commit."""
    command = ["git", "-C", str(ROOT), "archive", commit]
    told = subprocess.run(command, capture_output=True, check=False)
    if told.returncode:
        print(f"{commit} is not in this repository's history: {told.stderr.decode().strip()}")
        sys.exit(2)
    with tarfile.open(fileobj=io.BytesIO(told.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return Version(commit, folder)


class Stream:
    """A process that streams sessions through a version's client library."""

    def __init__(self, version: Version, address: str, weights: Path, sessions: int) -> None:
        self.version = version
        command = [*version.before, sys.executable, str(STREAMER), address]
        command += [f"by-{version.name}", str(weights), str(sessions)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def ask(self, line: str) -> Any:
        """What the streamer answers to a line; the program ends here if it has failed."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        if not (told := self.process.stdout.readline()):
            self.process.wait()
            print(f"the client of {self.version.name} failed")
            sys.exit(1)
        return json.loads(told)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
