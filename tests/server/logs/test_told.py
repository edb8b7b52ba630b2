"""What a server tells: in lines that are its own, or in objects of JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from tests.conftest import SmallModel
from tests.harness import ROOT, RunningServer, await_ready, start
from tests.server.wire.wire import connected
from tidegate.v1 import tidegate_pb2 as pb

TRANSPORTS = ("native", "aio")
RECORD = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z [A-Z]+ [\w.]+ ")
FORGED = "x\n2026-01-01T00:00:00.000Z CRITICAL server.app all is lost\x1b[2J\u202e"
SECRET = "hunter2-is-secret"

BROKEN = """
import sys
from server.api import description
from server.__main__ import main
def broken(*_):
    raise RuntimeError("struck by {forged!r}")
description.models = broken
sys.exit(main())
"""


@pytest.fixture
def broken(small: SmallModel, request: Any) -> Iterator[RunningServer]:
    """A server whose `ListModels` fails, with what a caller might have chosen in its words."""
    code = BROKEN.replace("{forged!r}", FORGED.encode("unicode_escape").decode())
    process, log = start(small.repository, *request.param, code=code)
    try:
        yield await_ready(process, log)
    finally:
        process.kill()
        process.wait()


def fail(server: RunningServer, request_id: str) -> None:
    with connected(server) as stub, pytest.raises(grpc.RpcError) as caught:
        stub.ListModels(pb.ListModelsRequest(), metadata=(("x-request-id", request_id),))
    assert caught.value.code() is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize(
    "broken",
    [["--log-format", "text", "--transport", each] for each in TRANSPORTS],
    indirect=True,
    ids=TRANSPORTS,
)
def test_nobody_can_write_a_line_of_the_log(broken: RunningServer) -> None:
    fail(broken, "request-7")
    with connected(broken) as stub, pytest.raises(grpc.RpcError):
        stub.Export(pb.ExportRequest(model=FORGED, session_id=FORGED))
    assert broken.terminate() == 0
    lines = broken.log().splitlines()
    assert all(RECORD.match(line) or line.startswith("    ") for line in lines)
    assert all(line.isprintable() for line in lines)
    assert not any(
        " CRITICAL server.app all is lost" in RECORD.sub("", line[:60]) for line in lines
    )
    assert sum("struck by x\\n2026" in line for line in lines) == 1
    (failed,) = (line for line in lines if "a call failed unexpectedly" in line)
    assert failed.endswith(' request_id="request-7"')
    (audited,) = (line for line in lines if " server.audit Export " in line)
    assert r'session="x\n2026-01-01T00:00:00.000Z CRITICAL server.app all is lost\x1b' in audited


@pytest.mark.parametrize("broken", [["--log-format", "json"]], indirect=True, ids=["json"])
def test_with_json_every_line_is_an_object(broken: RunningServer) -> None:
    fail(broken, "request-7")
    fail(broken, "r" * 129)
    with connected(broken) as stub:
        stub.Open(pb.OpenRequest(model="small", session_id=FORGED))
        stub.Export(pb.ExportRequest(model="small", session_id=FORGED))
    assert broken.terminate() == 0
    records = [json.loads(line) for line in broken.log().splitlines()]
    assert all({"ts", "level", "logger", "message"} <= set(each) for each in records)
    first, second = (each for each in records if "exception" in each)
    assert (first["request_id"], second.get("request_id")) == ("request-7", None)
    assert first["exception"].split("\n")[-1].startswith("RuntimeError: struck by x\\n2026")
    (audited,) = (each for each in records if each["logger"] == "server.audit")
    assert audited["message"] == "Export"
    assert audited["session"].encode().decode("unicode_escape") == FORGED


PRINTS = r"""
import sys, threading, warnings
from server.logs.setup import begin, follow
writer = begin()
follow(writer, "info", "text", True)
print("printed \x1b[2J", file=sys.stderr)
def dies(): raise ValueError("struck\nby lightning")
thread = threading.Thread(target=dies, name="doomed")
thread.start(); thread.join()
warnings.warn("it is old")
writer.close()
"""


def test_what_libraries_print_and_threads_last_words_are_records_too() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINTS], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 0
    assert all(RECORD.match(line) for line in lines)
    assert lines[0].endswith(r" WARNING stderr printed \x1b[2J")
    assert any("Exception in thread doomed" in line for line in lines)
    assert any("by lightning" in line for line in lines)
    assert any(" WARNING py.warnings " in line and "it is old" in line for line in lines)
