"""What is done, and how long it takes, as two tables of short figures: model versions, their total.

The figures and the choice of model versions are those of the plain lines too.
"""

import math
from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from tidegate.cli.top.change import Change, Changes, total
from tidegate.cli.top.page import Histogram, Version
from tidegate.printable import printable

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
NO_MODEL = "(no model)"
NOTHING = "-"
BLOCKS = "▁▂▃▄▅▆▇█"
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"))


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
    found = [
        f"{printable(reason)} {number(each)}" for reason, each in change.reasons("errors").items()
    ]
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
        table.add_row(*map(Text, [shorten(printable(label), room), *row]), style=style)
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


def named(version: Version) -> str:
    """A model version in words; calls for no served model are counted under none."""
    return "/".join(version) if any(version) else NO_MODEL


def selected(changes: Changes, most: int | None = None) -> list[tuple[Version, Change]]:
    """By name and version; where there is no room for all, the busiest `most` of them."""
    worthy = [(version, each) for version, each in changes.items() if any(version) or _rose(each)]
    busiest = sorted(worthy, key=lambda item: -sum(item[1].counted.values()))[:most]
    return sorted(busiest, key=lambda item: (item[0][0], len(item[0][1]), item[0]))


def _rose(change: Change) -> bool:
    return any(change.counted.values())


def number(value: float | None) -> str:
    """A rate or a mean in at most seven characters: about three digits, whole from 100 on."""
    if value is None:
        return NOTHING
    for size, letter in UNITS:
        if value >= size * 0.9999995:  # what would be rounded up to it
            return f"{value / size:.2f}{letter}"
    if value == 0 or value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def whole(value: float | None) -> str:
    """A count."""
    return NOTHING if value is None else number(value) if value >= 1e6 else f"{value:,.0f}"


def milliseconds(histogram: Histogram | None, percent: float) -> str:
    """A percentile of seconds; ">2500" where it lies above all that is measured."""
    value = histogram.percentile(percent) if histogram else None
    if value is None or histogram is None:
        return NOTHING
    if math.isinf(value):
        return f">{histogram.limit * 1000:.0f}"
    return number(value * 1000).replace(",", "")


def rows(histogram: Histogram | None, percent: float) -> str:
    """A percentile of the rows in a run, as far as the buckets tell: "<=64" is 33 to 64."""
    bound = histogram.bound(percent) if histogram else None
    if bound is None or histogram is None:
        return NOTHING
    if math.isinf(bound):
        return f">{histogram.limit:.0f}"
    return f"{bound:.0f}" if bound <= 2 else f"<={bound:.0f}"


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The latest `width` values as blocks between 0 and the greatest; a gap where there is none."""
    latest = list(values)[-width:] if width > 0 else []
    most = max((each for each in latest if each is not None), default=0.0) or 1.0
    return "".join(_block(each, most) for each in latest)


def _block(value: float | None, most: float) -> str:
    return " " if value is None else BLOCKS[min(7, int(8 * value / most))]


def shorten(text: str, width: int) -> str:
    """The text in at most `width` characters, its middle left out: ends tell versions apart."""
    if len(text) <= width:
        return text
    if width <= 4:
        return text[:width]
    end = (width - 2) // 2
    return f"{text[: width - 2 - end]}..{text[-end:]}"
