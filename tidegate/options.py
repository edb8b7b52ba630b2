"""Settings of a client, checked on construction, and their translation into gRPC's channel options.

Retries are gRPC's own, driven by a service config: they honour the server's pushback, and back off
exponentially with jitter. They are safe because every step carries its number.
"""

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate import errors
from tidegate.shards import MOST_SHARDS

if TYPE_CHECKING:
    import grpc

SERVICE = "tidegate.v1.Tidegate"
# StepStream is left out, since gRPC cannot repeat a stream once a reply has come: `stream` does.
# What a lost connection leaves open is not repeated where a call that was done has changed things.
RETRIED = ("Step", "Open", "Close", "Get", "List", "ListModels", "Export", "Forecast", "Peek")
# What is refused of these for now `gathered` asks for again, part by part.
GATHERED = ("OpenMany", "CloseMany")
# These only where the server says that it did nothing, which RESOURCE_EXHAUSTED does.
CHANGES = ("Import", "Fork", "Reset")
# gRPC never ends a pause that, varied by 20 %, comes to less than a millisecond.
LEAST_PAUSE = 0.002
# gRPC lowers anything above to this by itself; saying so is kinder than silently doing less.
MOST_ATTEMPTS = 1000
MOST_OF_GRPC = 5  # its own retries of a call, whatever it is told


@dataclass(frozen=True)
class RetryPolicy:
    """How often, and after which pauses, a call refused or lost on the way is repeated."""

    attempts: int = 5
    """Attempts in all, the first included, from 1 (never retry) to 1,000; unary calls have at most
    5, which is gRPC's limit."""
    initial_backoff: float = 0.05
    """Seconds before the second attempt (gRPC varies each pause by 20 %)."""
    max_backoff: float = 2.0
    """The longest pause, in seconds. A pause asked for by the server may be longer."""
    multiplier: float = 3.0
    """How much longer each pause is than the one before."""

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row, varied by 20 % as gRPC does."""
        try:
            pause = min(self.max_backoff, self.initial_backoff * self.multiplier ** (failures - 1))
        except OverflowError:
            pause = self.max_backoff
        return pause * random.uniform(0.8, 1.2)

    def after(self, error: errors.TidegateError, attempts: int) -> float | None:
        """Seconds until what was refused for now is tried again after so many attempts; None: it is
        not. A server that starts is waited for while anybody waits."""
        if isinstance(error, errors.Starting):
            again = self.attempts > 1
        else:
            again = isinstance(error, errors.FOR_NOW) and attempts < self.attempts
        return (error.retry_after or self.pause(attempts)) if again else None

    def __post_init__(self) -> None:
        if not isinstance(self.attempts, int) or not 1 <= self.attempts <= MOST_ATTEMPTS:
            raise ValueError(
                f"RetryPolicy.attempts must be a whole number from 1 to {MOST_ATTEMPTS}, "
                f"not {self.attempts!r}"
            )
        _check_positive("RetryPolicy.initial_backoff", self.initial_backoff, least=0.001)
        _check_positive("RetryPolicy.max_backoff", self.max_backoff, least=0.001)
        _check_positive("RetryPolicy.multiplier", self.multiplier, least=1.0)
        if self.max_backoff < self.initial_backoff:
            raise ValueError("RetryPolicy.max_backoff must not be less than initial_backoff")


@dataclass(frozen=True)
class Coalescing:
    """How concurrently awaited steps travel together, and how many may wait."""

    in_flight: int = 2
    """Messages on their way at once, a stream. While they are, the next one gathers."""
    message_steps: int = 4096
    """The most steps in a message."""
    message_bytes: int = 1 << 20
    """The most bytes of features in a message; a row larger than that goes alone. Keep it below
    the server's `max_message_bytes`."""
    waiting_steps: int = 65_536
    """Steps without an answer, a model version, from which on `step` waits before it takes more."""
    waiting_bytes: int = 64 << 20
    """Likewise, bytes of their features."""

    def __post_init__(self) -> None:
        for each in fields(self):
            _check_count(f"Coalescing.{each.name}", getattr(self, each.name))


