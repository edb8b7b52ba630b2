"""`tidegate stream`, run as users run it, and the CSV files that it reads."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.cli.running import eventually, live_sessions, started, tidegate
from tests.cli.terminal import on_terminal
from tests.conftest import SmallModel
from tests.harness import ROOT, RunningServer, running_server
from tests.server.gaps import gappy_model
from tidegate import Feature, SyncClient
from tidegate.cli.common import BadFile
from tidegate.cli.stream.csvfile import Columns, read_recordings

WATCH = ROOT / "examples" / "watch.csv"
COLUMNS = ["--session-column", "session", "--label-column", "label", "--model", "exercise"]
HEADER = "session,label,ax,ay,az,wx,wy,wz,side\n"
ROW = "s1,PEN,0.1,0.2,0.3,0.4,0.5,0.6,1\n"
SPEED = Feature("speed", "m/s", missing=True)
SIDE = Feature("side", labels=("left", "right"))
TYPE = Feature("type", missing=True, labels=("5", "7"))
WITH_GAPS = Columns("id", (SPEED, SIDE, TYPE))


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


def test_a_missing_file_and_a_missing_server_are_one_line_each(
    shipped: RunningServer, nobody: str
) -> None:
    done = stream(shipped, Path("nowhere.csv"))
    assert (done.returncode, done.stderr) == (
        2,
        "tidegate: nowhere.csv: No such file or directory\n",
    )
    away = tidegate("stream", WATCH, *COLUMNS, "--address", nobody, "--timeout", "3")
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
        _, errors = run.communicate(timeout=60)
        assert run.returncode == 130
    assert b"interrupted" in errors and b"Traceback" not in errors
    assert live_sessions(shipped) == []


def test_on_a_terminal_a_table_of_the_sessions_is_redrawn_until_the_summary(
    shipped: RunningServer,
) -> None:
    given = ["stream", WATCH, *COLUMNS, "--address", shipped.address, "--sessions", "2"]
    with on_terminal(*given, columns=100) as terminal:
        terminal.read_until(r"session\s+┃\s+step\s+┃\s+prediction\s+┃\s+prob\.")
        terminal.read_until(
            r"│\s+[\d,]+/[\d,]+ │\s+(PEN|ABD|FEL|IR|ER|TRAP|ROW)\s+│\s+[01]\.\d\d │"
        )
        terminal.read_until(r"2/2 sessions done")
        terminal.read_until(r"sessions   2\s+steps      [\d,]+ in")
        assert terminal.end() == 0


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


def test_values_are_measured_by_a_column_each_and_by_no_more(
    server: RunningServer, small: SmallModel, tmp_path: Path
) -> None:
    file = tmp_path / "values.csv"
    file.write_text("id,x0,x1,x2,x3,x4,y\na,1,2,3,4,true,0.5\na,1,2,3,4,0,\n")
    given = ["stream", file, "--session-column", "id", "--model", "small"]
    given += ["--address", server.address, "--label-column", "y"]
    done = tidegate(*given)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^RMSE       y\[0\] [\d.]+$", done.stdout, re.MULTILINE)
    done = tidegate(*given, *["--label-column", "x0"] * 3)
    assert done.returncode == 2
    assert "--label-column is given 4 times, and small puts out 3 value(s)" in done.stderr
    file.write_text(file.read_text().replace("0.5", "much"))
    done = tidegate(*given)
    assert done.returncode == 2
    assert "row 2, column 'y': 'much' is not a number" in done.stderr


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


def test_empty_cells_are_missing_and_labels_are_indices(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("id,speed,side,type\na,1.5,right,5\na, ,left,\na,,upper,7\na,2,left\n")
    (recording,) = read_recordings(file, WITH_GAPS)
    expected = [[1.5, 1, 0], [np.nan, 0, np.nan], [np.nan, -1, 1], [2, 0, np.nan]]
    np.testing.assert_array_equal(recording.features, np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("row", "says"),
    [("a,1,,5", "column 'side': the cell is empty"), ("a,fast,left,5", "'fast' is not a number")],
)
def test_other_empty_cells_and_texts_are_refused(tmp_path: Path, row: str, says: str) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(f"id,speed,side,type\n{row}\n")
    with pytest.raises(BadFile, match=f"row 2, .*{says}"):
        read_recordings(file, WITH_GAPS)


def test_a_file_with_gaps_streams_and_models_tells_where_they_may_be(tmp_path: Path) -> None:
    gappy_model(tmp_path / "models")
    file = tmp_path / "mine.csv"
    file.write_text("id,x0,x1,x2,x3,x4\na,1,,3,4,left\na,1,2,3,,right\nb,1,,3,,left\n")
    with running_server(tmp_path / "models") as server:
        where = ["--address", server.address]
        done = tidegate("stream", file, "--session-column", "id", "--model", "small", *where)
        assert (done.returncode, done.stderr) == (0, "")
        assert "steps      3 in" in done.stdout
        told = tidegate("models", *where).stdout
    features = "x0, x1 (may be missing), x2, x3 (may be missing), x4 (left | right)"
    assert f"  features    {features}\n" in told
