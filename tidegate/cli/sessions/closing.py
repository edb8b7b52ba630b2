"""`tidegate sessions close`: ends sessions, whoever opened them."""

import sys
from collections.abc import Sequence

from tidegate.client import Client
from tidegate.errors import SessionGone


async def close_sessions(
    client: Client, model: str, session_ids: Sequence[str], version: int
) -> int:
    """Close each; those that are not live are named, and do not keep the others open."""
    missing = 0
    for session_id in session_ids:
        try:
            steps = await client.close_session(model, session_id, version=version)
        except SessionGone as error:
            missing += 1
            print(f"tidegate: {error}", file=sys.stderr)
        else:
            print(f"{session_id} closed after {steps:,} steps")
    return 1 if missing else 0
