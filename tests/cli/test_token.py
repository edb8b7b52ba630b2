"""`tidegate token`: what it makes is what a server takes."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.cli.running import tidegate
from tests.harness import running_server, small_model


def test_tokens_are_taken_by_a_server_as_their_entries_say(tmp_path: Path) -> None:
    small_model(tmp_path / "models")
    made = [
        tidegate("token", "plain", "--out", tmp_path / "plain"),
        tidegate("token", "acme@x", "--tenant", "acme", "--role", "inspect", "--role", "admin",
                 "--out", tmp_path / "acme"),
    ]  # fmt: skip
    assert [(each.returncode, each.stderr) for each in made] == [(0, ""), (0, "")]
    entries = "".join(each.stdout for each in made)
    access = tmp_path / "access.toml"
    access.write_text(entries)
    for name in ("plain", "acme"):
        file = tmp_path / name
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.read_text().strip() not in entries
    with running_server(tmp_path / "models", access=access) as server:

        def run(name: str, *words: str) -> tuple[int, str]:
            said = ("--address", server.address, "--token-file", tmp_path / name)
            done = tidegate(*words, *said)
            return done.returncode, done.stdout + done.stderr

        assert run("plain", "models")[0] == run("acme", "models")[0] == 0
        assert run("acme", "server", "show")[0] == 0
        status, told = run("plain", "server", "show")
        assert status and "admin" in told
        status, told = run("access.toml", "models")
        assert status and "token" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("a b",), "'a b': 1 to 128 of"),
        (("me", "--tenant", "a/b"), "'a/b': 1 to 64 of"),
        (("me", "--tenant", ""), "'': 1 to 64 of"),
        (("me", "--role", "root"), "invalid choice: 'root'"),
    ],
)
def test_what_no_server_would_take_is_not_made(
    tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    done = tidegate("token", *words, "--out", tmp_path / "token")
    assert done.returncode == 2 and told in done.stderr
    assert not (tmp_path / "token").exists()


def test_a_token_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("old")
    done = tidegate("token", "me", "--out", tmp_path / "token")
    assert done.returncode and str(tmp_path / "token") in done.stderr and not done.stdout
    assert (tmp_path / "token").read_text() == "old"
