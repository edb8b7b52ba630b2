"""`tidegate sessions`: list, show, close, export and import whole sessions."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from tidegate import Client, SessionInfo
from tidegate.cli.common import BadFile, Failure, Subparsers, add_version, client_options, name, say
from tidegate.errors import BadSnapshot, SessionGone, UnknownModel, UnknownVersion

Work = Callable[[Client], Coroutine[None, None, int]]
STREAM = "-"
"""As a file's name: stdout, or stdin."""
HARMLESS = " @+=,"
LONGEST = 200
"""Characters of a name, well below what file systems take."""
MARK = 16
SUFFIX = ".tidegate-session"
MOST_BYTES = 256 << 20
"""Far above any session's state; what is larger, or never ends, is something else."""
HEADINGS = ("state", "type", "shape", "min", "mean", "max", "norm")
TEXTS = 3
"""How many of the columns are text; the others are numbers, and stand to the right."""


def add(commands: Subparsers, server: argparse.ArgumentParser) -> None:
    """Add the commands."""
    parser = commands.add_parser("sessions", help="list, show, close, export or import sessions")
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_list(verbs.add_parser("list", parents=[server], help="list a model's live sessions"))
    _add_show(verbs.add_parser("show", parents=[server], help="show one session"))
    _add_close(verbs.add_parser("close", parents=[server], help="end sessions"))
    _add_export(verbs.add_parser("export", parents=[server], help="write a session to a file"))
    _add_import(verbs.add_parser("import", parents=[server], help="make a session of a file"))


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=name)
    add_version(parser, "all")
    parser.set_defaults(action=_list)


def _add_show(parser: argparse.ArgumentParser) -> None:
    _add_session(parser)
    parser.add_argument("--state", action="store_true", help="sum up its state tensors too")
    parser.set_defaults(action=_show)


def _add_close(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=name)
    parser.add_argument("sessions", type=name, nargs="+", metavar="session")
    add_version(parser, "the one that holds the session")
    parser.set_defaults(action=_close)


def _add_export(parser: argparse.ArgumentParser) -> None:
    _add_session(parser)
    parser.add_argument(
        "--out", metavar="FILE", help="- is stdout (default: SESSION.tidegate-session)"
    )
    parser.set_defaults(action=_export)


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="what `export` wrote; - is stdin")
    parser.add_argument(
        "--as", dest="session", type=name, default="", metavar="SESSION", help="under another name"
    )
    parser.add_argument("--replace", action="store_true", help="a live session of that name")
    parser.set_defaults(action=_import)


def _add_session(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=name)
    parser.add_argument("session", type=name)
    add_version(parser, "the one that holds the session")


def _list(given: argparse.Namespace) -> int:
    return _connected(given, lambda client: list_sessions(client, given.model, given.version))


def _show(given: argparse.Namespace) -> int:
    which = given.model, given.session, given.version
    return _connected(given, lambda client: show_session(client, *which, state=given.state))


def _close(given: argparse.Namespace) -> int:
    which = given.model, given.sessions, given.version
    return _connected(given, lambda client: close_sessions(client, *which))


def _export(given: argparse.Namespace) -> int:
    which = given.model, given.session, given.version
    return _connected(given, lambda client: export_session(client, *which, given.out))


def _import(given: argparse.Namespace) -> int:
    which = given.file, given.session
    return _connected(given, lambda client: import_session(client, *which, given.replace))


def _connected(given: argparse.Namespace, work: Work) -> int:
    async def run() -> int:
        async with Client(given.address, client_options(given)) as client:
            return await work(client)

    return asyncio.run(run())


async def list_sessions(client: Client, model: str, version: int) -> int:
    """Print every one; returns the exit status."""
    say(f"{'steps':>10}  {'opened':<20}  {'last used':<20}  {'expires':<20}  session")
    async for each in client.sessions(model, version):
        times = (each.opened_at, each.last_used_at, each.expires_at)
        shown = "  ".join(map(moment, times))
        say(f"{each.steps:>10,}  {shown}  {each.session_id} ({each.model}/{each.version})")
    return 0


async def show_session(
    client: Client, model: str, session_id: str, version: int, *, state: bool
) -> int:
    """Print it; returns the exit status."""
    info = await client.get_session(model, session_id, version=version)
    say(*facts(info))
    if state:
        tensors = await client.peek(model, session_id, version=info.version)
        say("", *columns([HEADINGS, *summaries(tensors)]))
    return 0


