"""Reads a bundle's files, whatever lies there in their place, without waiting and within bounds.

Links may point about within the repository (as Kubernetes mounts do) but never out of it. A file
is found first, and opened when it is a plain one, so that a pipe holds nobody up. What counts is
where the file that was found and the repository are, as the kernel says: a repository may be in
another container's root (/proc/PID/root/models, where KServe links to), of which paths that are
followed here tell nothing.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server.errors import BadModel

PIECE = 1 << 20
MAX_BYTES = 1 << 33  # of a file that is checked and not kept


def read(path: Path, repository: Path, where: str, most: int) -> bytes:
    """A file of at most that many bytes, whole; `where` names its bundle in errors.

    Raises:
        BadModel: it leads out of the repository, is missing, no plain file or too large, or
            changes meanwhile.
    """
    return b"".join(_pieces(path, repository, where, most))


def sha256(path: Path, repository: Path, where: str) -> str:
    """A file's digest, in hexadecimal. Raises as `read`."""
    digest = hashlib.sha256()
    for piece in _pieces(path, repository, where, MAX_BYTES):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(path: Path, repository: Path, where: str, most: int) -> Iterator[bytes]:
    """As many bytes as the file has when it is opened: one that grows would have no end."""
    name = f"{where}/{path.name}"
    with _opened(path, repository, name) as (descriptor, size):
        if size > most:
            raise BadModel(f"{name} has {size:,} bytes, more than the {most:,} that it may have")
        left = size + 1
        while piece := os.read(descriptor, min(PIECE, left)):
            left -= len(piece)
            if left:
                yield piece
            else:
                break
        if left != 1:
            raise BadModel(f"{name} cannot be read: it changes meanwhile")


@contextmanager
def _opened(path: Path, repository: Path, name: str) -> Iterator[tuple[int, int]]:
    """The plain file's descriptor and size."""
    found = descriptor = -1
    try:
        found = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if not _place(found).is_relative_to(_root(repository)):
            raise BadModel(f"{name} leads out of the model repository")
        told = os.fstat(found)
        if not stat.S_ISREG(told.st_mode):
            raise BadModel(f"{name} cannot be read: it is no plain file")
        descriptor = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
        yield descriptor, told.st_size
    except OSError as error:
        raise BadModel(f"{name} cannot be read: {error.strerror}") from error
    finally:
        for each in (found, descriptor):
            if each >= 0:
                os.close(each)


def _root(repository: Path) -> Path:
    found = os.open(repository, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _place(found)
    finally:
        os.close(found)


def _place(found: int) -> Path:
    return Path(f"/proc/self/fd/{found}").readlink()
