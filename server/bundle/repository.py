"""Finds bundles under the model repository and reads them whole, verified, into memory.

Graphs are handed on as bytes that matched their sha256, so nothing can change between the check and
the use, and a graph cannot name data outside its bundle.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from server.bundle import manifest as manifests
from server.bundle.manifest import Manifest
from server.errors import BadModel


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: its manifest and its graphs' bytes by file name.

    Other files are verified as well, and not kept.
    """

    manifest: Manifest
    graphs: dict[str, bytes]


@dataclass(frozen=True)
class Entry:
    """A NAME/VERSION folder of the repository, not read yet."""

    name: str
    version: int
    folder: Path


def find(repository: Path) -> list[Entry]:
    """All NAME/VERSION folders, by name and version; other folders are passed over."""
    found = [
        Entry(folder.parent.name, int(folder.name), folder)
        for folder in repository.glob("*/*")
        if folder.name.isascii() and folder.name.isdigit() and folder.is_dir()
    ]
    return sorted(found, key=lambda entry: (entry.name, entry.version))


def digest(entry: Entry) -> bytes:
    """Which graphs a folder's manifest names (see `Manifest.digest`).

    Raises:
        BadModel: there is no such manifest.
    """
    where = f"{entry.name}/{entry.version}"
    try:
        text = (entry.folder / "model.json").read_bytes()
    except OSError as error:
        raise BadModel(f"{where}/model.json cannot be read: {error.strerror}") from error
    return manifests.parse(text, where).digest


def load(entry: Entry, repository: Path) -> Bundle:
    """Read and verify one bundle.

    Raises:
        BadModel: a path leads out of the repository, a file is missing or does not match its
            sha256, or the manifest is malformed, too new or about another model.
    """
    where = f"{entry.name}/{entry.version}"
    manifest = manifests.parse(_read(entry.folder / "model.json", repository, where), where)
    if (manifest.name, manifest.version) != (entry.name, entry.version):
        raise BadModel(f"{where}/model.json is about {manifest.name}/{manifest.version}")
    graphs: dict[str, bytes] = {}
    for name, digest in manifest.files.items():
        content = _verified(entry.folder / name, digest, repository, where)
        if name in manifests.SERVED:
            graphs[name] = content
    return Bundle(manifest, graphs)


def _verified(path: Path, digest: str, repository: Path, where: str) -> bytes:
    content = _read(path, repository, where)
    actual = hashlib.sha256(content).hexdigest()
    if actual != digest:
        raise BadModel(f"{where}/{path.name} is corrupt: sha256 {actual}, model.json says {digest}")
    return content


def _read(path: Path, repository: Path, where: str) -> bytes:
    """Links may point about within the repository (as Kubernetes mounts do) but never out of it.

    What counts is where the open file and the open folder are, as the kernel says: a repository may
    be in another container's root (/proc/PID/root/models, where KServe links to), of which paths
    that are followed here tell nothing.
    """
    try:
        with path.open("rb") as file:
            if not _place(file.fileno()).is_relative_to(_root(repository)):
                raise BadModel(f"{where}/{path.name} leads out of the model repository")
            return file.read()
    except OSError as error:
        raise BadModel(f"{where}/{path.name} cannot be read: {error.strerror}") from error


def _root(repository: Path) -> Path:
    opened = os.open(repository, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _place(opened)
    finally:
        os.close(opened)


def _place(opened: int) -> Path:
    return Path(f"/proc/self/fd/{opened}").readlink()