def facts(info: SessionInfo) -> list[str]:
    """What the server knows of it, a line each."""
    return [
        f"session    {info.session_id}",
        f"model      {info.model}/{info.version}",
        f"steps      {info.steps:,}",
        f"opened     {moment(info.opened_at)}",
        f"last used  {moment(info.last_used_at)}",
        f"expires    {moment(info.expires_at)}, unless it is stepped before",
    ]


def summaries(tensors: Mapping[str, NDArray[np.floating]]) -> list[tuple[str, ...]]:
    """A row a tensor."""
    return [(name, *_summary(values)) for name, values in tensors.items()]


def _summary(values: NDArray[np.floating]) -> tuple[str, ...]:
    exact = values.astype(np.float64)  # float16 would overflow in the norm
    figures = (exact.min(), exact.mean(), exact.max(), np.linalg.norm(exact))
    shape = "x".join(map(str, values.shape))
    return values.dtype.name, shape, *(f"{figure:.4f}" for figure in figures)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of equal length, aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_aligned(row, widths)).rstrip() for row in rows]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.ljust(width) if at < TEXTS else cell.rjust(width)
        for at, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


async def close_sessions(
    client: Client, model: str, session_ids: Sequence[str], version: int
) -> int:
    """Close each; those that are not live are named, and do not keep the others open."""
    missing = 0
    for session_id in session_ids:
        try:
            steps = await client.close_session(model, session_id, version=version)
        except SessionGone as error:
            missing += 1
            say(f"tidegate: {error}", error=True)
        else:
            say(f"{session_id} closed after {steps:,} steps")
    return 1 if missing else 0


async def export_session(
    client: Client, model: str, session_id: str, version: int, out: str | None
) -> int:
    """Write it; returns the exit status. The session goes on."""
    snapshot = await client.export_session(model, session_id, version=version)
    if out == STREAM:
        sys.stdout.buffer.write(snapshot)
        return 0
    file = Path(file_name(session_id) if out is None else out)
    try:
        file.write_bytes(snapshot)
    except (OSError, ValueError) as error:  # ValueError: a name with a null in it
        raise BadFile.of(file, error) from error
    say(f"{session_id} exported to {file} ({len(snapshot):,} bytes)")
    return 0


async def import_session(client: Client, file: str, session_id: str, replace: bool) -> int:
    """Make the session; returns the exit status.

    Raises:
        BadFile: it cannot be read, or is no snapshot that the server can take in.
        Failure: it is of a model or version that the server has not.
    """
    snapshot = _read(file)
    try:
        info = await client.import_session(snapshot, session_id=session_id, replace=replace)
    except BadSnapshot as error:
        raise BadFile(f"{_named(file)}: {error}") from error
    except (UnknownModel, UnknownVersion) as error:
        raise Failure(f"{_named(file)}: {error}") from error
    say(
        f"{info.session_id} imported into {info.model}/{info.version}; it stands at step "
        f"{info.steps:,}"
    )
    return 0


def _read(file: str) -> bytes:
    try:
        if file == STREAM:
            snapshot = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with Path(file).open("rb") as opened:
                snapshot = opened.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a null in it
        raise BadFile.of(_named(file), error) from error
    if not snapshot:
        raise BadFile(f"{_named(file)}: empty, no snapshot")
    if len(snapshot) > MOST_BYTES:
        raise BadFile(f"{_named(file)}: too large for a snapshot")
    return snapshot


def _named(file: str) -> str:
    return "stdin" if file == STREAM else file


def moment(when: datetime) -> str:
    """ISO 8601, to the second, in UTC."""
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"


def file_name(session_id: str) -> str:
    """A name in this folder, different for different sessions.

    Letters, digits and some signs stay, others are percent-encoded; so is a first character that
    would hide the file or make it look like an option. Long ones end in a digest.
    """
    name = quote(session_id, safe=HARMLESS)
    if name.startswith((".", "-", "~", " ")):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if len(name) > LONGEST:
        mark = hashlib.sha256(session_id.encode()).hexdigest()[:MARK]
        name = f"{name[:LONGEST]}-{mark}"
    return name + SUFFIX
