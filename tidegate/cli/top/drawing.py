"""The live view's picture, as large as the terminal allows."""

from __future__ import annotations

from datetime import datetime

from rich.console import Console, Group, RenderableType
from rich.text import Text

from tidegate.cli.top.change import Changes, total
from tidegate.cli.top.figures import number, shorten, sparkline
from tidegate.cli.top.tables import reasons, tables
from tidegate.cli.top.watch import Look

AROUND = 14
"""Lines that are no model version's: title, message, headings, totals, errors, history, foot."""
TITLE, HISTORY = "tidegate top  ", "steps/s   "


def drawing(look: Look, console: Console, url: str, interval: float) -> Group:
    """The whole screen."""
    width, height = console.size
    return Group(
        _title(url, interval, width),
        Text(look.message, style="bold red"),
        *_figures(look.changes, width, max(1, (height - AROUND) // 2)),
        _history(look, width) if "utf" in console.encoding else Text(),
        Text("q or Ctrl-C leaves", style="dim"),
    )


def _title(url: str, interval: float, width: int) -> Text:
    tail = f"  every {interval:g} s  {datetime.now():%H:%M:%S}"
    room = max(8, width - len(TITLE) - len(tail))
    return Text(f"{TITLE}{shorten(url, room)}{tail}", no_wrap=True)


def _figures(changes: Changes, width: int, most: int) -> list[RenderableType]:
    if not changes:
        return []
    errors = reasons(total(changes.values()), width)
    return [*tables(changes, width, most), Text(), errors]


def _history(look: Look, width: int) -> Text:
    rates = [each for each in look.history if each is not None]
    if not rates:
        return Text()
    tail = f"  most {number(max(rates))}"
    line = sparkline(look.history, width - len(HISTORY) - len(tail))
    return Text(f"{HISTORY}{line}{tail}", no_wrap=True)
