"""`tidegate stream` and `models`, run as users run them, against a server of the shipped model."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.running import eventually, live_sessions, started, tidegate
from tests.conftest import SmallModel
from tests.harness import ROOT, RunningServer
from tidegate import SyncClient

WATCH = ROOT / "examples" / "watch.csv"
COLUMNS = ["--session-column", "session", "--label-column", "label", "--model", "exercise"]
HEADER = "session,label,ax,ay,az,wx,wy,wz,side\n"
ROW = "s1,PEN,0.1,0.2,0.3,0.4,0.5,0.6,1\n"


def stream(server: RunningServer, file: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return tidegate("stream", file, *COLUMNS, "--address", server.address, *more)


def test_held_out_sessions_stream_side_by_side_and_end_with_a_summary(
    shipped: RunningServer,
) -> None:
    before = shipped.metric("tidegate_steps_total")
    done = stream(shipped, WATCH, "--sessions", "3")
    assert (done.returncode, done.stderr) == (0, "")
    steps = int(shipped.metric("tidegate_steps_total") - before)
    names = [line.split(",")[0] for line in WATCH.read_text().splitlines()[1:]]
    firsts = list(dict.fromkeys(names))[:3]
    assert steps == sum(name in firsts for name in names)
    assert re.search(rf"^sessions   3\nsteps      {steps:,} in ", done.stdout, re.MULTILINE)
    found = re.search(
        r"accuracy   (0\.\d+) per step, 1\.000 at session end \(3 of 3\)", done.stdout
    )
    assert found and float(found[1]) > 0.8
    assert re.search(r"latency    p50 [\d.]+ ms, p90 [\d.]+, p99 [\d.]+, max [\d.]+", done.stdout)
    assert live_sessions(shipped) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "row 1: column 'session' (the session column) is missing"),
        (HEADER, "no rows"),
        (HEADER.replace("wy,", ""), "row 1: column 'wy' (a feature) is missing"),
        (HEADER + ROW + ROW.replace("0.3", ""), "row 3, column 'az': the cell is empty"),
        (HEADER + ROW.replace("0.4", "much"), "row 2, column 'wx': 'much' is not a number"),
        (HEADER + "s1,PEN,0.1\n", "row 2, column 'ay': the cell is empty"),
        (HEADER + ROW.replace("PEN", "YOGA"), "row 2, column 'label': 'YOGA' is no label"),
    ],
)
def test_a_file_at_fault_is_named_by_row_and_column(
    shipped: RunningServer, tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(text)
    done = stream(shipped, file)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert str(file) in done.stderr and says in done.stderr
    assert live_sessions(shipped) == []


def test_a_missing_file_and_a_missing_server_are_one_line_each(shipped: RunningServer) -> None:
    done = stream(shipped, Path("nowhere.csv"))
    assert (done.returncode, done.stderr) == (
        2,
        "tidegate: nowhere.csv: No such file or directory\n",
    )
    away = tidegate("stream", WATCH, *COLUMNS, "--address", "127.0.0.1:9", "--timeout", "3")
    assert (away.returncode, away.stderr.count("\n")) == (1, 1)


def test_a_value_that_the_server_refuses_is_named_and_every_session_closed(
    shipped: RunningServer, tmp_path: Path
) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(HEADER + ROW + ROW.replace("0.3", "nan"))
    done = stream(shipped, file)
    assert done.returncode == 1
    assert "az" in done.stderr and "finite" in done.stderr
    assert live_sessions(shipped) == []


def test_somebody_else_s_session_is_left_alone(shipped: RunningServer, tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(HEADER + ROW)
    with SyncClient(shipped.address) as client, client.session("exercise", "s1") as session:
        done = stream(shipped, file)
        assert done.returncode == 1
        assert "session 's1' is live on exercise/1 already" in done.stderr
        assert stream(shipped, file, "--prefix", "mine-").returncode == 0
        assert session.info().steps == 0


def test_an_interrupted_stream_closes_its_sessions(shipped: RunningServer) -> None:
    given = ["stream", WATCH, *COLUMNS, "--address", shipped.address, "--rate", "20"]
    with started(*given) as run:
        eventually(lambda: len(live_sessions(shipped)) == 8)
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=20)
        assert run.returncode == 130
    assert b"interrupted" in errors and b"Traceback" not in errors
    assert live_sessions(shipped) == []


def test_models_are_listed(shipped: RunningServer) -> None:
    models = tidegate("models", "--address", shipped.address)
    assert models.returncode == 0
    assert "exercise/1 on cpu" in models.stdout
    assert "PEN, ABD, FEL, IR, ER, TRAP, ROW" in models.stdout


def test_output_that_nobody_reads_ends_the_command_without_a_word(shipped: RunningServer) -> None:
    with started("top", "--metrics", shipped.metrics_url, "--interval", "0.1") as run:
        assert run.stdout is not None and run.stderr is not None
        assert run.stdout.readline()
        run.stdout.close()
        assert run.wait(20) == 1
        assert run.stderr.read() == b""


def test_a_model_of_plain_values_streams_without_accuracy(
    server: RunningServer, small: SmallModel, tmp_path: Path
) -> None:
    file = tmp_path / "values.csv"
    file.write_text("id,x0,x1,x2,x3,x4\n" + "a,1,2,3,4,5\n" * 4 + "b,5,4,3,2,1\n" * 3)
    done = tidegate(
        "stream", file, "--session-column", "id", "--model", "small", "--address", server.address
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "steps      7 in" in done.stdout
    assert "accuracy" not in done.stdout
