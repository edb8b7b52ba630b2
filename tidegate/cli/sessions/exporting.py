"""`tidegate sessions export`: a session's snapshot, into a file or to stdout."""

import sys
from pathlib import Path

from tidegate.cli.failure import BadFile
from tidegate.cli.sessions.filename import STREAM, file_name
from tidegate.client import Client


async def export_session(
    client: Client, model: str, session_id: str, version: int, out: str | None
) -> int:
    """Write it; returns the exit status. The session goes on."""
    snapshot = await client.export_session(model, session_id, version=version)
    if out == STREAM:
        sys.stdout.buffer.write(snapshot)
        return 0
    file = Path(file_name(session_id) if out is None else out)
    try:
        file.write_bytes(snapshot)
    except (OSError, ValueError) as error:  # ValueError: a name with a null in it
        raise BadFile(f"{file}: {getattr(error, 'strerror', None) or error}") from error
    print(f"{session_id} exported to {file} ({len(snapshot):,} bytes)")
    return 0
