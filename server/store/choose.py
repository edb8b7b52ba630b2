"""Which store the settings name."""

from __future__ import annotations

from server.config import Config
from server.store.interface import Store
from server.store.sqlite import SqliteStore


def open_store(config: Config) -> Store | None:
    """Open the store that outlives this process; None where sessions are to live in it alone.

    Raises:
        StoreUnusable: it cannot be used as it is set up.
        StoreUnreachable: redis does not answer.
    """
    if config.store == "none":
        return None
    if config.store == "sqlite":
        return SqliteStore(config.data_folder)
    from server.store.redis import RedisSettings, RedisStore  # 7 MB, a seventh of a start

    return RedisStore(
        RedisSettings(
            url=config.redis_url.get_secret_value(),
            durability=config.redis_durability,
            replicas=config.redis_replicas,
            timeout=config.store_timeout,
            lease=config.lease_seconds,
            time_to_live=config.session_ttl,
        )
    )
