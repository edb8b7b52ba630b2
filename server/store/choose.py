"""The store that the settings ask for."""

from __future__ import annotations

from server.config import Config
from server.store.interface import Store
from server.store.sqlite import SqliteStore


def open_store(config: Config) -> Store | None:
    """Open it; None where sessions are to live as long as the process.

    Raises:
        StoreUnusable, StoreUnreachable: it cannot be used.
    """
    if config.store == "none":
        return None
    return SqliteStore(config.data_folder)
