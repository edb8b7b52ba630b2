"""The store in redis, of many servers: who owns a session is compared where it lies.

A server holds a lease, a key that runs out (`redis_owners`). Whoever wants a session of a server
whose lease has run out takes it; one of a living server is asked for, through a list that its owner
waits on. Every change compares epochs within redis (`redis_table`), so a server that lost a session
unawares cannot write it. A marker tells a redis that came up empty from a lease that ran out.
"""

from __future__ import annotations

from typing import Final

from server.store.interface import Lease, StoreUnreachable
from server.store.redis_link import Durability as Durability  # callers know them from here
from server.store.redis_link import Link
from server.store.redis_link import RedisSettings as RedisSettings
from server.store.redis_owners import Owners
from server.store.redis_table import RedisTable


class RedisStore:
    """All tables of one server in a redis that others use too.

    Raises:
        StoreUnreachable: nothing answers.
        StoreUnusable: it refuses the password, is too old, or cannot be as durable as asked.
    """

    exclusive: Final = False

    def __init__(self, settings: RedisSettings) -> None:
        self._link = Link(settings)
        try:
            self._owners = Owners(self._link)
        except StoreUnreachable:
            self._link.close()
            raise
        self.owner: Final = self._owners.me
        self.place: Final = self._link.place

    def table(self, model: str, version: int) -> RedisTable:
        """The table of a model version, for any thread."""
        return RedisTable(self._link, self._owners, model, version)

    def renew(self) -> Lease:
        """Renew the lease, which counts from just before the call. Raises `StoreUnreachable`."""
        return self._owners.renew()

    def asked_for(self, seconds: float) -> list[tuple[str, int, str]]:
        """Wait at most so long for requests, or a second after `close`. Raises
        `StoreUnreachable`."""
        return self._owners.asked_for(seconds)

    def give_up(self) -> None:
        """Give the lease up, so that others may take the sessions at once."""
        self._owners.leave()

    def close(self) -> None:
        """Give the lease up, so that others may take the sessions at once."""
        self._owners.leave()
        self._link.close()
