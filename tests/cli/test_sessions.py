"""`tidegate sessions`: list, show, close, export, import, as users run them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.running import live_sessions, tidegate, tidegate_bytes
from tests.conftest import SmallModel
from tests.harness import ROOT, RunningServer, running_server
from tidegate import SyncClient
from tidegate.cli.sessions import columns, file_name, summaries
from tidegate.v1 import tidegate_pb2 as pb

X = np.linspace(-1, 1, 7)


@pytest.fixture
def stepped(shipped: RunningServer) -> Iterator[RunningServer]:
    """The server with a session `watch` at step 3, and none at the end."""
    with SyncClient(shipped.address) as client, client.session("exercise", "watch") as session:
        for _ in range(3):
            session.step(X)
        yield shipped
        for each in live_sessions(shipped):
            client.close_session("exercise", each)


def sessions(server: RunningServer, *words: object) -> tuple[int, str, str]:
    done = tidegate("sessions", *words, "--address", server.address)
    return done.returncode, done.stdout, done.stderr


def test_live_sessions_are_listed(stepped: RunningServer) -> None:
    status, listed, _ = sessions(stepped, "list", "exercise")
    assert status == 0
    assert re.search(r"^ +3 .* watch \(exercise/1\)$", listed, re.MULTILINE)


def test_a_session_s_facts_are_shown(stepped: RunningServer) -> None:
    status, shown, _ = sessions(stepped, "show", "exercise", "watch")
    assert status == 0
    assert shown.startswith("session    watch\nmodel      exercise/1\nsteps      3\nopened     20")
    assert len(shown.splitlines()) == 6


def test_its_state_is_summed_up_tensor_by_tensor(stepped: RunningServer) -> None:
    status, shown, _ = sessions(stepped, "show", "exercise", "watch", "--state")
    assert status == 0
    rows = [line.split() for line in shown.splitlines()[8:]]
    with SyncClient(stepped.address) as client, client.session("exercise", "watch", keep=True) as s:
        state = s.peek()
    assert [row[:3] for row in rows] == [[name, "float32", "88"] for name in state]
    for row, values in zip(rows, state.values(), strict=True):
        norm = np.sqrt((values.astype(float) ** 2).sum())
        expected = [values.min(), values.mean(), values.max(), norm]
        assert [float(figure) for figure in row[3:]] == pytest.approx(expected, abs=6e-5)
        assert norm > 0.1


def test_figures_of_a_state_are_aligned_whatever_their_size() -> None:
    half = np.full((2, 3), 60_000, np.float16)
    name, kind, shape, *figures = summaries({"h": half})[0]
    exact = float(half[0, 0])
    assert (name, kind, shape) == ("h", "float16", "2x3")
    assert [float(each) for each in figures] == pytest.approx([exact] * 3 + [exact * 6**0.5])
    assert columns([("a", "b", "c", "d"), ("aaa", "b", "c", "-1.5")]) == [
        "a    b  c     d",
        "aaa  b  c  -1.5",
    ]


def test_sessions_are_closed_and_those_that_are_not_live_are_named(stepped: RunningServer) -> None:
    with SyncClient(stepped.address) as client, client.session("exercise", "other", keep=True):
        pass
    done = sessions(stepped, "close", "exercise", "other", "nobody", "watch")
    assert done == (
        1,
        "other closed after 0 steps\nwatch closed after 3 steps\n",
        "tidegate: model 'exercise' has no session 'nobody'\n",
    )
    assert live_sessions(stepped) == []


def test_an_exported_session_goes_on_elsewhere_as_here(
    stepped: RunningServer, tmp_path: Path
) -> None:
    file = tmp_path / "kept"
    status, said, _ = sessions(stepped, "export", "exercise", "watch", "--out", file)
    assert (status, said) == (0, f"watch exported to {file} ({file.stat().st_size:,} bytes)\n")
    with running_server(ROOT / "models") as elsewhere:
        done = sessions(elsewhere, "import", file)
        assert done == (0, "watch imported into exercise/1; it stands at step 3\n", "")
        assert next_outputs(elsewhere) == next_outputs(stepped)


def test_a_pipe_moves_a_session_under_another_name(stepped: RunningServer) -> None:
    server = "--address", stepped.address
    taken = tidegate_bytes("sessions", "export", "exercise", "watch", "--out", "-", *server)
    assert (taken.returncode, taken.stderr) == (0, b"")
    moved = tidegate("sessions", "import", "-", "--as", "twin", *server, stdin=taken.stdout)
    assert (moved.returncode, moved.stderr) == (0, "")
    assert sorted(live_sessions(stepped)) == ["twin", "watch"]
    assert next_outputs(stepped, "twin") == next_outputs(stepped)


def test_a_live_session_is_replaced_only_where_that_is_asked_for(
    stepped: RunningServer, tmp_path: Path
) -> None:
    file = tmp_path / "kept"
    assert sessions(stepped, "export", "exercise", "watch", "--out", file)[0] == 0
    with SyncClient(stepped.address) as client, client.session("exercise", "watch", keep=True) as s:
        s.step(X)
    status, _, error = sessions(stepped, "import", file)
    assert (status, error.count("\n")) == (1, 1) and "live session 'watch'" in error
    assert "steps      4\n" in sessions(stepped, "show", "exercise", "watch")[1]
    assert sessions(stepped, "import", file, "--replace")[0] == 0
    assert "steps      3\n" in sessions(stepped, "show", "exercise", "watch")[1]


def test_without_a_name_the_file_is_named_after_the_session_and_stays_in_the_folder(
    stepped: RunningServer, tmp_path: Path
) -> None:
    with SyncClient(stepped.address) as client, client.session("exercise", "../a b", keep=True):
        pass
    given = ["export", "exercise", "../a b", "--address", stepped.address]
    assert tidegate_bytes("sessions", *given, folder=tmp_path).returncode == 0
    assert [each.name for each in tmp_path.iterdir()] == ["%2E.%2Fa b.tidegate-session"]


@pytest.mark.parametrize("content", [b"", b"hello", bytes(5000)])
def test_a_file_that_is_no_snapshot_is_named(
    shipped: RunningServer, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "something"
    file.write_bytes(content)
    status, output, error = sessions(shipped, "import", file)
    assert (status, output, error.count("\n")) == (2, "", 1)
    assert str(file) in error
    assert live_sessions(shipped) == []


def test_a_snapshot_of_a_model_that_is_not_served_is_named(
    shipped: RunningServer, small: SmallModel, server: RunningServer, tmp_path: Path
) -> None:
    file = tmp_path / "kept"
    with SyncClient(server.address) as client, client.session("small", "one") as session:
        file.write_bytes(session.export())
    error = f"tidegate: {file}: unknown model 'small'\n"
    assert sessions(shipped, "import", file) == (1, "", error)


def test_a_file_changed_on_the_way_is_refused(stepped: RunningServer, tmp_path: Path) -> None:
    file = tmp_path / "kept"
    with SyncClient(stepped.address) as client, client.session("exercise", "watch", keep=True) as s:
        snapshot = pb.Snapshot.FromString(s.export())
    snapshot.states[0].shape[0] = 63
    file.write_bytes(snapshot.SerializeToString())
    status, _, error = sessions(stepped, "import", file, "--as", "other")
    assert (status, error.count("\n")) == (2, 1)
    assert error.startswith(f"tidegate: {file}: ")
    assert live_sessions(stepped) == ["watch"]


def test_files_that_cannot_be_read_or_written_are_named(stepped: RunningServer) -> None:
    assert sessions(stepped, "import", "nowhere") == (
        2, "", "tidegate: nowhere: No such file or directory\n",
    )  # fmt: skip
    assert sessions(stepped, "import", "tests") == (2, "", "tidegate: tests: Is a directory\n")
    missing = "nowhere/watch"
    done = sessions(stepped, "export", "exercise", "watch", "--out", missing)
    assert done == (2, "", f"tidegate: {missing}: No such file or directory\n")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["list", "nothing"], "unknown model 'nothing'"),
        (["show", "exercise", "nobody"], "model 'exercise' has no session 'nobody'"),
        (
            ["export", "exercise", "nobody", "--out", "-"],
            "model 'exercise' has no session 'nobody'",
        ),
    ],
)
def test_what_the_server_has_not_is_named_in_one_line(
    shipped: RunningServer, words: list[str], error: str
) -> None:
    status, _, said = sessions(shipped, *words)
    assert (status, said) == (1, f"tidegate: {error}\n")


def test_a_server_that_is_away_is_one_line(nobody: str) -> None:
    done = tidegate("sessions", "show", "exercise", "watch", "--address", nobody, "--timeout", "2")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"tidegate: {nobody}: ")


def test_names_that_are_not_utf_8_are_refused() -> None:
    done = tidegate("sessions", "show", "exercise", "a\udcff")
    assert done.returncode == 2
    assert "is not UTF-8" in done.stderr and "Traceback" not in done.stderr


NAMES = st.text(min_size=1, max_size=256).filter(lambda name: len(name.encode()) <= 256)


@given(st.lists(NAMES, min_size=2, max_size=4, unique=True))
def test_file_names_are_harmless_and_differ_where_sessions_do(names: list[str]) -> None:
    files = [file_name(name) for name in names]
    assert len(set(files)) == len(names)
    for file in files:
        assert len(file.encode()) <= 255 and file.isprintable()
        assert Path(file).name == file and file[0] not in ".-~ "


def next_outputs(server: RunningServer, session_id: str = "watch") -> bytes:
    with (
        SyncClient(server.address) as client,
        client.session("exercise", session_id, keep=True) as session,
    ):
        assert session.steps == 3
        return session.step(X).tobytes()