@dataclass(frozen=True)
class Replay:
    """How many inputs are kept, so that steps which a server lost in a crash can be applied again.
    Only for a server with a store, and only of steps that are not stored yet."""

    kept_steps: int = 4096
    """The most steps of a session; past it the oldest are forgotten."""
    kept_bytes: int = 64 << 20
    """The most bytes of features, a model version; near it those of the sessions that were stepped
    longest ago are forgotten, until half of it is free."""

    def __post_init__(self) -> None:
        for each in fields(self):
            _check_count(f"Replay.{each.name}", getattr(self, each.name))


@dataclass(frozen=True)
class Tls:
    """PEM files with which a connection is encrypted, and its ends know each other. A `Client`
    reads them again when they change: what it asks from then on goes over a new connection."""

    ca: Path | None = None
    """Who signs the server's certificate; None: whoever gRPC trusts anyway."""
    cert: Path | None = None
    """The client's own certificate and its chain, where the server asks for one."""
    key: Path | None = None
    """Its key."""

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("Tls.cert and Tls.key go together: one is missing")

    def credentials(self) -> "grpc.ChannelCredentials":
        """The same in gRPC's words.

        Raises:
            OSError: a file cannot be read.
        """
        import grpc  # most clients' settings need none of it

        ca, key, cert = (
            None if file is None else Path(file).read_bytes()
            for file in (self.ca, self.key, self.cert)
        )
        return grpc.ssl_channel_credentials(ca, key, cert)


