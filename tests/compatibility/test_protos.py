"""`make protos-check` finds what would break callers of a released protocol."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compatibility.release import RELEASED
from tests.harness import ROOT

BUF = Path(sys.executable).with_name("buf")
CHANGES = {
    "a field of another number": ("uint64 durable_step = 5;", "uint64 durable_step = 6;"),
    "a field that is gone": ("  uint64 durable_step = 5;\n", ""),
    "a field of another type": ("uint64 durable_step = 5;", "int32 durable_step = 5;"),
    "a field of another name": ("uint64 durable_step = 5;", "uint64 stored_step = 5;"),
    "a reason that is gone": ("  REASON_MOVED = 25;\n", ""),
    "a call that is gone": ("  rpc Peek(PeekRequest) returns (PeekReply);\n", ""),
}


def compared(folder: Path, released: Path) -> subprocess.CompletedProcess[str]:
    """What buf says of a folder's protos beside released ones, asked as the Makefile asks."""
    command = [str(BUF), "breaking", "protos", "--against", str(released)]
    nothing_fetched = {"HOME": str(folder), "https_proxy": "http://127.0.0.1:9"}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=nothing_fetched, check=False
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with protos to change, and buf's settings."""
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    return tmp_path


def change(tree: Path, old: str, new: str) -> None:
    file = tree / "protos" / "tidegate" / "v1" / "tidegate.proto"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize("released", sorted(RELEASED.iterdir()), ids=lambda each: each.name)
def test_todays_protocol_breaks_no_release(released: Path, tree: Path) -> None:
    told = compared(tree, released / "protos")
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_that_breaks_callers_is_found(what: str, tree: Path) -> None:
    change(tree, *CHANGES[what])
    told = compared(tree, sorted(RELEASED.iterdir())[-1] / "protos")
    assert told.returncode == 100, told.stderr
    assert "protos/tidegate/v1/tidegate.proto:" in told.stdout


def test_a_field_that_is_new_breaks_nobody(tree: Path) -> None:
    old = "uint64 durable_step = 5;"
    change(tree, old, f"{old}\n  // New.\n  bool new = 99;")
    told = compared(tree, ROOT / "protos")
    assert told.returncode == 0, told.stdout + told.stderr
