"""`tidegate stream`: plays the sessions of a CSV file to a server, side by side.

Each session is a task that asks for one step at a time, so its rows keep their order; the sessions
share one connection, and the server batches what they ask for at the same time.
"""

import argparse
import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tidegate import Client, ClientOptions, Model, Session
from tidegate.cli.common import (
    BadFile,
    Failure,
    LiveAlready,
    Subparsers,
    add_version,
    client_options,
    count,
    into,
    name,
    rate,
    say,
    several,
)
from tidegate.cli.stream.csvfile import Columns, Recording, read_recordings
from tidegate.cli.stream.progress import Progress, Reader, SessionProgress, summary_lines
from tidegate.cli.stream.table import keep_showing, make_view
from tidegate.errors import TidegateError

MOST_NAMED = 8


def add(commands: Subparsers, server: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser("stream", parents=[server], help="play a CSV file")
    parser.description = "Streams the sessions of a CSV file side by side, each one row at a time."
    add = parser.add_argument
    add("file", type=Path, metavar="FILE.csv", help="columns named like the model's features")
    add("--session-column", required=True, help="the column that tells sessions apart")
    add(
        "--label-column",
        action="append",
        default=[],
        metavar="COLUMN",
        help="the column with the true label or value, for accuracy or RMSE; repeatable, one for "
        "each value that the model puts out, in their order",
    )
    add(
        "--horizon",
        type=count,
        default=0,
        help="what is true of a row stands so many rows later in its session (%(default)s)",
    )
    add("--model", type=name, required=True)
    add_version(parser, "the newest")
    add("--sessions", type=several, help="only the file's first N sessions")
    add("--rate", type=rate, default=0.0, help="steps a second of each session; 0: no pauses")
    add("--concurrency", type=several, default=64, help="sessions at a time (%(default)s)")
    add("--prefix", type=name, default="", help="put before each session's name")
    parser.set_defaults(action=_run, interrupted="interrupted; its sessions were closed")


def _run(given: argparse.Namespace) -> int:
    given.options = client_options(given)
    asyncio.run(stream(into(StreamPlan, given)))
    return 0


@dataclass(frozen=True)
class StreamPlan:
    """What the user asked for."""

    file: Path
    session_column: str
    label_column: list[str]
    horizon: int
    model: str
    version: int
    address: str
    sessions: int | None
    rate: float
    concurrency: int
    prefix: str
    options: ClientOptions


async def stream(plan: StreamPlan) -> None:
    """Play the file, show it, and print the summary."""
    async with Client(plan.address, plan.options) as client:
        model = await client.model(plan.model, plan.version)
        _check_columns(plan, model)
        recordings = _recordings(plan, model)
        await _refuse_live(client, model, recordings, plan.prefix)
        progress = Progress(
            [SessionProgress(plan.prefix + each.session, len(each.rows)) for each in recordings],
            () if model.labels else _values(model)[: len(plan.label_column)],
        )
        say(
            f"{len(recordings)} sessions of {plan.file} to {model.name}/{model.version} "
            f"on {plan.address} ({model.device})",
            now=True,
        )
        _tell_unknown(recordings, model)
        await _play_all(_Player(client, model, plan, progress), recordings)
    say(*summary_lines(progress, progress.elapsed))


def _recordings(plan: StreamPlan, model: Model) -> list[Recording]:
    columns = Columns(
        plan.session_column, model.features, tuple(plan.label_column), model.labels, plan.horizon
    )
    return read_recordings(plan.file, columns)[: plan.sessions]


def _check_columns(plan: StreamPlan, model: Model) -> None:
    most = 1 if model.labels else len(_values(model))
    if len(plan.label_column) > most:
        what = "one label" if model.labels else f"{most} value(s)"
        raise BadFile(f"--label-column is given {len(plan.label_column)} times, and {model.name} "
                      f"puts out {what}")  # fmt: skip


def _values(model: Model) -> tuple[tuple[str, str], ...]:
    """Name and unit of each value that a step puts out."""
    return tuple(
        (each.name if each.size == 1 else f"{each.name}[{k}]", each.unit)
        for each in model.outputs
        for k in range(each.size)
    )


def _tell_unknown(recordings: list[Recording], model: Model) -> None:
    """The model takes such cells as it took what it never saw in training: say so, once."""
    found = Counter[str]()
    for each in recordings:
        found += each.unknown(model.features)
    labels = {each.name: each.labels for each in model.features}
    for column, cells in found.items():
        known = ", ".join(labels[column][:MOST_NAMED])
        more = ", ..." if len(labels[column]) > MOST_NAMED else ""
        say(f"{cells:,} cells of {column!r} are unknown to the model, which knows {known}{more}")


async def _refuse_live(
    client: Client, model: Model, recordings: list[Recording], prefix: str
) -> None:
    """Never go on in, nor close, a session that somebody else has open."""
    wanted = {prefix + each.session for each in recordings}
    live = [each async for each in client.sessions(model.name) if each.session_id in wanted]
    if live:
        raise LiveAlready(live[0].session_id, live[0].model, live[0].version, len(live) - 1)


async def _play_all(player: "_Player", recordings: list[Recording]) -> None:
    progress = player.progress
    view = make_view()
    with view:
        async with asyncio.TaskGroup() as group:
            shower = group.create_task(keep_showing(view, progress))
            async with asyncio.TaskGroup() as streams:
                for recording, each in zip(recordings, progress.sessions, strict=True):
                    streams.create_task(player.play(recording, each))
            shower.cancel()
        view.show(progress)


class _Player:
    """Plays recordings, at most `concurrency` at a time."""

    def __init__(self, client: Client, model: Model, plan: StreamPlan, progress: Progress) -> None:
        self.progress = progress
        self._client, self._model, self._plan = client, model, plan
        self._reader = Reader(model)
        self._places = asyncio.Semaphore(plan.concurrency)

    async def play(self, recording: Recording, progress: SessionProgress) -> None:
        """Open the session, step through its rows and close it."""
        async with self._places:
            session = self._client.session(
                self._model.name, progress.session, version=self._model.version
            )
            progress.running = True
            async with session:
                if not session.created:
                    session.keep = True  # it is somebody else's
                    raise LiveAlready(progress.session, self._model.name, session.version)
                await self._steps(session, recording, progress)
            progress.running = False

    async def _steps(
        self, session: Session, recording: Recording, progress: SessionProgress
    ) -> None:
        start = time.perf_counter()
        pairs = zip(recording.features, recording.truths, strict=True)
        for at, (features, truth) in enumerate(pairs):
            if self._plan.rate:
                await asyncio.sleep(start + at / self._plan.rate - time.perf_counter())
            before = time.perf_counter()
            try:
                outputs = await session.step(features)
            except TidegateError as error:
                raise Failure(
                    f"session {progress.session!r}, row {recording.rows[at]} of "
                    f"{self._plan.file}: {error}"
                ) from error
            self.progress.latencies.append(time.perf_counter() - before)
            progress.record(self._reader.read(outputs), truth)
