"""Names that would command a terminal: every command spells them out."""

from __future__ import annotations

import asyncio
import io
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from rich.console import Console

from tests.cli.running import tidegate
from tests.cli.terminal import on_terminal
from tests.cli.top.pages import Pages, canned, work
from tests.client.fake import FakeServer
from tests.harness import RunningServer
from tidegate import SyncClient
from tidegate.cli.top.change import changes
from tidegate.cli.top.tables import once
from tidegate.v1 import tidegate_pb2 as pb

RUDE = "a\x1b[31m\x1b]0;owned\x07\n9,999 forged\r\u202e[red]x[/red]"
SHOWN = r"a\x1b[31m\x1b]0;owned\x07\n9,999 forged\r\u202e[red]x[/red]"


def harmless(text: str) -> bool:
    """Whether a terminal only shows it."""
    return not any(unicodedata.category(c) in ("Cc", "Cf") for c in text.replace("\n", ""))


@pytest.fixture
def rude(shipped: RunningServer) -> Iterator[RunningServer]:
    """A server with a session of that name."""
    with SyncClient(shipped.address) as client, client.session("exercise", RUDE):
        yield shipped


@pytest.mark.parametrize(
    "words",
    [
        ["list", "exercise"],
        ["show", "exercise", RUDE],
        ["export", "exercise", RUDE, "--out", "{folder}/out"],
        ["close", "exercise", RUDE, f"no such {RUDE}"],
    ],
    ids=lambda words: words[0],
)
def test_a_session_s_name_is_spelt_out(
    rude: RunningServer, words: list[str], tmp_path: Path
) -> None:
    given = [word.replace("{folder}", str(tmp_path)) for word in words]
    done = tidegate("sessions", *given, "--address", rude.address)
    assert SHOWN in done.stdout
    assert harmless(done.stdout + done.stderr)
    assert "\n9,999 forged" not in done.stdout + done.stderr
    if words[0] == "close":
        assert done.returncode == 1
        assert "no such a" in done.stderr


def test_a_stream_s_sessions_and_values_are_spelt_out(
    shipped: RunningServer, tmp_path: Path
) -> None:
    file = tmp_path / "rude.csv"
    names = "session,label,ax,ay,az,wx,wy,wz,side\n"
    file.write_text(names + "".join(f'"{RUDE}",PEN,0.1,0.2,0.3,0.4,0.5,0.6,1\n' for _ in "ab"))
    given = ("stream", file, "--session-column", "session", "--model", "exercise")
    with on_terminal(*given, "--address", shipped.address, columns=160) as terminal:
        terminal.read_until(r"\\x1b\[31m\\x1b\]0;owned\\x07\\n9,999 forged\\r\\u202e\[red\]x")
        terminal.read_until(r"sessions   1\s")
        assert terminal.end() == 0
    for command in (b"\x1b[31m", b"\x1b]0;", b"\x07", "\u202e".encode()):
        assert command not in terminal.written
    file.write_text(names.replace("ax", "ay\x1b[31m"))
    done = tidegate(*given, "--address", shipped.address)
    assert (done.returncode, harmless(done.stderr)) == (2, True)


class RudeServer(FakeServer):
    """Its model's texts are rude, and so are its errors."""

    async def ListModels(self, request: Any, context: Any) -> pb.ListModelsReply:  # noqa: N802
        reply = await super().ListModels(request, context)
        reply.models[0].description = RUDE
        reply.models[0].features[0].unit = RUDE
        reply.models[0].outputs[0].labels.append(RUDE)
        return reply


def test_a_model_s_texts_and_a_server_s_errors_are_spelt_out() -> None:
    async def ask() -> list[Any]:
        async with RudeServer() as server:  # type: ignore[abstract]
            run = asyncio.to_thread
            models = await run(tidegate, "models", "--address", server.address)
            failure = pb.ErrorDetail(reason=pb.REASON_UNKNOWN_SESSION, message=RUDE)
            server.refusals.append((grpc.StatusCode.NOT_FOUND, failure))
            which = ("sessions", "show", "fake", "s", "--address", server.address)
            return [models, await run(tidegate, *which)]

    models, failed = asyncio.run(ask())
    assert models.stdout.count(SHOWN) == 3
    assert harmless(models.stdout)
    assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (1, "", 1)
    assert r"a\x1b[31m\x1b]0;owned\x07" in failed.stderr
    assert harmless(failed.stderr)


def test_top_spells_out_names_of_models() -> None:
    pages = Pages()
    rude = pages.model(RUDE, 1)
    before, text = pages.page(0.0), pages.text()
    work(rude, 100)
    after = pages.page(1.0)
    drawn = io.StringIO()
    Console(file=drawn, width=250).print(once(changes(before, after), 250))
    assert f"{SHOWN}/1" in drawn.getvalue()
    assert harmless(drawn.getvalue())
    with canned([text, pages.text()]) as url:
        done = tidegate("top", "--metrics", url, "--interval", "0.1", "--once")
    assert done.returncode == 0
    assert SHOWN[:9] in done.stdout
    assert harmless(done.stdout)
