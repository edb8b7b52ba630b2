"""Tokens at the client: sent with every call and stream, and new ones taken up as old ones end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.running import tidegate
from tests.conftest import SmallModel
from tests.harness import RunningServer, running_server
from tests.server.access.doors import entry, guarded
from tidegate import Client, ClientOptions, RetryPolicy
from tidegate._stream.operator import Operator
from tidegate._stream.stream import Stream
from tidegate.errors import NotAllowed, QuotaReached, TidegateError, Unauthenticated

X = np.zeros(5, np.float32)
SAID = entry("a", tenant="a") + entry("b", tenant="b") + entry("looks", ["inspect"], "a")


@pytest.fixture(scope="module")
def server(small: SmallModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of two tenants."""
    file = tmp_path_factory.mktemp("access") / "access.toml"
    with guarded(small.repository, file, SAID) as running:
        yield running


def options(token: Any, **more: Any) -> ClientOptions:
    return ClientOptions(token=token, retry=RetryPolicy(attempts=1), **more)


async def use(server: RunningServer, token: Any, shards: int = 1) -> int:
    """Every kind of call with a session."""
    async with (
        Client(server.address, options(token, shards=shards)) as client,
        client.session("small", "s", keep=True) as session,
    ):
        await session.step(X)
        copy = await session.fork("copy")
        await copy.step(X)
        await copy.close()
        listed = [each.session_id async for each in client.sessions("small")]
        assert listed == ["s"]
        return session.steps


@pytest.mark.parametrize("shards", [1, 64])
@pytest.mark.parametrize("kind", ["text", "file", "function"])
def test_a_token_goes_with_every_call(
    server: RunningServer, tmp_path: Path, kind: str, shards: int
) -> None:
    (tmp_path / "token").write_text("secret-a\n")
    tokens: dict[str, str | Path | Callable[[], str]] = {
        "text": "secret-a", "file": tmp_path / "token", "function": lambda: "secret-a",
    }  # fmt: skip
    assert asyncio.run(use(server, tokens[kind], shards)) >= 1
    assert asyncio.run(use(server, "secret-b", shards)) >= 1


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        (None, Unauthenticated),
        ("secret-nobody", Unauthenticated),
        ("", Unauthenticated),
        ("two\nlines", Unauthenticated),
        (Path("/nowhere/token"), Unauthenticated),
        (lambda: 1 / 0, Unauthenticated),
        ("secret-looks", NotAllowed),
    ],
)
def test_who_may_not_call_hears_why_at_once(
    server: RunningServer, token: Any, kind: type[TidegateError]
) -> None:
    with pytest.raises(kind):
        asyncio.run(use(server, token))

    async def step() -> None:
        async with Client(server.address, options("secret-a")) as client:
            model = await client.model("small")
            assert model.version == 1
            object.__setattr__(client.options, "token", token)  # the stream's turn
            done = await client.step_many("small", ["m"], np.zeros(1, np.int64), X[None])
            raise done.errors[0]

    with pytest.raises(kind):
        asyncio.run(step())


def test_a_stream_refused_while_it_is_written_to_tells_why(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Stream._write

    async def late(self: Stream, call: Any) -> None:
        await call.wait_for_connection()
        time.sleep(0.02)  # gRPC has the refusal, and most often has not told this loop
        await write(self, call)

    monkeypatch.setattr(Stream, "_write", late)

    async def play() -> None:
        async with Client(server.address, options("secret-a")) as client:
            await client.model("small")
            object.__setattr__(client.options, "token", "secret-looks")
            done = await client.step_many("small", ["m"], np.zeros(1, np.int64), X[None])
            raise done.errors[0]

    for _ in range(10):
        with pytest.raises(NotAllowed):
            asyncio.run(play())


def test_a_stream_goes_on_with_the_next_token_when_one_runs_out(
    small: SmallModel, tmp_path: Path
) -> None:
    token, file = tmp_path / "token", tmp_path / "access.toml"
    token.write_text("secret-old")

    async def play(running: RunningServer) -> int:
        async with (
            Client(running.address, options(token)) as client,
            client.session("small", "s") as session,
        ):
            await session.step(X)
            stream = await client.stream_of("small", 1, "s")
            token.write_text("secret-new")
            file.write_text(entry("new"))
            while not stream.breaks:  # until the server has looked at its file again
                async with Client(running.address, options("secret-new")) as other:
                    await other.models()
                await session.step(X)
            await session.step(X)
            return session.steps

    with guarded(small.repository, file, entry("old") + entry("new")) as running:
        assert asyncio.run(play(running)) >= 3


def test_a_quota_is_waited_for(small: SmallModel, tmp_path: Path) -> None:
    said = entry("a", tenant="a") + "[tenants.a]\nsteps_per_second = 20\n"

    async def play(running: RunningServer, attempts: int) -> None:
        given = ClientOptions(token="secret-a", retry=RetryPolicy(attempts=attempts))
        async with Client(running.address, given) as client:
            ids = [f"s{k}" for k in range(30)]
            done = await client.step_many(
                "small", ids, np.zeros(30, np.int64), np.zeros((30, 5), np.float32)
            )
            assert not done.errors
            again = await client.step_many(
                "small", ids, np.ones(30, np.int64), np.zeros((30, 5), np.float32)
            )
            if again.errors:
                raise next(iter(again.errors.values()))

    file = tmp_path / "access.toml"
    with guarded(small.repository, file, said) as running, pytest.raises(QuotaReached):
        asyncio.run(play(running, 1))
    with guarded(small.repository, file, said) as running:
        asyncio.run(play(running, 5))


def test_operators_have_tokens_too(server: RunningServer) -> None:
    async def load(token: str) -> None:
        async with Operator(server.address, options(token)) as operator:
            await operator.load("small", 1)

    asyncio.run(load("secret-a"))
    with pytest.raises(NotAllowed):
        asyncio.run(load("secret-looks"))


def test_no_token_is_shown() -> None:
    assert "secret" not in repr(ClientOptions(token="secret-a"))


def test_the_command_makes_a_token_and_uses_it(small: SmallModel, tmp_path: Path) -> None:
    file, token = tmp_path / "access.toml", tmp_path / "token"
    made = tidegate(
        "token", "me", "--tenant", "acme", "--role", "step", "--role", "inspect", "--out", token
    )
    assert made.returncode == 0
    file.write_text(made.stdout)
    assert token.read_text().strip() not in made.stdout + made.stderr
    assert token.stat().st_mode & 0o777 == 0o600
    again = tidegate("token", "me", "--out", token)
    assert (again.returncode, again.stdout) == (2, "")
    with running_server(small.repository, access=file) as running:
        where = ("--address", running.address)
        done = tidegate("models", *where, "--token-file", token)
        assert done.returncode == 0, done.stderr
        assert "small/1" in done.stdout
        refused = tidegate("models", *where)
        assert refused.returncode == 1
        assert "no token" in refused.stderr
        nowhere = tidegate("models", *where, "--token-file", tmp_path / "none")
        assert nowhere.returncode == 2
