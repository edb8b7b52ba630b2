"""The live view's picture: nothing is cut or wrapped on terminals of 80 and of 120 columns."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import pytest
from rich.console import Console

from tests.cli.top.pages import Pages, work
from tidegate.cli.top.change import Changes, changes
from tidegate.cli.top.screen import drawing
from tidegate.cli.top.watch import FIRST, RESTARTED, Look

URL = "http://127.0.0.1:9095/metrics"


def picture(look: Look, width: int, height: int = 24) -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    console = Console(file=file, width=width, height=height, force_terminal=True, color_system=None)
    with console.capture() as taken:
        console.print(drawing(look, console, URL, 1.0))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", taken.get())
    return [line.rstrip() for line in plain.splitlines()]


def busy(models: Sequence[tuple[str, int]], steps: int = 123_456, seconds: float = 30.0) -> Changes:
    server = Pages()
    before = server.page(0.0)
    for name, version in models:
        model = server.model(name, version, live=10_000, queued=65_536)
        work(model, steps, seconds, rows=1024)
        for counter in (model.opened, model.closed, model.idle):
            counter.inc(12_345)
        for reason in ("QUEUE_FULL", "SESSIONS_FULL", "NOT_FINITE", "STEP_CONFLICT", "EXPIRED"):
            model.error("INTERNAL", reason, 3_000)
    return changes(before, server.page(1.0))


@pytest.mark.parametrize("width", [80, 120])
def test_a_busy_server_s_figures_are_all_whole(width: int) -> None:
    history = tuple(float(each) for each in range(200))
    look = Look(busy([("exercise", 1), ("a-model-of-a-very-long-name", 12)]), history=history)
    lines = picture(look, width)
    assert max(map(len, lines)) <= width
    exercise, named, total = (
        [line.split() for line in lines if line.startswith(start)]
        for start in ("exercise/1", "a-", "total")
    )
    work_cells = ["123,456", "15,000", "12,345", "12,345", "12,345", "1,024", "<=1024"]
    assert exercise[0][1:] == [*work_cells, "10,000", "65,536"]
    assert named[0][0].endswith("/12") and named[0][1:] == exercise[0][1:]
    assert total[0][1:] == ["246,912", "30,000", "24,690", "24,690", "24,690", "1,024", "<=1024",
                            "20,003", "131,074"]  # fmt: skip
    assert [row[1:] for row in (exercise[1], named[1], total[1])] == [[">2500"] * 9] * 3
    errors = next(line for line in lines if line.startswith("errors/s"))
    assert "queue_full 6,000" in errors
    assert ("and others" in errors) == (width == 80)
    history_line = next(line for line in lines if line.startswith("steps/s   "))
    assert len(history_line) == width and history_line.endswith("█  most 199")
    assert not any("…" in line for line in lines)


def test_more_model_versions_than_lines_leave_out_the_less_busy() -> None:
    look = Look(busy([(f"m{number:02}", number) for number in range(1, 31)]))
    lines = picture(look, 80, 24)
    assert len(lines) <= 24
    assert "and 26 more, less busy" in lines
    assert sum(line.startswith("m0") for line in lines) == 2 * 5
    assert lines[-1] == "q or Ctrl-C leaves"


@pytest.mark.parametrize("message", [FIRST, RESTARTED, f"no answer from {URL}, retrying"])
def test_every_message_is_one_line_of_80_columns(message: str) -> None:
    lines = picture(Look(message=message, history=(5.0, None)), 80)
    assert lines[1] == message and lines[-1] == "q or Ctrl-C leaves"


def test_calls_for_no_model_have_a_row_only_while_there_are_some() -> None:
    server = Pages()
    server.metrics.errors.labels("", "", "NOT_FOUND", "unknown_model").inc(4)
    pages = [server.page(0.0), server.page(1.0)]
    server.metrics.errors.labels("", "", "NOT_FOUND", "unknown_model").inc(6)
    pages.append(server.page(2.0))
    assert not any("(no model)" in line for line in picture(Look(changes(*pages[:2])), 80))
    lines = picture(Look(changes(*pages[1:])), 80)
    row = next(line for line in lines if line.startswith("(no model)"))
    assert row.split()[2:4] == ["0", "6.00"]
    assert "errors/s  unknown_model 6.00" in lines
