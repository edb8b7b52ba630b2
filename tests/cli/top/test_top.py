"""`tidegate top`, as users run it: on a terminal, into a pipe, and once."""

from __future__ import annotations

import re
import signal

import pytest

from tests.cli.running import started, tidegate
from tests.cli.terminal import LEAVES_SCREEN, SHOWS_CURSOR, on_terminal
from tests.cli.top.pages import Answer, Pages, answering, canned, work
from tests.harness import ROOT, RunningServer, running_server

BUSY = r"exercise/1\s+[1-9][\d,]*\s+0\s+0\s+0\s+0\s+[\d.]+\s+(<=)?\d+\s+8\s+\d+"
TIMES = r"exercise/1(\s+\d+(\.\d+)?){9}\s"


def load(server: RunningServer) -> list[object]:
    given = ["--address", server.address, "--sessions", 8, "--rate", 100, "--seconds", 60]
    return ["bench", "exercise", *given]


@pytest.mark.parametrize(("columns", "key"), [(80, b"q"), (120, b"\x03")])
def test_on_a_terminal_it_shows_a_server_under_load_until_a_key_and_leaves_it_as_it_was(
    shipped: RunningServer, columns: int, key: bytes
) -> None:
    given = ["top", "--metrics", shipped.metrics_url, "--interval", "0.3"]
    with started(*load(shipped)) as bench, on_terminal(*given, columns=columns) as terminal:
        before = terminal.mode()
        terminal.read_until(BUSY)
        terminal.read_until(TIMES)
        terminal.read_until(r"errors/s  none\s+steps/s   [▁▂▃▄▅▆▇█]+  most [1-9]")
        assert terminal.mode() != before
        terminal.type(key)
        assert terminal.end() == 0
        assert terminal.mode() == before
        assert terminal.written.rstrip().endswith(LEAVES_SCREEN)
        assert SHOWS_CURSOR in terminal.written
        assert b"Traceback" not in terminal.written
        bench.send_signal(signal.SIGINT)
        assert bench.wait(60) == 130


def test_once_is_a_table_of_the_rates_between_two_scrapes() -> None:
    server = Pages()
    work(server.small, 1000)
    pages = [server.text()]
    work(server.small, 4_000_000, seconds=0.003)
    server.small.error("NOT_FOUND", "UNKNOWN_SESSION", 40_000)
    pages.append(server.text())
    with canned(pages) as url:
        done = tidegate("top", "--once", "--metrics", url, "--interval", "0.4")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("small/1")]
    steps, errors = (shown(cell) for cell in rows[0][1:3])
    assert 0 < steps <= 4_000_000 / 0.4  # a busy machine may have waited for longer
    assert errors == pytest.approx(steps / 100, rel=0.01)
    assert rows[0][3:] == ["0", "0", "0", "4.00", "<=4", "3", "2"]
    assert rows[1][1:] == ["3.75", "4.75", "4.98"] * 3  # all in the bucket of 2.5 to 5 ms
    assert re.search(r"^errors/s  unknown_session [\d,]+$", done.stdout, re.MULTILINE)


def shown(cell: str) -> float:
    """The number that a cell stands for."""
    millions = cell.endswith("M")
    return float(cell.removesuffix("M").replace(",", "")) * (1e6 if millions else 1)


def test_a_restart_is_told_and_no_rate_is_negative() -> None:
    old, new = Pages(), Pages()
    work(old.small, 1000)
    pages = [new.text()]
    work(new.small, 40)
    with canned([old.text(), *pages, new.text()]) as url:
        given = ["top", "--metrics", url, "--interval", "0.1"]
        with started(*given) as run:
            assert run.stdout is not None
            lines = [run.stdout.readline().decode() for _ in range(4)]
            run.send_signal(signal.SIGINT)
            assert run.wait(60) == 0
    assert "first look" in lines[0]
    assert "restarted: counters went backwards" in lines[1]
    assert re.search(r"small/1  [1-9][\d.]* steps/s", lines[2])
    assert "small/1  0 steps/s" in lines[3]
    with canned([old.text(), new.text()]) as url:
        once = tidegate("top", "--once", "--metrics", url, "--interval", "0.1")
    assert (once.returncode, once.stderr.count("\n")) == (1, 1)
    assert "restarted" in once.stderr


def test_a_server_that_goes_and_comes_back_is_waited_for() -> None:
    behind: list[RunningServer] = []

    def page() -> Answer:
        return behind[0].metrics() if behind else None

    with answering(page) as url, running_server(ROOT / "models") as server:
        behind.append(server)
        with started("top", "--metrics", url, "--interval", "0.2") as run:
            lines = iter(run.stdout or ())
            assert b"first look" in next(lines)
            assert b"exercise/1  0 steps/s" in next(lines)
            behind.clear()
            away = next(line.decode() for line in lines if b"steps/s" not in line)
            assert f"no answer from {url}, retrying" in away
            with running_server(ROOT / "models") as another:
                behind.append(another)
                assert b"first look" in next(line for line in lines if b"no answer" not in line)
                assert b"exercise/1  0 steps/s" in next(lines)
                run.send_signal(signal.SIGINT)
                assert run.wait(60) == 0


@pytest.mark.parametrize(
    ("page", "says"), [(503, "answers with status 503"), ("<html>", "is no metrics page")]
)
def test_another_page_is_named(page: str | int, says: str) -> None:
    with canned([page]) as url:
        done = tidegate("top", "--once", "--metrics", url)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert url in done.stderr and says in done.stderr


def test_nobody_at_that_address_ends_a_single_look_with_one_line(nobody: str) -> None:
    done = tidegate("top", "--once", "--metrics", f"http://{nobody}/metrics")
    line = f"tidegate: no answer from http://{nobody}/metrics\n"
    assert (done.returncode, done.stderr) == (1, line)


@pytest.mark.parametrize("url", ["metrics", "file:///etc/hostname", "http://", "http://h:x/"])
def test_what_is_no_url_is_an_argument_at_fault(url: str) -> None:
    done = tidegate("top", "--metrics", url)
    assert done.returncode == 2
    assert "--metrics" in done.stderr and "Traceback" not in done.stderr
