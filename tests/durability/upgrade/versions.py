"""Today's code and a commit's, as trees or images, and their clients as processes that stream."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness import ROOT

DOCKER = os.environ.get("DOCKER", "docker")
LABEL = f"tidegate-upgrade={os.getpid()}"
ENTRY = "/venv/bin/python /usr/local/lib/tidegate/entrypoint.py"
STREAMER = Path(__file__).with_name("streamer.py")


@dataclass(frozen=True)
class Version:
    """A tree of code, and how to run it."""

    name: str
    folder: Path
    image: str = ""
    """What its servers run from, if not from the folder; clients always do."""

    def serves(self, models: Path) -> tuple[str, ...]:
        """A command that runs a server with this version, whichever Python it is told."""
        if not self.image:
            return self.before
        # By sh, which is told `python -m server ...`, as process 1 of its own.
        return (
            DOCKER, "run", "--rm", "--network=host", "--read-only", "--cap-drop=ALL",
            f"--label={LABEL}", f"--volume={models}:{models}:ro", "--tmpfs=/tmp",
            "--env=TIDEGATE_HOST=127.0.0.1", "--env=TIDEGATE_HEALTH_PORT=0",
            "--entrypoint=/bin/sh", self.image, "-c", f'shift 2; exec {ENTRY} "$@"',
        )  # fmt: skip

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


def remove_containers() -> None:
    """Those of servers that did not end by themselves."""
    command = [DOCKER, "ps", "--all", "--quiet", f"--filter=label={LABEL}"]
    if left := subprocess.run(command, capture_output=True, text=True, check=True).stdout.split():
        subprocess.run([DOCKER, "rm", "--force", *left], stdout=subprocess.DEVNULL, check=True)


def extracted(commit: str, folder: Path, image: str = "") -> Version:
    """The code of a commit."""
    command = ["git", "-C", str(ROOT), "archive", commit]
    told = subprocess.run(command, capture_output=True, check=False)
    if told.returncode:
        print(f"{commit} is not in this repository's history: {told.stderr.decode().strip()}")
        sys.exit(2)
    with tarfile.open(fileobj=io.BytesIO(told.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return Version(commit, folder, image)


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
