"""Passwords and what lets callers in are in no log and no error."""

from __future__ import annotations

import json
import subprocess
import sys
import traceback

import pytest

from server.store.interface import StoreUnreachable, StoreUnusable
from server.store.redis import RedisSettings, RedisStore
from tests.conftest import SmallModel
from tests.harness import ROOT
from tests.server.store.redis_server import RedisServer

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
    ("url", "says"),
    [
        (f"redis://:{SECRET}/more@127.0.0.1:1/0", "percent-encoded"),
        (f"redis://me:{SECRET}#more@127.0.0.1:1/0", "percent-encoded"),
        ("redis://me:2718281828/more@127.0.0.1:1/0", "percent-encoded"),
        (f"redis://me:{SECRET}@127.0.0.1:99999999/0", "malformed"),
        (f"redis://me:{SECRET}@127.0.0.1:1/0", "redis at 127.0.0.1:1/0"),
    ],
)
def test_the_password_of_a_redis_that_cannot_be_reached_is_not_told(url: str, says: str) -> None:
    with pytest.raises((StoreUnusable, StoreUnreachable)) as caught:
        RedisStore(RedisSettings(url, "memory", 1, 10.0, 60.0, 3600.0))
    assert says in str(caught.value)
    told = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in told
    assert "2718281828" not in told


def test_the_password_that_redis_refuses_is_not_told(small: SmallModel) -> None:
    redis = RedisServer("--user", "default", "on", "nopass", "~*", "+@all")
    try:
        url = f"unix://me:{SECRET}@{redis.socket}"
        said = cannot_start(small, "--store", "redis", "--redis-url", url)
    finally:
        redis.stop()
    assert "refuses this server" in said
    assert SECRET not in said
