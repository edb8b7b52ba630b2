"""Whatever lies where a bundle's file should be, reading it neither waits nor leads outside."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from server.bundle import files
from server.bundle.repository import digest, find, load
from server.errors import BadModel
from tests.server.core.parts import make_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_bundle(tmp_path / "models")
    return tmp_path / "models" / "small" / "1"


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as each:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path must be short
        try:
            each.bind(path.name)
        finally:
            os.chdir(here)


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _process(path: Path) -> None:
    """A file of the kernel's that says that it is empty, and is not."""
    path.unlink()
    path.symlink_to("/proc/self/environ")


def _link_above(path: Path) -> None:
    away = path.parents[3] / "away"
    path.parent.rename(away)
    path.parent.symlink_to(away)


PLACES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a pipe": (_pipe, "cannot be read: it is no plain file"),
    "a socket": (_socket, "cannot be read: it is no plain file"),
    "a device": (_device, "leads out of the model repository"),
    "a file of the kernel's": (_process, "leads out of the model repository"),
    "a folder from elsewhere": (_link_above, "leads out of the model repository"),
}


@pytest.mark.parametrize("name", ["model.json", "step.onnx", "network.npz"])
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_of_the_bundle_is_refused_at_once(
    folder: Path, name: str, place: str
) -> None:
    put, says = PLACES[place]
    put(folder / name)
    repository = folder.parent.parent
    (entry,) = find(repository)
    with pytest.raises(BadModel, match=says):
        load(entry, repository)
    if name == "model.json":  # which the watcher looks at by itself, too
        with pytest.raises(BadModel, match=says):
            digest(entry, repository)


def test_a_file_that_grows_is_read_as_far_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "endless"
    path.write_bytes(b"x" * 100)
    read = os.read

    def and_grow(descriptor: int, count: int) -> bytes:
        with path.open("ab") as file:
            file.write(b"x" * 100)
        return read(descriptor, count)

    monkeypatch.setattr(os, "read", and_grow)
    with pytest.raises(BadModel, match="m/1/endless cannot be read: it changes meanwhile"):
        files.read(path, tmp_path, "m/1", 1 << 20)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(folder: Path) -> None:
    """It takes no room on the disk, and says that it has 3 TB."""
    repository = folder.parent.parent
    (entry,) = find(repository)
    for name, says in (
        ("network.npz", r"3,298,534,883,328 bytes, more than the 8,589,934,592"),
        ("step.onnx", r"3,298,534,883,328 bytes, more than the 2,147,483,647"),
        ("model.json", r"3,298,534,883,328 bytes, more than the 16,777,216"),
    ):
        os.truncate(folder / name, 3 << 40)
        with pytest.raises(BadModel, match=f"small/1/{name} has {says}"):
            load(entry, repository)


def test_graphs_may_have_no_more_bytes_than_there_is_memory(folder: Path) -> None:
    repository = folder.parent.parent
    (entry,) = find(repository)
    with pytest.raises(BadModel, match=r"small/1/.*\.onnx has .* bytes, more than the"):
        load(entry, repository, most=5000)


def test_a_link_that_is_put_there_after_the_check_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, path = tmp_path / "secret", tmp_path / "models" / "m" / "step.onnx"
    secret.write_text("secret")
    path.parent.mkdir(parents=True)
    path.write_text("good")
    told = os.fstat

    def and_swap(descriptor: int) -> os.stat_result:
        path.unlink()
        path.symlink_to(secret)
        return told(descriptor)

    monkeypatch.setattr(os, "fstat", and_swap)
    assert files.read(path, tmp_path / "models", "m/1", 100) == b"good"
    monkeypatch.undo()
    with pytest.raises(BadModel, match="leads out of the model repository"):
        files.read(path, tmp_path / "models", "m/1", 100)


def test_folders_whose_names_could_be_taken_for_another_s_are_passed_over(folder: Path) -> None:
    for name in ("01", "0", "1" * 19):
        folder.with_name(name).mkdir()
    odd = folder.parents[1] / "good\nERROR forged" / "1"
    odd.mkdir(parents=True)
    assert [(entry.name, entry.version) for entry in find(folder.parents[1])] == [("small", 1)]
