"""Shows a run while it goes on: a live table on a terminal, now and then a line elsewhere."""

import asyncio
import sys
from typing import TYPE_CHECKING, Protocol

from tidegate.cli.common import say
from tidegate.cli.stream.progress import Progress, SessionProgress
from tidegate.printable import printable

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

FRAME_SECONDS = 0.125
LINE_SECONDS = 2.0
# Lines of a terminal around the table's rows: its frame, head, foot and the prompt.
FRAME_LINES = 7


class View(Protocol):
    """A way to show progress."""

    seconds: float

    def __enter__(self) -> object: ...
    def __exit__(self, *_: object) -> None: ...
    def show(self, progress: Progress) -> None:
        """Show the present state."""


def make_view() -> View:
    """A table where stdout is a terminal and `rich` is installed, lines otherwise."""
    if not sys.stdout.isatty():
        return Lines()
    try:
        return LiveTable()
    except ImportError:
        say("plain output, as `rich` is not installed (pip install 'tidegate[cli]')")
        return Lines()


async def keep_showing(view: View, progress: Progress) -> None:
    """Refresh the view until cancelled."""
    while True:
        await asyncio.sleep(view.seconds)
        view.show(progress)


class Lines:
    """One line of totals every few seconds."""

    seconds = LINE_SECONDS

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, progress: Progress) -> None:
        """Print the totals."""
        say(totals(progress), now=True)


class LiveTable:
    """A row for each session, redrawn in place."""

    seconds = FRAME_SECONDS

    def __init__(self) -> None:
        from rich.live import Live

        self._live = Live(auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> "LiveTable":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, progress: Progress) -> None:
        """Redraw the table."""
        rows = max(1, self._live.console.height - FRAME_LINES)
        self._live.update(drawing(progress, rows), refresh=True)


def drawing(progress: Progress, rows: int) -> "Group":
    """The sessions, as many as fit, over the totals."""
    from rich.console import Group
    from rich.text import Text

    return Group(session_table(progress, rows), Text(totals(progress)))


def session_table(progress: Progress, rows: int) -> "Table":
    """The table of at most `rows` sessions."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    table.add_column("session", no_wrap=True)
    table.add_column("step", justify="right")
    table.add_column("prediction", no_wrap=True)
    table.add_column("prob.", justify="right")
    table.add_column("truth", no_wrap=True)
    table.add_column("RMSE" if progress.measured else "accuracy", justify="right")
    for each in shown(progress, rows):
        style = "dim" if not each.running else ""
        table.add_row(*(Text(printable(cell)) for cell in cells(each)), style=style)
    return table


def shown(progress: Progress, rows: int) -> list[SessionProgress]:
    """The sessions for which there is room, in the file's order."""
    if len(progress.sessions) <= rows:
        return progress.sessions
    ranked = sorted(
        range(len(progress.sessions)),
        key=lambda at: (not progress.sessions[at].running, not progress.sessions[at].done, at),
    )
    return [progress.sessions[at] for at in sorted(ranked[:rows])]


def cells(session: SessionProgress) -> tuple[str, ...]:
    """One session's row, as text."""
    prediction = session.prediction
    probability = prediction.probability if prediction else None
    score, places = (session.accuracy, ".3f") if session.rmse is None else (session.rmse, ".4g")
    return (
        session.session,
        f"{session.done:,}/{session.total:,}",
        prediction.text if prediction else "",
        "" if probability is None else f"{probability:.2f}",
        session.truth,
        "" if score is None else f"{score:{places}}",
    )


def totals(progress: Progress) -> str:
    """The run in one line."""
    rate = progress.steps / progress.elapsed if progress.elapsed else 0.0
    line = (
        f"{progress.elapsed:6.1f} s  {progress.finished}/{len(progress.sessions)} sessions done  "
        f"{progress.steps:,} steps  {rate:,.0f} steps/s"
    )
    return line if progress.accuracy is None else f"{line}  accuracy {progress.accuracy:.3f}"
