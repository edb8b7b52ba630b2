"""Finds bundles under the model repository and reads them whole, verified, into memory.

Graphs are handed on as bytes that matched their sha256, so nothing can change between the check and
the use. What is in them is looked at where they are opened (`engine.graph`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from server.bundle import files
from server.bundle import manifest as manifests
from server.bundle.manifest import Manifest
from server.errors import BadModel

MANIFEST, SIGNATURE = "model.json", "model.json.sig"
MAX_MANIFEST, MAX_SIGNATURE, MAX_GRAPH = 1 << 24, 1024, 2**31 - 1
LONGEST_VERSION = 18  # digits, so that it is a number of 64 bits

Verify = Callable[[bytes, bytes], None]
"""Takes a manifest's bytes and its signature's, and raises ValueError, with the end of a sentence
about the latter, if the one is not the other's."""


class KeyProblem(ValueError):
    """A file of keys cannot be used; the message names it and says why."""


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: its manifest, as read and as it is, and its graphs' bytes by file name.

    Other files are verified as well, and not kept.
    """

    manifest: Manifest
    graphs: dict[str, bytes]
    text: bytes = b""


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
        if _is_version(folder.name) and folder.parent.name.isprintable() and folder.is_dir()
    ]
    return sorted(found, key=lambda entry: (entry.name, entry.version))


def _is_version(name: str) -> bool:
    """A number as it is usually written: 01 would be a second 1."""
    return name.isascii() and name.isdigit() and len(name) <= LONGEST_VERSION and name[0] != "0"


def digest(entry: Entry, repository: Path) -> bytes:
    """Which graphs a folder's manifest names (see `Manifest.digest`).

    Raises:
        BadModel: there is no such manifest.
    """
    where = f"{entry.name}/{entry.version}"
    text = files.read(entry.folder / MANIFEST, repository, where, MAX_MANIFEST)
    return manifests.parse(text, where).digest


def load(
    entry: Entry, repository: Path, most: int = MAX_GRAPH, verify: Verify | None = None
) -> Bundle:
    """Read and verify one bundle.

    Args:
        most: bytes that its graphs may have together.
        verify: looks at its signature, which it must have then.

    Raises:
        BadModel: a path leads out of the repository, a file is missing, no plain file, too large
            or does not match its sha256, or the manifest is malformed, too new, about another
            model or not signed as it must be.
    """
    where = f"{entry.name}/{entry.version}"
    text = files.read(entry.folder / MANIFEST, repository, where, MAX_MANIFEST)
    if verify is not None:
        _check_signature(entry.folder / SIGNATURE, repository, where, text, verify)
    manifest = manifests.parse(text, where)
    if (manifest.name, manifest.version) != (entry.name, entry.version):
        raise BadModel(f"{where}/{MANIFEST} is about {manifest.name[:300]}/{manifest.version}")
    graphs: dict[str, bytes] = {}
    for name, expected in manifest.files.items():
        path = entry.folder / name
        if name not in manifests.SERVED:
            _check_digest(path, files.sha256(path, repository, where), expected, where)
            continue
        graphs[name] = content = files.read(path, repository, where, min(most, MAX_GRAPH))
        most -= len(content)
        _check_digest(path, hashlib.sha256(content).hexdigest(), expected, where)
    return Bundle(manifest, graphs, text)


def _check_signature(path: Path, repository: Path, where: str, text: bytes, verify: Verify) -> None:
    """Before anything of the manifest is believed."""
    if not path.exists():
        raise BadModel(f"{where} is not signed: there is no {SIGNATURE}, and this server serves "
                       "what is signed alone")  # fmt: skip
    made = files.read(path, repository, where, MAX_SIGNATURE)
    try:
        verify(text, made)
    except KeyProblem as error:  # the server's own, not the bundle's
        raise BadModel(f"{where} cannot be trusted: {error}") from error
    except ValueError as error:
        raise BadModel(f"{where}/{SIGNATURE} {error}") from error


def _check_digest(path: Path, actual: str, expected: str, where: str) -> None:
    if actual != expected:
        raise BadModel(f"{where}/{path.name} is corrupt: sha256 {actual}, model.json says "
                       f"{expected[:64]}")  # fmt: skip
