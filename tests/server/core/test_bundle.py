"""Bundles on disk: whatever is wrong with one, it is refused by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.bundle.repository import find, load
from server.errors import BadModel
from tests.server.core.parts import make_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_bundle(tmp_path / "models")
    return tmp_path / "models" / "small" / "1"


def load_only(folder: Path) -> None:
    repository = folder.parent.parent
    (entry,) = find(repository)
    load(entry, repository)


def changed(folder: Path, **fields: Any) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def corrupt(folder: Path) -> None:
    with (folder / "step.onnx").open("ab") as graph:
        graph.write(b"x")


def outside(folder: Path) -> None:
    away = folder.parents[2] / "away.onnx"
    (folder / "read.onnx").rename(away)
    (folder / "read.onnx").symlink_to(away)


def folder_instead(folder: Path) -> None:
    (folder / "read.onnx").unlink()
    (folder / "read.onnx").mkdir()


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a corrupt graph": (corrupt, r"small/1/step\.onnx is corrupt: sha256"),
    "a missing graph": (lambda f: (f / "write.onnx").unlink(), r"small/1/write\.onnx cannot be"),
    "no manifest": (lambda f: (f / "model.json").unlink(), r"small/1/model\.json cannot be read"),
    "a graph that is a folder": (folder_instead, r"small/1/read\.onnx cannot be read"),
    "a graph outside the repository": (outside, r"small/1/read\.onnx leads out of the model"),
    "not JSON": (lambda f: (f / "model.json").write_text("{"), r"small/1/model\.json is malformed"),
    "not UTF-8": (
        lambda f: (f / "model.json").write_bytes(b'{"format": "\xff"}'),
        r"small/1/model\.json is malformed",
    ),
    "not an object": (lambda f: (f / "model.json").write_text("[]"), "not an object"),
    "a newer format": (lambda f: changed(f, format=2), "has format 2; this server reads format 1"),
    "another name": (lambda f: changed(f, name="large"), r"small/1/model\.json is about large/1"),
    "another version": (lambda f: changed(f, version=2), r"small/1/model\.json is about small/2"),
    "a file above": (lambda f: changed(f, files={"../x.onnx": ""}), r"'\.\./x\.onnx' is not a"),
    "a file by absolute path": (lambda f: changed(f, files={"/x": ""}), "'/x' is not a plain"),
    "no step graph": (lambda f: changed(f, files={}), r"step\.onnx is not listed"),
    "too many files": (
        lambda f: changed(f, files={f"x{k}": "" for k in range(1001)}),
        "more than 1,000 files are listed",
    ),
    "a state twice": (
        lambda f: changed(f, states=[{"name": "h0", "shape": [1], "dtype": "bool"}] * 2),
        "a state's name occurs twice",
    ),
    "half a character": (
        lambda f: changed(f, description="\ud800"),
        r"small/1/model\.json is malformed: UnicodeEncodeError",
    ),
    "no features": (lambda f: changed(f, features=[]), "must not be empty"),
    "no chunk": (lambda f: changed(f, max_chunk=0), "max_chunk"),
    "labels that do not fit": (
        lambda f: changed(f, outputs=[{"name": "y", "size": 3, "kind": "p", "labels": ["a"]}]),
        "output 'y' has 3 values but 1 labels",
    ),
    "an unknown dtype": (
        lambda f: changed(f, states=[{"name": "h0", "shape": [1], "dtype": "object"}]),
        "state 'h0' has unsupported dtype 'object'",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_bundle_is_refused_by_name(folder: Path, case: str) -> None:
    spoil, says = CASES[case]
    spoil(folder)
    with pytest.raises(BadModel, match=says):
        load_only(folder)


@pytest.mark.parametrize(
    "field", ["format", "name", "version", "features", "outputs", "states", "max_chunk", "files"]
)
def test_a_manifest_without_a_field_is_malformed_and_the_field_named(
    folder: Path, field: str
) -> None:
    path = folder / "model.json"
    raw = json.loads(path.read_text())
    del raw[field]
    path.write_text(json.dumps(raw))
    with pytest.raises(BadModel, match=rf"small/1/model\.json is malformed: .*'{field}'"):
        load_only(folder)


def test_links_within_the_repository_are_followed(folder: Path) -> None:
    """As Kubernetes mounts volumes: NAME/VERSION/file -> ..data/file."""
    data = folder.parent / "..data"
    folder.rename(data)
    folder.mkdir()
    for file in data.iterdir():
        (folder / file.name).symlink_to(Path("..") / "..data" / file.name)
    load_only(folder)


ELSEWHERE = """
import ctypes, os, subprocess, sys
subprocess.run(["mount", "--bind", sys.argv[1], sys.argv[1]], check=True)
os.chdir(sys.argv[1])
subprocess.run(["pivot_root", ".", "."], check=True)
ctypes.CDLL(None).umount2(b".", 2)
print(flush=True)
sys.stdin.read()
"""
"""A process with a root of its own, as a container's: of this one's folders it has none."""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change roots")
def test_a_repository_in_another_containers_root_is_read_there(
    folder: Path, tmp_path: Path
) -> None:
    """As KServe's modelcars: /mnt/models -> /proc/PID/root/models, where /models is another folder
    here, or none."""
    command = ["unshare", "--mount", sys.executable, "-c", ELSEWHERE, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as container:
        assert container.stdout
        container.stdout.readline()
        repository = tmp_path / "mounted"
        repository.symlink_to(f"/proc/{container.pid}/root/models")
        (entry,) = find(repository)
        assert load(entry, repository).manifest.name == "small"
        outside(folder)
        with pytest.raises(BadModel, match="leads out"):
            load(entry, repository)


def test_folders_that_are_no_versions_are_passed_over(folder: Path) -> None:
    for name in ("latest", "-1", "²", ".writing-2"):
        (folder.parent / name).mkdir()
    (folder.parent / "3").write_text("a file")
    assert [entry.version for entry in find(folder.parent.parent)] == [1]
