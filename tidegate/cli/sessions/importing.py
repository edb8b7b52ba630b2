"""`tidegate sessions import`: makes a session from a snapshot that `export` wrote."""

import sys
from pathlib import Path

from tidegate.cli.failure import BadFile, Failure
from tidegate.cli.sessions.filename import STREAM
from tidegate.client import Client
from tidegate.errors import BadSnapshot, UnknownModel, UnknownVersion

MOST_BYTES = 256 << 20
"""Far above any session's state; what is larger, or never ends, is something else."""


async def import_session(client: Client, file: str, session_id: str, replace: bool) -> int:
    """Make the session; returns the exit status.

    Raises:
        BadFile: it cannot be read, or is no snapshot that the server can take in.
        Failure: it is of a model or version that the server has not.
    """
    snapshot = _read(file)
    try:
        info = await client.import_session(snapshot, session_id=session_id, replace=replace)
    except BadSnapshot as error:
        raise BadFile(f"{_named(file)}: {error}") from error
    except (UnknownModel, UnknownVersion) as error:
        raise Failure(f"{_named(file)}: {error}") from error
    print(
        f"{info.session_id} imported into {info.model}/{info.version}; it stands at step "
        f"{info.steps:,}"
    )
    return 0


def _read(file: str) -> bytes:
    try:
        if file == STREAM:
            snapshot = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with Path(file).open("rb") as opened:
                snapshot = opened.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a null in it
        raise BadFile(f"{_named(file)}: {getattr(error, 'strerror', None) or error}") from error
    if not snapshot:
        raise BadFile(f"{_named(file)}: empty, no snapshot")
    if len(snapshot) > MOST_BYTES:
        raise BadFile(f"{_named(file)}: too large for a snapshot")
    return snapshot


def _named(file: str) -> str:
    return "stdin" if file == STREAM else file
