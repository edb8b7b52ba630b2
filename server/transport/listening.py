"""What the transports have in common: where they listen, how gRPC is set up, and how they end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from server.config import Config

LAST_WORDS: Final = 0.1  # seconds for statuses on their way


class PortTaken(RuntimeError):
    """A port cannot be listened on."""


class Transport(Protocol):
    """Carries calls to `services.Services` and back."""

    @property
    def held(self) -> int:
        """Bytes that calls hold, as far as it is known."""

    async def start(self) -> int:
        """Listen; returns the port.

        Raises:
            PortTaken: the address cannot be listened on.
        """

    async def turn(self) -> None:
        """Returns once its loop has gone round: never, where that hangs."""

    async def stop(self, grace: float) -> bool:
        """End the streams, let our calls finish for `grace` seconds, then close whatever else is
        open, such as a watch of the health; returns whether every call of ours has finished."""


def host(config: Config) -> str:
    """The host, as addresses say it."""
    return bracketed(config.host)


def bracketed(name: str) -> str:
    """A host, as addresses say it."""
    return f"[{name}]" if ":" in name else name


def address(config: Config) -> str:
    """Host and port, as gRPC says them."""
    return f"{host(config)}:{config.port}"


async def until(idle: Callable[[], bool], seconds: float) -> bool:
    """Wait for it, at most so long; returns whether it came to be."""
    deadline = time.monotonic() + seconds
    while not idle() and time.monotonic() < deadline:
        await asyncio.sleep(0.005)
    return idle()


def taken(where: str, error: Exception | str) -> PortTaken:
    """The error to be raised."""
    return PortTaken(f"cannot listen on {where}: {error}")


def options(config: Config) -> list[tuple[str, Any]]:
    """gRPC's settings."""
    # What gRPC's core holds for us before it cancels calls: more than we let in ourselves, so
    # that whoever is refused hears it from us.
    pending = max(20_000, 4 * config.max_calls)
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.server.max_pending_requests", pending),
        ("grpc.server.max_pending_requests_hard_limit", pending),
    ]
