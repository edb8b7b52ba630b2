"""TLS from the caller to Envoy, and mTLS from Envoy to the server, as the configuration has it once
its comments are taken away; and the caller's token all the way."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trustme

from tests.cluster.envoy import Envoy
from tests.conftest import SmallModel
from tests.harness import running_server
from tests.server.access.doors import entry
from tidegate import Client, ClientOptions, RetryPolicy, Tls
from tidegate.errors import Unauthenticated, Unavailable

NAME = "tidegate.internal"


def issue(folder: Path, authority: trustme.CA, name: str, *hosts: str) -> dict[str, Path]:
    """A certificate and its key, as files by their name."""
    issued = authority.issue_cert(*hosts)
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    return {
        "key": put(folder / f"{name}.key", issued.private_key_pem.bytes()),
        "cert": put(folder / f"{name}.pem", chain),
    }


def put(file: Path, text: bytes) -> Path:
    """Write a file whole, as whoever renews certificates does: by a rename."""
    new = file.with_suffix(".new")
    new.write_bytes(text)
    return new.rename(file)


def renew(folder: Path) -> None:
    """Other authorities than before, for callers and within."""
    inside, outside = trustme.CA(), trustme.CA()
    outside.cert_pem.write_to_path(str(folder / "later.pem"))
    put(folder / "servers.pem", inside.cert_pem.bytes())
    issue(folder, inside, "server", NAME)
    issue(folder, inside, "envoy", "envoy.internal")
    issue(folder, outside, "front", "localhost", "127.0.0.1")


def await_that(holds: Callable[[], bool]) -> None:
    """Wait until it holds; calls may fail meanwhile."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(Unavailable):
            if holds():
                return
        time.sleep(0.1)
    raise AssertionError("it never did")


def test_calls_go_encrypted_through_envoy_to_a_server_that_admits_envoy_alone(
    small: SmallModel, tmp_path: Path
) -> None:
    inside, outside = trustme.CA(), trustme.CA()
    inside.cert_pem.write_to_path(str(tmp_path / "servers.pem"))
    outside.cert_pem.write_to_path(str(tmp_path / "outside.pem"))
    issue(tmp_path, outside, "front", "localhost", "127.0.0.1")
    issue(tmp_path, inside, "envoy", "envoy.internal")
    own = issue(tmp_path, inside, "server", NAME)
    flags = {"tls_cert": own["cert"], "tls_key": own["key"]}
    flags |= {"tls_client_ca": tmp_path / "servers.pem", "access": tmp_path / "access.toml"}
    flags["access"].write_text(entry("me", ["step"], "acme"))

    async def step(address: str, tls: Tls, token: str | None = "secret-me") -> int:
        options = ClientOptions(
            timeout=20.0, shards=64, tls=tls, token=token, retry=RetryPolicy(attempts=1)
        )
        async with Client(address, options) as client, client.session("small", "s") as session:
            await session.step(np.zeros(5, np.float32))
            return session.steps

    with running_server(small.repository, **flags) as server:
        envoy = Envoy([server.address], tmp_path)
        try:
            envoy.await_healthy([server.address])
            assert asyncio.run(step(envoy.address, Tls(tmp_path / "outside.pem"))) == 1
            with pytest.raises(Unauthenticated):
                asyncio.run(step(envoy.address, Tls(tmp_path / "outside.pem"), None))
            with pytest.raises(Unavailable):  # who does not trust Envoy
                asyncio.run(step(envoy.address, Tls(tmp_path / "servers.pem")))
            with pytest.raises(Unavailable):  # past Envoy, without a certificate
                asyncio.run(step(server.address, Tls(tmp_path / "servers.pem")))

            # All certificates are renewed by other authorities. Nothing is started again.
            renew(tmp_path)
            await_that(lambda: asyncio.run(step(envoy.address, Tls(tmp_path / "later.pem"))) == 1)
            with pytest.raises(Unavailable):
                asyncio.run(step(envoy.address, Tls(tmp_path / "outside.pem")))
        finally:
            envoy.stop()
