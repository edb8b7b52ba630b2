"""`tidegate models load`, `unload`, `migrate`, `shadow`, as operators run them."""

from __future__ import annotations

from pathlib import Path

from tests.cli.running import tidegate
from tests.harness import RunningServer, running_server, small_model
from tidegate import SyncClient


def models(server: RunningServer, *words: object) -> tuple[int, str, str]:
    done = tidegate("models", "--address", server.address, *words)
    return done.returncode, done.stdout, done.stderr


def test_a_version_is_loaded_its_sessions_moved_and_the_old_one_unloaded(tmp_path: Path) -> None:
    small_model(tmp_path)
    with running_server(tmp_path, watch_seconds=0) as server, SyncClient(server.address) as client:
        client.open_session("small", "s")
        client.open_session("small", "t")
        status, _, told = models(server, "load", "small", 2)
        assert (status, told) == (1, "tidegate: model 'small' has no version 2\n")
        small_model(tmp_path, version=2, seed=2)
        assert models(server, "load", "small", 2) == (0, "small/2 serves\n", "")
        status, told, why = models(
            server, "migrate", "small", 1, 2, "--session", "s", "--session", "x"
        )
        assert (status, told) == (1, "1 sessions went to small/2, 1 stay\n")
        assert why == "tidegate: x stays: model 'small' has no session 'x'\n"
        assert client.get_session("small", "s").version == 2
        status, told, _ = models(server, "unload", "small", 1)
        assert told == "small/1 takes no new sessions and waits for 1 sessions\n"
        assert models(server, "migrate", "small", 1, 2, "--all")[:2] == (
            0,
            "1 sessions went to small/2, 0 stay\n",
        )
        assert client.get_session("small", "t").version == 2


def test_a_version_becomes_a_shadow_and_is_none_again(tmp_path: Path) -> None:
    small_model(tmp_path)
    small_model(tmp_path, version=2, seed=2)
    with running_server(tmp_path) as server, SyncClient(server.address) as client:
        assert models(server, "shadow", "small", 2) == (0, "small/2 is a shadow\n", "")
        assert client.model("small").version == 1
        words = ("shadow", "small", 2, "--off")
        assert models(server, *words) == (0, "small/2 is no shadow\n", "")
        assert client.model("small").version == 2
