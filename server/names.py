"""What a session is called inside the server: its caller's id, behind its tenant's name if callers
have tenants. A leaf.

A tenant's name holds no separator, so no two tenants' sessions are ever called the same, in memory
and in the store. What callers are told is their own part.
"""

from __future__ import annotations

from typing import Final

SEPARATOR: Final = "\x1f"  # U+001F, Unicode's and ASCII's own separator of units
MAX_TENANT: Final = 64  # characters, all of them ASCII's


def prefix(tenant: str) -> str:
    """What goes before the ids of a tenant's sessions; nothing for callers without one."""
    return f"{tenant}{SEPARATOR}" if tenant else ""


def own(name: str) -> str:
    """Its caller's part of a session's name."""
    return name.partition(SEPARATOR)[2] if SEPARATOR in name[: MAX_TENANT + 1] else name


def tenant(name: str) -> str:
    """Whose the session is; "" where callers have no tenants."""
    before, separator, _ = name[: MAX_TENANT + 1].partition(SEPARATOR)
    return before if separator else ""
