"""Access files, tokens, and servers behind them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from tests.harness import RunningServer, running_server
from tidegate.v1 import tidegate_pb2_grpc

EVERY_ROLE = ("step", "inspect", "admin")


def entry(name: str, roles: Sequence[str] = EVERY_ROLE, tenant: str = "", more: str = "") -> str:
    """A token's entry; the token itself is `secret-NAME`."""
    digest = hashlib.sha256(f"secret-{name}".encode()).hexdigest()
    said = ", ".join(f'"{role}"' for role in roles)
    return (
        f'[[tokens]]\nname = "{name}"\nsha256 = "{digest}"\ntenant = "{tenant}"\n'
        f"roles = [{said}]\n{more}\n"
    )


def bearer(name: str) -> tuple[tuple[str, str]]:
    """Metadata of a call with that token."""
    return (("authorization", f"Bearer secret-{name}"),)


@contextmanager
def guarded(models: Path, file: Path, said: str, **flags: object) -> Iterator[RunningServer]:
    """A server whose access file says so."""
    file.write_text(said)
    with running_server(models, access=file, **flags) as running:
        yield running


class Bearing(grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Adds a token to every call."""

    def __init__(self, metadata: Sequence[tuple[str, str]]) -> None:
        self._metadata = metadata

    def intercept_unary_unary(self, go_on: Any, details: Any, request: Any) -> Any:
        """A unary call."""
        return go_on(self._with(details), request)

    def intercept_stream_stream(self, go_on: Any, details: Any, requests: Any) -> Any:
        """A stream."""
        return go_on(self._with(details), requests)

    def _with(self, details: Any) -> Any:
        return details._replace(metadata=[*(details.metadata or ()), *self._metadata])


@contextmanager
def as_caller(server: RunningServer, name: str) -> Iterator[tidegate_pb2_grpc.TidegateStub]:
    """A stub whose calls carry that token."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    with grpc.insecure_channel(server.address, options) as channel:
        yield tidegate_pb2_grpc.TidegateStub(grpc.intercept_channel(channel, Bearing(bearer(name))))
