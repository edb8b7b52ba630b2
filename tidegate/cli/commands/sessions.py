"""`tidegate sessions`: the arguments of its commands."""

import argparse
import asyncio
from collections.abc import Callable, Coroutine

from tidegate.cli.arguments import Subparsers, add_version, name
from tidegate.client import Client
from tidegate.options import ClientOptions

Work = Callable[[Client], Coroutine[None, None, int]]


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
    from tidegate.cli.sessions.listing import list_sessions

    return _connected(given, lambda client: list_sessions(client, given.model, given.version))


def _show(given: argparse.Namespace) -> int:
    from tidegate.cli.sessions.showing import show_session

    which = given.model, given.session, given.version
    return _connected(given, lambda client: show_session(client, *which, state=given.state))


def _close(given: argparse.Namespace) -> int:
    from tidegate.cli.sessions.closing import close_sessions

    which = given.model, given.sessions, given.version
    return _connected(given, lambda client: close_sessions(client, *which))


def _export(given: argparse.Namespace) -> int:
    from tidegate.cli.sessions.exporting import export_session

    which = given.model, given.session, given.version
    return _connected(given, lambda client: export_session(client, *which, given.out))


def _import(given: argparse.Namespace) -> int:
    from tidegate.cli.sessions.importing import import_session

    which = given.file, given.session
    return _connected(given, lambda client: import_session(client, *which, given.replace))


def _connected(given: argparse.Namespace, work: Work) -> int:
    async def run() -> int:
        async with Client(given.address, ClientOptions(timeout=given.timeout)) as client:
            return await work(client)

    return asyncio.run(run())
