"""TLS from the caller to Envoy, and mTLS from Envoy to the server, as the configuration has it once
its comments are taken away; and the caller's token all the way."""

from __future__ import annotations

import asyncio
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
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    return {"cert": cert, "key": key}


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
        finally:
            envoy.stop()
