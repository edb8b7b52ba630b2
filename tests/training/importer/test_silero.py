"""A model of somebody else's, imported by its command and served to 100 callers at once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from tests.harness import running_server
from tests.training.importer.speech import one_call_at_a_time, pieces, silero
from tidegate import Client, Session
from training.__main__ import main
from training.network import Floats

CALLS, FRAMES = 100, 40
OPTIONS = "--state state=stateN:1 --input input --output output --const sr=16000 "
OPTIONS += "--context 64 --input-shape 576"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model `silero/1`."""
    folder = tmp_path_factory.mktemp("models")
    assert (
        main(["import", str(silero()), *OPTIONS.split(), "--out", str(folder / "silero" / "1")])
        == 0
    )
    return folder


def served(repository: Path, calls: list[Floats]) -> list[Floats]:
    """The probabilities of all calls, each a session of its own, made at the same time."""

    async def call(session: Session, frames: Floats) -> Floats:
        return np.array([(await session.step(frame))[0] for frame in frames])

    async def together(address: str) -> list[Floats]:
        async with Client(address) as client:
            sessions = [client.session("silero", f"call-{k}") for k in range(len(calls))]
            await asyncio.gather(*(session.open() for session in sessions))
            return await asyncio.gather(*map(call, sessions, calls))

    with running_server(repository) as server:
        found = asyncio.run(together(server.address))
        rows = server.metric("tidegate_batch_rows_sum")
        assert rows == sum(map(len, calls))
        assert rows / server.metric("tidegate_batch_rows_count") > 20  # many calls in one run
    return found


def test_100_calls_at_once_hear_what_each_alone_hears_from_the_original_file(
    repository: Path,
) -> None:
    calls = pieces(CALLS, FRAMES)
    expected = one_call_at_a_time(calls)
    found = served(repository, calls)
    assert [len(each) for each in found] == [len(each) for each in calls]
    assert np.abs(np.concatenate(found) - np.concatenate(expected)).max() <= 1e-4
    assert np.concatenate(found).max() > 0.9  # somebody speaks
    assert np.concatenate(found).min() < 0.1  # and there is silence


def test_callers_send_bare_frames_and_the_server_keeps_the_context(repository: Path) -> None:
    manifest = json.loads((repository / "silero" / "1" / "model.json").read_text())
    assert len(manifest["features"]) == 512
    states = {each["name"]: (each["shape"], each["dtype"]) for each in manifest["states"]}
    assert states == {"state": ([2, 128], "float32"), "context": ([64], "float32")}
    assert manifest["max_batch"] > 1


def test_verify_passes_on_it(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(repository / "silero" / "1")]) == 0
    printed = capsys.readouterr().out
    assert "ok   arenas: 2 states of 1280 bytes a session, updated in place" in printed
    assert "ok   neighbours" in printed
    assert "ok   poisoned row" in printed
    assert "ok   read and write" in printed
