"""Who calls: what a token said of its bearer, and the words in which a call is refused."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from server.access.tenants import Usage
from server.errors import Unauthenticated
from server.names import prefix

EXPIRED: Final = "the token has expired"


@dataclass(eq=False)
class Caller:
    """A bearer of a token that is good, until `expires` (seconds since the epoch)."""

    name: str
    """For the log: of the token, or the subject of a JSON web token."""
    tenant: str
    roles: frozenset[str]
    expires: float
    usage: Usage

    def __post_init__(self) -> None:
        self.prefix = prefix(self.tenant)

    def revoke(self) -> None:
        """The token is good no more: streams that it opened end with their next message."""
        self.expires = 0.0

    def check(self) -> None:
        """Whether it may go on.

        Raises:
            Unauthenticated: the token has run out since, or was taken back.
        """
        if self.expires <= time.time():
            raise Unauthenticated(EXPIRED)


CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""Whose call is served on the event loop; None where nobody has to say who they are."""
