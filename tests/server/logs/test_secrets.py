"""Passwords and what lets callers in are in no log and no error."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.conftest import SmallModel
from tests.harness import ROOT, running_server
from tests.server.store.redis_server import RedisServer
from tests.server.wire.wire import connected
from tidegate.v1 import tidegate_pb2 as pb

SECRET = "hunter2-is-secret"


def test_why_it_cannot_start_is_json_too(small: SmallModel) -> None:
    done = cannot_start(small, "--log-format", "json", "--device", "cuda")
    assert "device cuda cannot be used" in json.loads(done.splitlines()[-1])["message"]


def cannot_start(small: SmallModel, *flags: str) -> str:
    """All that it says."""
    command = [sys.executable, "-m", "server", "--model-repository", str(small.repository)]
    command += ["--port", "0", "--metrics-port", "0", "--store", "none"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 2, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}/more@127.0.0.1:1/0",
        f"redis://me:{SECRET}#more@127.0.0.1:1/0",
        "redis://me:2718281828/more@127.0.0.1:1/0",
        f"redis://me:{SECRET}@127.0.0.1:99999999/0",
        f"redis://me:{SECRET}@127.0.0.1:1/0",
    ],
)
def test_the_password_of_a_redis_that_cannot_be_reached_is_not_told(
    small: SmallModel, url: str
) -> None:
    said = cannot_start(small, "--store", "redis", "--redis-url", url, "--log-level", "debug")
    assert re.search("redis", said)
    assert "hunter2" not in said
    assert "2718281828" not in said


def test_the_password_that_redis_refuses_is_not_told(small: SmallModel) -> None:
    redis = RedisServer("--user", "default", "on", "nopass", "~*", "+@all")
    try:
        url = f"unix://me:{SECRET}@{redis.socket}"
        said = cannot_start(small, "--store", "redis", "--redis-url", url)
    finally:
        redis.stop()
    assert "refuses this server" in said
    assert SECRET not in said


def test_headers_that_let_callers_in_are_not_told_even_to_who_debugs(small: SmallModel) -> None:
    with running_server(small.repository, log_level="debug") as server, connected(server) as stub:
        stub.ListModels(pb.ListModelsRequest(), metadata=(("authorization", f"Bearer {SECRET}"),))
        assert server.terminate() == 0
        assert " DEBUG " in server.log()
        assert SECRET not in server.log()
