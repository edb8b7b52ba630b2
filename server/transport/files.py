"""Files that the system lets this process have open, of which each connection is one."""

from __future__ import annotations

import logging
import resource
from typing import Final

log = logging.getLogger(__name__)

OTHERS: Final = 64  # that are not connections: the store's, the models', logs, the metrics port's


def room_for(connections: int) -> int:
    """How many of these connections may be open at once, once the process has been given as many
    files as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY or connections + OTHERS <= hard:
        return connections
    room = max(1, hard - OTHERS)
    log.warning(
        "%d connections are all that %d open files allow, not %d: raise the limit (ulimit -n)",
        room, hard, connections,
    )  # fmt: skip
    return room
