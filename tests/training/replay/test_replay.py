"""What is streamed through a real server has the figures measured offline, or it is said where the
two part."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.harness import RunningServer, running_server
from tests.training.commands.tasks import delayed
from tests.training.conftest import Bundles
from tests.training.tables import write_table
from training.__main__ import main
from training.replay.pace import Pace, turns_of
from training.replay.parting import partings
from training.table.session import Session


@pytest.fixture(scope="module")
def served(bundles: Bundles) -> Iterator[RunningServer]:
    with running_server(bundles.models) as server:
        yield server


def replay(bundle: Path, *more: object) -> int:
    return main(["replay", str(bundle), *map(str, more)])


def test_streamed_figures_are_the_offline_ones_and_sessions_are_closed_after(
    bundles: Bundles, served: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    before = served.metric("tidegate_steps_total")
    runs = served.metric("tidegate_batch_rows_count")
    assert replay(bundles.good, bundles.table, "--server", served.address) == 0
    said = capsys.readouterr().out
    assert "devices/2 on the test part of t.csv: 12 sessions, 557 steps" in said
    pairs = re.findall(r"([0-9.]+) \[.*?\] streamed, ([0-9.]+) \[.*?\] offline", said)
    assert len(pairs) == 3 and all(ours == theirs for ours, theirs in pairs)
    assert "the same within 0.0001" in said
    steps = served.metric("tidegate_steps_total") - before
    assert steps == 557
    assert steps / (served.metric("tidegate_batch_rows_count") - runs) > 2, "not side by side"
    assert served.metric("tidegate_sessions_live") == 0


def test_another_bundle_under_the_name_parts_by_session_step_and_output(
    bundles: Bundles, served: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--server", served.address, "--served", "devices/1")
    assert replay(bundles.good, *words) == 1
    err = capsys.readouterr().err
    assert "answers otherwise in 12 of 12 sessions" in err
    assert re.search(r"session 'd\d+', step 0, output 'state=\w+': 0\.\d+ streamed, 0\.\d+ offline,"
                     r" 0\.\d+ apart \(\d+ steps of the session part", err)  # fmt: skip
    assert served.metric("tidegate_sessions_live") == 0


def test_a_table_of_later_sessions_is_replayed_but_for_those_trained_on(
    bundles: Bundles, served: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = delayed(sessions=30, seed=5)
    table = write_table(tmp_path / "later.csv", more)
    assert replay(bundles.good, table, "--server", served.address) == 0
    said = capsys.readouterr().out
    assert "sessions of later.csv that it was not trained on: 18 sessions" in said
    strange = [[*row[:3], "z", row[4]] for row in more]  # a mode that training never saw
    assert replay(bundles.good, write_table(table, strange), "--server", served.address) == 0
    strange[700][4] = "sideways"
    assert replay(bundles.good, write_table(table, strange), "--server", served.address) == 2
    assert "row 701, column 'state': 'sideways' is no class" in capsys.readouterr().err
    capsys.readouterr()
    old = [row for row in more if row[0] in ("d0", "d4")]
    assert replay(bundles.good, write_table(table, old), "--server", served.address) == 2
    assert "was trained on every session of later.csv" in capsys.readouterr().err


def test_what_cannot_be_replayed_is_one_sentence(
    bundles: Bundles, served: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in (
        (["--server", "127.0.0.1:1", "--timeout", "1"], "127.0.0.1:1: "),
        (["--server", served.address, "--served", "nobody/1"], "nobody"),
        (["--server", served.address, "--served", "devices/9"], "9"),
        (["--server", served.address, "--served", "devices"], "--served must be NAME/VERSION"),
        (["--server", served.address, "--token-file", "/none"], "/none"),
    ):
        assert replay(bundles.good, *words) == 2
        err = capsys.readouterr().err.splitlines()
        assert len(err) == 1 and said in err[0], err


def test_steps_go_by_their_times_and_not_further_ahead_than_allowed() -> None:
    def session(name: str, *times: float) -> Session:
        zeros = np.zeros((len(times), 1), np.float32)
        return Session(name, name, zeros, zeros, np.array(times))

    sessions = [session("a", 10, 20, 30), session("b", 15, 20), session("c", 40)]
    turns = turns_of(sessions)
    assert [each.tolist() for each in turns] == [[0, 2, 3], [1, 2], [4]]
    went: list[tuple[int, int]] = []

    async def play(k: int, pace: Pace) -> None:
        for number in turns[k].tolist():
            await pace.turn(number)
            went.append((number, k))
            await asyncio.sleep(0)
            pace.done(number)

    async def play_all() -> None:
        pace = Pace(turns, ahead=1)
        async with asyncio.TaskGroup() as group:
            for k in reversed(range(3)):
                group.create_task(play(k, pace))

    asyncio.run(asyncio.wait_for(play_all(), 10))
    assert [number for number, _ in went] == [0, 1, 2, 2, 3, 4]


def test_a_parting_is_the_first_step_and_the_output_that_is_furthest() -> None:
    offline = [np.zeros((5, 2), np.float32), np.zeros((3, 2), np.float32)]
    streamed = [each.copy() for each in offline]
    streamed[1][1] = [0.01, -0.5]
    streamed[1][2] = [0.0, np.nan]
    (found,) = partings(["a", "b"], ["y", "z"], streamed, offline, np.array([1e-3, 1e-3]))
    assert (found.session, found.step, found.output, found.steps) == ("b", 1, "z", 2)
    assert found.streamed == -0.5 and found.offline == 0.0
    assert partings(["a", "b"], ["y", "z"], streamed, offline, np.array([1.0, np.inf]))[0].step == 2
