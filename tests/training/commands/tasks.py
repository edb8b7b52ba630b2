"""Tables whose states need memory, and the command that learns them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.harness import ROOT
from tests.training.tables import write_recipe, write_table
from training.__main__ import main


def delayed(sessions: int = 12, steps: int = 40, seed: int = 0) -> list[list[Any]]:
    """The state is the sign of the load two steps before."""
    rng = np.random.default_rng(seed)
    table: list[list[Any]] = []
    for session in range(sessions):
        loads = rng.normal(size=steps + session % 3 * 7).round(3)
        for t, load in enumerate(loads.tolist()):
            state = "up" if t >= 2 and loads[t - 2] > 0 else "down"
            table.append([f"d{session}", t, load, "abc"[t % 3], state])
    return table


def config_of(folder: Path, table: list[list[Any]] | None = None) -> Path:
    """A recipe beside its table."""
    return write_recipe(write_table(folder / "t.csv", table or delayed()))


def words(config: Path, folder: Path, *overrides: str) -> list[str]:
    """The arguments of `fit`; bundle and run lie in `folder`."""
    sets = [word for each in overrides for word in ("--set", each)]
    out = folder / "models" / "devices" / "1"
    return ["fit", str(config), *sets, "--out", str(out), "--runs", str(folder / "runs"), "--quiet"]


def fit(config: Path, folder: Path, *overrides: str, more: tuple[str, ...] = ()) -> Path:
    """Fit in this process; the bundle."""
    assert main([*words(config, folder, *overrides), *more]) == 0
    return folder / "models" / "devices" / "1"


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    """The command in a process group of its own."""
    command = [sys.executable, "-m", "training", *arguments]
    return subprocess.Popen(command, cwd=ROOT, start_new_session=True)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the whole group with -9."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


def await_file(path: Path, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    """Until it exists; the process must not have ended."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.01)
