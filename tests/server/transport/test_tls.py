"""TLS on both transports, with real certificates: who may come in, and certificates that change."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme
from h2.config import H2Configuration
from h2.connection import H2Connection

from server.config import ConfigError, from_arguments
from server.transport.http2.loop import Loop
from server.transport.tls import Certificates
from server.watched import LOOK_SECONDS
from tests.client.proxy import Proxy
from tests.harness import ROOT, RunningServer, running_server, small_model
from tests.server.transport.serving import LARGEST, METHOD, echoes
from tidegate import Client, ClientOptions, RetryPolicy, Tls
from tidegate.errors import Unavailable

TRANSPORTS = ["native", "aio"]
ONCE = RetryPolicy(attempts=1)


@dataclass(frozen=True)
class Files:
    """PEM files of one authority and what it signed."""

    ca: Path
    cert: Path
    key: Path

    @property
    def flags(self) -> dict[str, object]:
        """A server's."""
        return {"tls_cert": self.cert, "tls_key": self.key}


def signed(folder: Path, authority: trustme.CA | None = None, name: str = "localhost") -> Files:
    """A certificate, its key, and who signed it."""
    authority, files = authority or trustme.CA(), Files(*(folder / f"{k}.pem" for k in "abc"))
    folder.mkdir(exist_ok=True)
    issued = authority.issue_cert(name, "127.0.0.1")
    authority.cert_pem.write_to_path(str(files.ca))
    files.key.write_bytes(issued.private_key_pem.bytes())
    files.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    return files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The server's."""
    return signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a small model."""
    folder = tmp_path_factory.mktemp("models")
    small_model(folder)
    return folder


def steps(server: RunningServer, tls: Tls | None) -> int:
    """Step a session twice; returns its steps."""

    async def play() -> int:
        options = ClientOptions(timeout=20.0, retry=ONCE, tls=tls)
        async with (
            Client(server.address, options) as client,
            client.session("small", "s") as session,
        ):
            for _ in range(2):
                await session.step(np.zeros(5, np.float32))
            return session.steps

    return asyncio.run(play())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_who_trusts_the_server_is_served_and_nobody_else_is(
    files: Files, models: Path, tmp_path: Path, transport: str
) -> None:
    stranger = signed(tmp_path / "stranger")
    with running_server(models, transport=transport, **files.flags) as server:
        assert steps(server, Tls(ca=files.ca)) == 2
        for tls in (None, Tls(ca=stranger.ca)):
            with pytest.raises(Unavailable):
                steps(server, tls)
        assert steps(server, Tls(ca=files.ca)) == 2
        assert "Handshake failed" not in server.log()  # a line a peer, past all that bounds the log


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_server_that_asks_for_certificates_serves_those_its_authority_signed(
    files: Files, models: Path, tmp_path: Path, transport: str
) -> None:
    authority = trustme.CA()
    friend = signed(tmp_path / "friend", authority, "a-client")
    stranger = signed(tmp_path / "stranger", None, "a-client")
    flags = files.flags | {"tls_client_ca": friend.ca, "transport": transport}
    with running_server(models, **flags) as server:
        assert steps(server, Tls(files.ca, friend.cert, friend.key)) == 2
        for tls in (Tls(files.ca), Tls(files.ca, stranger.cert, stranger.key)):
            with pytest.raises(Unavailable):
                steps(server, tls)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_new_certificates_are_used_without_a_restart_and_bad_ones_are_not(
    models: Path, tmp_path: Path, transport: str
) -> None:
    old = signed(tmp_path / "served")
    new = signed(tmp_path / "new")

    async def play(server: RunningServer) -> None:
        options = ClientOptions(timeout=20.0, retry=ONCE, tls=Tls(ca=old.ca))
        async with (
            Client(server.address, options) as client,
            client.session("small", "old") as session,
        ):
            await session.step(np.zeros(5, np.float32))
            old.cert.write_bytes(b"no certificate")
            time.sleep(2 * LOOK_SECONDS)
            assert await asyncio.to_thread(steps, server, Tls(ca=old.ca)) == 2
            new.cert.replace(old.cert)
            new.key.replace(old.key)
            deadline = time.monotonic() + 60
            while not await asyncio.to_thread(serves, server, Tls(ca=new.ca)):
                assert time.monotonic() < deadline
            await session.step(np.zeros(5, np.float32))  # the old connection goes on
            assert session.steps == 2

    with running_server(models, transport=transport, **old.flags) as server:
        asyncio.run(play(server))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_client_whose_certificates_are_renewed_goes_on_without_a_restart(
    models: Path, tmp_path: Path, transport: str
) -> None:
    """Server and client come to be signed by another authority, and trust no other any more."""
    old, new = signed(tmp_path / "old"), signed(tmp_path / "new")
    tls = Tls(ca=old.ca, cert=old.cert, key=old.key)

    async def play(server: RunningServer, proxy: Proxy) -> None:
        options = ClientOptions(timeout=20.0, tls=tls)
        async with (
            Client(proxy.address, options) as client,
            client.session("small", "renewed") as session,
        ):
            await session.step(np.zeros(5, np.float32))
            for name in ("ca", "cert", "key"):
                getattr(new, name).replace(getattr(old, name))
            deadline = time.monotonic() + 60
            while not await asyncio.to_thread(serves, server, tls):
                assert time.monotonic() < deadline
            await session.step(np.zeros(5, np.float32))  # the old connection goes on
            proxy.cut()
            await session.step(np.zeros(5, np.float32))
            assert (await session.info()).steps == session.steps == 3

    flags = old.flags | {"tls_client_ca": old.ca}
    with (
        running_server(models, transport=transport, **flags) as server,
        Proxy(server.address) as proxy,
    ):
        asyncio.run(play(server, proxy))


def mount(folder: Path, files: Files, turn: str) -> Files:
    """Have a volume show a secret's files, as Kubernetes' kubelet does: each name is a link through
    `..data`, which is replaced in one move; then what it led to before is removed."""
    data, before = folder / "..data", (folder / "..data").resolve()
    shown = folder / f"..{turn}"
    shown.mkdir(parents=True)
    for file in (files.ca, files.cert, files.key):
        file.replace(shown / file.name)
        if not (folder / file.name).is_symlink():
            (folder / file.name).symlink_to(f"..data/{file.name}")
    (folder / "..data_tmp").symlink_to(shown.name)
    (folder / "..data_tmp").replace(data)
    if before != data:
        shutil.rmtree(before)
    return Files(*(folder / file.name for file in (files.ca, files.cert, files.key)))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_secret_that_kubernetes_swaps_is_used_without_a_restart(
    models: Path, tmp_path: Path, transport: str
) -> None:
    authorities = [trustme.CA(), trustme.CA()]
    made = [signed(tmp_path / str(k), each) for k, each in enumerate(authorities)]
    friends = [signed(tmp_path / f"friend{k}", each) for k, each in enumerate(authorities)]
    tls = [Tls(friend.ca, friend.cert, friend.key) for friend in friends]
    mounted = mount(tmp_path / "tls", made[0], "2026_01_01")
    flags = mounted.flags | {"tls_client_ca": mounted.ca, "transport": transport}
    with running_server(models, **flags) as server:
        assert serves(server, tls[0]) and not serves(server, tls[1])
        mount(tmp_path / "tls", made[1], "2026_01_02")
        deadline = time.monotonic() + 60
        while not serves(server, tls[1]):
            assert time.monotonic() < deadline
        assert not serves(server, tls[0])


def serves(server: RunningServer, tls: Tls) -> bool:
    """Whether a new client is served."""
    try:
        return steps(server, tls) == 2
    except Unavailable:
        return False


@pytest.fixture
def port(files: Files) -> Iterator[int]:
    """Of a loop that answers every message with itself."""
    found = Certificates(files.cert, files.key, None)
    served = Loop(
        echoes, lambda: None, lambda: None, largest_message=LARGEST, most_calls=100,
        secure=found.context,
    )  # fmt: skip
    port = served.listen("127.0.0.1", 0)
    served.start()
    yield port
    served.stop(5)


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_384, 300_000, LARGEST])
def test_messages_of_any_size_come_and_go_whole(files: Files, port: int, size: int) -> None:
    message = bytes(k % 251 for k in range(size))
    credentials = grpc.ssl_channel_credentials(files.ca.read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as opened:
        say: Any = opened.stream_stream(METHOD)
        assert list(say(iter([message] * 5), timeout=60)) == [message] * 5


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
def test_who_does_not_encrypt_is_let_go(port: int, words: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as plain:
        plain.sendall(words)
        with contextlib.suppress(ConnectionError):
            while plain.recv(1 << 16):
                pass


@pytest.mark.parametrize("protocols", [[], ["http/1.1"]])
def test_who_does_not_offer_http2_is_let_go(files: Files, port: int, protocols: list[str]) -> None:
    context = ssl.create_default_context(cafile=str(files.ca))
    if protocols:
        context.set_alpn_protocols(protocols)
    plain = socket.create_connection(("127.0.0.1", port), timeout=60)
    with context.wrap_socket(plain, server_hostname="localhost") as encrypted:
        assert not encrypted.recv(1 << 16)


def test_a_request_in_many_small_records_is_read_as_it_comes(files: Files, port: int) -> None:
    context = ssl.create_default_context(cafile=str(files.ca))
    context.set_alpn_protocols(["h2"])
    plain = socket.create_connection(("127.0.0.1", port), timeout=60)
    with closing(context.wrap_socket(plain, server_hostname="localhost")) as encrypted:
        http2 = H2Connection(H2Configuration())
        http2.initiate_connection()
        http2.ping(b"12345678")
        for byte in http2.data_to_send():
            encrypted.sendall(bytes([byte]))
        come = b""
        while b"12345678" not in come:
            more = encrypted.recv(1 << 16)
            assert more
            come += more


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tls-cert={cert}"], "tls_cert and tls_key go together"),
        (["--tls-key={key}"], "tls_cert and tls_key go together"),
        (["--tls-client-ca={ca}"], "tls_client_ca needs tls_cert"),
        (["--host=0.0.0.0"], "host '0.0.0.0' can be reached by others"),
        (["--host=::"], "host '::' can be reached by others"),
        (["--host=elsewhere"], "host 'elsewhere' can be reached by others"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_words(
    files: Files, flags: list[str], words: str
) -> None:
    given = [flag.format(**vars(files)) for flag in flags]
    with pytest.raises(ConfigError, match=words):
        from_arguments(given)


@pytest.mark.parametrize(
    "flags",
    [
        ["--host=0.0.0.0", "--insecure"],
        ["--host=::1"],
        ["--host=localhost"],
        ["--host=127.9.9.9"],
        ["--host=0.0.0.0", "--tls-cert={cert}", "--tls-key={key}"],
    ],
)
def test_settings_that_fit_are_taken(files: Files, flags: list[str]) -> None:
    assert from_arguments([flag.format(**vars(files)) for flag in flags]).host


def test_a_key_of_another_certificate_stops_the_start_in_words(
    files: Files, models: Path, tmp_path: Path
) -> None:
    other = signed(tmp_path / "other")
    command = [sys.executable, "-m", "server", "--model-repository", str(models), "--store=none"]
    command += [
        "--port=0",
        "--metrics-port=0",
        f"--tls-cert={files.cert}",
        f"--tls-key={other.key}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("tidegate-server: TLS with ") and "Traceback" not in done.stderr


def test_the_command_calls_an_encrypted_server(files: Files, models: Path) -> None:
    with running_server(models, **files.flags) as server:
        command = [sys.executable, "-m", "tidegate", "models", "--address", server.address]
        told = subprocess.run(
            [*command, "--tls-ca", str(files.ca)], capture_output=True, text=True, timeout=60
        )
        assert told.returncode == 0 and "small/1" in told.stdout
        refused = subprocess.run(
            [*command, "--timeout=2"], capture_output=True, text=True, timeout=60
        )
        assert refused.returncode != 0
        broken = subprocess.run(
            [*command, "--tls-ca", "/nowhere"], capture_output=True, text=True, timeout=60
        )
        assert broken.returncode == 2 and broken.stderr.startswith("tidegate: /nowhere: ")
