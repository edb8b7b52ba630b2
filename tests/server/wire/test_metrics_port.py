"""The metrics port holds up neither callers nor scrapes nor the end, whatever is done to it."""

from __future__ import annotations

import re
import resource
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge

from server.transport import metrics_port
from server.transport.metrics_port import MetricsPort
from tests.conftest import SmallModel
from tests.harness import RunningServer, running_server
from tests.server.transports import NATIVE, over
from tests.server.wire.wire import connected, observations, step_request
from tidegate.v1 import tidegate_pb2 as pb

pytestmark = over(NATIVE)

IDLE = 3_000


def where(server: RunningServer) -> tuple[str, int]:
    host, _, port = server.metrics_url.split("/")[2].rpartition(":")
    return host.strip("[]"), int(port)


def threads(server: RunningServer) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))


def files(server: RunningServer) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def listening(server: RunningServer) -> set[str]:
    """The sockets on which the server listens, by inode."""
    folder = Path(f"/proc/{server.process.pid}")
    tables = [(folder / "net" / name).read_text() for name in ("tcp", "tcp6")]
    lines = [line.split() for line in "".join(tables).splitlines()]
    inodes = {f"socket:[{words[9]}]" for words in lines if words[3] == "0A"}
    return inodes & {str(each.readlink()) for each in (folder / "fd").iterdir()}


@contextmanager
def enough_files() -> Iterator[None]:
    """As many as the many connections need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8_192)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def begun(address: tuple[str, int]) -> socket.socket:
    """A connection, or one on its way."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex(address)
    return sock


def test_idle_connections_cost_no_threads_and_hold_up_nobody(small: SmallModel) -> None:
    x = observations(1, 2)
    with enough_files(), ExitStack() as idle, running_server(small.repository) as server:
        with connected(server) as stub:
            stub.Open(pb.OpenRequest(model="small", session_id="one"))
            before = threads(server)
            for _ in range(IDLE):
                idle.enter_context(begun(where(server)))
            stub.Step(step_request("one", 0, x[0]), timeout=30)
            assert server.metric("tidegate_steps_total") == 1
            stub.Step(step_request("one", 1, x[1]), timeout=30)
            assert server.metric("tidegate_steps_total") == 2
        assert threads(server) <= before + 2
        assert files(server) < 300 + before
        assert server.terminate() == 0


def answer(server: RunningServer, asked: bytes) -> bytes:
    with socket.create_connection(where(server), timeout=30) as sock:
        sock.sendall(asked)
        return b"".join(iter(lambda: sock.recv(65_536), b""))


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
        (b"GET /metrics HTTP/1.0\r\n\r\n", b"200"),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", b"405"),
        (b"\x16\x03\x01 no request\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 100_000, b"431"),
    ],
    ids=["get", "old", "post", "rubbish", "endless"],
)
def test_whatever_is_asked_is_answered(server: RunningServer, asked: bytes, status: bytes) -> None:
    told = answer(server, asked)
    assert re.match(rb"HTTP/1.1 " + status, told)
    assert (b"tidegate_steps_total" in told) == (status == b"200")


def test_a_page_comes_as_the_scraper_asks(server: RunningServer) -> None:
    request = urllib.request.Request(
        server.metrics_url,
        headers={
            "Accept": "application/openmetrics-text; version=1.0.0",
            "Accept-Encoding": "gzip",
        },
    )
    with urllib.request.urlopen(request, timeout=30) as page:
        assert page.headers["Content-Type"].startswith("application/openmetrics-text")
        assert page.headers["Content-Encoding"] == "gzip"


def test_a_half_sent_request_and_a_reader_who_does_not_read_keep_nobody_from_the_end(
    small: SmallModel,
) -> None:
    with ExitStack() as stack, running_server(small.repository) as server:
        for asked in (b"GET /metr", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n") * 20:
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            sock.connect(where(server))
            sock.sendall(asked)
        server.metrics()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0


def test_whoever_is_slow_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_port, "PATIENCE", 0.2)
    registry = CollectorRegistry()
    Gauge("large", "x" * 10_000_000, registry=registry)  # more than sockets hold
    served = MetricsPort(registry, "127.0.0.1", 0)
    try:
        address = "127.0.0.1", served.start()
        with socket.create_connection(address, timeout=60) as half:
            half.sendall(b"GET /metr")
            assert half.recv(1) == b""
        with socket.create_connection(address, timeout=60) as slow:
            slow.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            slow.recv(1)
            while served.connections:
                time.sleep(0.01)
            assert len(b"".join(iter(lambda: slow.recv(65_536), b""))) < 10_000_000
    finally:
        served.stop()


def test_the_metrics_have_a_host_of_their_own_or_none(small: SmallModel) -> None:
    with running_server(small.repository, metrics_host="127.0.0.2") as server:
        assert where(server)[0] == "127.0.0.2"
        assert "tidegate_steps_total" in server.metrics()
    with running_server(small.repository, metrics_port="off") as server:
        assert "metrics=off" in server.log()
        assert len(listening(server)) == 1
        with connected(server) as stub:
            stub.Open(pb.OpenRequest(model="small", session_id="one"))
