"""The look as two tables: what is done, and how long it takes. Model versions above their total."""

from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from tidegate.cli.top.change import Change, Changes, total
from tidegate.cli.top.figures import milliseconds, number, rows, shorten, whole
from tidegate.cli.top.selection import named, selected

PERCENTS = (50, 90, 99)
WORK = ("steps\n/s", "errors\n/s", "opened\n/s", "closed\n/s", "expired\n/s",
        "rows\n/run", "rows\np50", "sess.\nlive", "steps\nqueued")  # fmt: skip
RATES = ("steps", "errors", "sessions_opened", "sessions_closed", "sessions_expired")
TOTAL = "total"
TIMES = ("step", "queue", "engine")
NARROWEST = 6
"""Of a column of numbers: wide enough that it seldom moves."""
NAME = 8
"""Characters of a model's name that are shown on the narrowest terminal."""
Cells = Callable[[Change], list[str]]


def tables(changes: Changes, width: int, most: int | None = None) -> list[RenderableType]:
    """Both tables within `width` columns, with at most `most` model versions each."""
    shown, every = selected(changes, most), selected(changes)
    together = [(TOTAL, total(changes.values()))] if len(every) > 1 else []
    lines = [(named(version), each) for version, each in shown] + together
    timed = [(label, each) for label, each in lines if each.histograms]
    headings = [f"{what if percent == 50 else ''}\np{percent}" for what in TIMES
                for percent in PERCENTS]  # fmt: skip
    left = len(every) - len(shown)
    return [
        _table("model", WORK, lines, _work, width),
        Text(f"and {left} more, less busy" if left else ""),
        _table("ms", headings, timed, _times, width),
    ]


def reasons(change: Change, width: int) -> Text:
    """The total's errors by reason, as many as fit in a line."""
    found = [f"{reason} {number(each)}" for reason, each in change.reasons("errors").items()]
    text = "errors/s  " + (", ".join(found) or "none")
    while len(text) > width and found:
        found.pop()
        text = f"errors/s  {', '.join([*found, 'and others'])}"
    return Text(text, no_wrap=True)


def once(changes: Changes, width: int) -> Group:
    """All there is, for `--once`."""
    return Group(*tables(changes, width), Text(), reasons(total(changes.values()), width))


def _table(
    name: str,
    headings: Sequence[str],
    lines: Sequence[tuple[str, Change]],
    cells: Cells,
    width: int,
) -> Table:
    texts = [(label, cells(change)) for label, change in lines]
    widths = [_width(heading, [row[at] for _, row in texts]) for at, heading in enumerate(headings)]
    room = max(NAME, width - sum(widths) - len(widths))
    table = Table(Column(f"\n{name}", no_wrap=True), box=None, padding=(0, 1, 0, 0),
                  pad_edge=False, header_style="bold")  # fmt: skip
    for heading, wide in zip(headings, widths, strict=True):
        table.add_column(heading, justify="right", no_wrap=True, width=wide)
    for label, row in texts:
        style = "bold" if label == TOTAL else ""
        table.add_row(*map(Text, [shorten(label, room), *row]), style=style)
    return table


def _width(heading: str, column: Sequence[str]) -> int:
    return max(NARROWEST, *map(len, heading.split("\n")), *map(len, column))


def _work(change: Change) -> list[str]:
    batch = change.histograms.get("batch_rows")
    return [
        *(number(change.rate(name)) for name in RATES),
        number(batch.mean if batch else None),
        rows(batch, 50),
        whole(change.gauges.get("sessions_live")),
        whole(change.gauges.get("queue_steps")),
    ]


def _times(change: Change) -> list[str]:
    names = ("step_seconds", "step_queue_seconds", "step_engine_seconds")
    return [
        milliseconds(change.histograms.get(name), percent) for name in names for percent in PERCENTS
    ]