@dataclass(frozen=True)
class ClientOptions:
    """What holds for every call of one client."""

    timeout: float = 10.0
    """Seconds a call may take, retries included, where the call names no `timeout` itself."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """How calls are repeated."""
    coalescing: Coalescing = field(default_factory=Coalescing)
    """How steps travel together."""
    replay: Replay = field(default_factory=Replay)
    """How many inputs are kept against a server's crash."""
    max_message_bytes: int = 16 * 1024 * 1024
    """The largest reply accepted."""
    reconnect_backoff: float = 0.1
    """Seconds before the first attempt to reconnect; doubles up to `max_reconnect_backoff`."""
    max_reconnect_backoff: float = 5.0
    """The longest pause between attempts to reconnect, in seconds."""
    keepalive: float = 20.0
    """Seconds between pings, with which a peer that has vanished is found out; a server over
    grpc.aio takes no more than one in 10 seconds, and ends the connection of who sends more."""
    keepalive_timeout: float = 5.0
    """Seconds for a ping's answer, after which the connection counts as broken."""
    tls: "Tls | None" = None
    """How the connection is encrypted; None: it is not."""
    token: "str | Path | Callable[[], str] | None" = field(default=None, repr=False)
    """What says who calls, where the server asks (docs/security.md): the token itself, a file that
    has it, which is read again as tokens change, or what tells it before each call and stream."""
    shards: int = 1
    """Over how many streams a model version's steps are spread, each of which a proxy may route to
    another server by the header `tidegate-shard` (docs/scaling.md). 1: one, without that header."""
    stream_age: float | None = None
    """Seconds after which a stream is opened anew, with nothing under way, so that a proxy may
    route it to a server that was added; None: only where it breaks."""

    def __post_init__(self) -> None:
        _check_positive("ClientOptions.timeout", self.timeout, least=0.001)
        if not isinstance(self.retry, RetryPolicy):
            raise ValueError(f"ClientOptions.retry must be a RetryPolicy, not {self.retry!r}")
        if not isinstance(self.coalescing, Coalescing):
            raise ValueError(
                f"ClientOptions.coalescing must be a Coalescing, not {self.coalescing!r}"
            )
        if not isinstance(self.replay, Replay):
            raise ValueError(f"ClientOptions.replay must be a Replay, not {self.replay!r}")
        if not isinstance(self.max_message_bytes, int) or not 1 <= self.max_message_bytes < 2**31:
            raise ValueError(
                "ClientOptions.max_message_bytes must be a whole number from 1 to 2147483647, "
                f"not {self.max_message_bytes!r}"
            )
        _check_positive("ClientOptions.reconnect_backoff", self.reconnect_backoff, least=0.001)
        _check_positive(
            "ClientOptions.max_reconnect_backoff", self.max_reconnect_backoff, least=0.1
        )
        _check_positive("ClientOptions.keepalive", self.keepalive, least=0.1)
        _check_positive("ClientOptions.keepalive_timeout", self.keepalive_timeout, least=0.1)
        if not isinstance(self.tls, Tls | None):
            raise ValueError(f"ClientOptions.tls must be a Tls or None, not {self.tls!r}")
        if not (self.token is None or isinstance(self.token, str | Path) or callable(self.token)):
            raise ValueError("ClientOptions.token must be a text, a Path, or a function of none")
        _check_count("ClientOptions.shards", self.shards)
        if self.shards > MOST_SHARDS:
            raise ValueError(f"ClientOptions.shards must be at most {MOST_SHARDS}")
        if self.stream_age is not None:
            _check_positive("ClientOptions.stream_age", self.stream_age, least=0.001)

    def bearer(self) -> str | None:
        """The token as of now.

        Raises:
            OSError, UnicodeDecodeError: its file cannot be read.
        """
        if self.token is None or isinstance(self.token, str):
            return self.token
        return self.token.read_text().strip() if isinstance(self.token, Path) else self.token()

    def channel_options(self) -> list[tuple[str, int | str]]:
        """These settings in gRPC's own words."""
        options: list[tuple[str, int | str]] = [
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.initial_reconnect_backoff_ms", round(self.reconnect_backoff * 1000)),
            ("grpc.min_reconnect_backoff_ms", 1000),
            ("grpc.max_reconnect_backoff_ms", round(self.max_reconnect_backoff * 1000)),
            ("grpc.keepalive_time_ms", _milliseconds(self.keepalive)),
            ("grpc.keepalive_timeout_ms", _milliseconds(self.keepalive_timeout)),
            # gRPC's own pings, which measure the way, hold up those that keep it alive.
            ("grpc.http2.ping_timeout_ms", _milliseconds(self.keepalive_timeout)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),  # as many as the setting says
        ]
        if self.retry.attempts == 1:
            return [*options, ("grpc.enable_retries", 0)]
        return [*options, ("grpc.service_config", json.dumps(_service_config(self.retry)))]


def _service_config(retry: RetryPolicy) -> dict[str, object]:
    repeated = {
        RETRIED: ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
        GATHERED: ["UNAVAILABLE"],
        CHANGES: ["RESOURCE_EXHAUSTED"],
    }
    return {
        "methodConfig": [
            {
                "name": [{"service": SERVICE, "method": method} for method in methods],
                "retryPolicy": {
                    "maxAttempts": min(retry.attempts, MOST_OF_GRPC),
                    "initialBackoff": f"{max(retry.initial_backoff, LEAST_PAUSE):.3f}s",
                    "maxBackoff": f"{max(retry.max_backoff, LEAST_PAUSE):.3f}s",
                    "backoffMultiplier": retry.multiplier,
                    "retryableStatusCodes": codes,
                },
            }
            for methods, codes in repeated.items()
        ]
    }


def _milliseconds(seconds: float) -> int:
    return min(round(seconds * 1000), 2**31 - 1)  # more than gRPC counts is for ever


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")


def _check_positive(name: str, value: float, *, least: float) -> None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value < least
    ):
        raise ValueError(f"{name} must be a number of at least {least:g}, not {value!r}")
