"""Every test here runs over either transport, but where it says otherwise."""

from tests.server.transports import server, transport

__all__ = ["server", "transport"]
