"""Tidegate's client library: what another service installs to stream sessions to a server.

Names are resolved on first use, because the server imports `tidegate.v1` through this package
and must not pay for a client it never makes.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidegate import errors
    from tidegate.client import Client
    from tidegate.model import Feature, ManySteps, Model, Output, SessionInfo
    from tidegate.options import ClientOptions, Coalescing, Replay, RetryPolicy, Tls
    from tidegate.session import Session
    from tidegate.shards import shard_of
    from tidegate.sync import SyncClient, SyncSession

__version__ = "0.1.0"

__all__ = [
    "Client",
    "ClientOptions",
    "Coalescing",
    "Feature",
    "ManySteps",
    "Model",
    "Output",
    "Replay",
    "RetryPolicy",
    "Session",
    "SessionInfo",
    "SyncClient",
    "SyncSession",
    "Tls",
    "__version__",
    "errors",
    "shard_of",
]

_HOMES = {
    "Client": "client",
    "Session": "session",
    "SyncClient": "sync",
    "SyncSession": "sync",
    "Coalescing": "options",
    "ManySteps": "model",
    "ClientOptions": "options",
    "Replay": "options",
    "RetryPolicy": "options",
    "Tls": "options",
    "Feature": "model",
    "Model": "model",
    "Output": "model",
    "SessionInfo": "model",
    "shard_of": "shards",
}


def __getattr__(name: str) -> object:
    """Import the module that holds `name`, once."""
    if name == "errors":
        return import_module("tidegate.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'tidegate' has no attribute {name!r}")
    value = getattr(import_module(f"tidegate.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
