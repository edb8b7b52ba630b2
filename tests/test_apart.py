"""Claims about our own messages of the Open Inference Protocol, each file in a process of its own:
those of Triton's client, which other tests use, have the same names and cannot be beside them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import ROOT

FILES = sorted((ROOT / "tests").rglob("apart_*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_has_to_be_alone_holds(file: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout
