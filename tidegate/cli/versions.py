"""`tidegate models load`, `unload`, `migrate`, `shadow`: an operator's calls about versions."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Coroutine

from tidegate._stream.operator import BY, Operator
from tidegate.cli.common import Subparsers, client_options, name, say, seconds, several

Work = Callable[[Operator], Coroutine[None, None, int]]


def add(verbs: Subparsers) -> None:
    """Add the commands."""
    server = _server()
    _add_load(verbs.add_parser("load", parents=[server], help="look at a version's folder now"))
    _add_unload(verbs.add_parser("unload", parents=[server], help="let a version fade out"))
    _add_migrate(verbs.add_parser("migrate", parents=[server], help="move live sessions"))
    _add_shadow(verbs.add_parser("shadow", parents=[server], help="compare a version unseen"))


def _server() -> argparse.ArgumentParser:
    """The server's arguments, which `tidegate models` has as well: left out, they change nothing
    that was said there."""
    parser = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("--address", help="HOST:PORT")
    parser.add_argument("--timeout", type=seconds, help="seconds the call may take")
    return parser


def _add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=name)
    parser.add_argument("version", type=several)


def _add_load(parser: argparse.ArgumentParser) -> None:
    _add_version(parser)
    parser.set_defaults(action=_load)


def _add_unload(parser: argparse.ArgumentParser) -> None:
    _add_version(parser)
    parser.add_argument("--force", action="store_true", help="close its sessions")
    parser.set_defaults(action=_unload)


def _add_migrate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=name)
    parser.add_argument("origin", metavar="FROM", type=several)
    parser.add_argument("target", metavar="TO", type=several)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--all", action="store_true", help="every live session of FROM")
    which.add_argument("--session", dest="ids", action="append", type=name, metavar="ID")
    parser.add_argument("--by", choices=BY, default="state", help="(%(default)s)")
    parser.set_defaults(action=_migrate)


def _add_shadow(parser: argparse.ArgumentParser) -> None:
    _add_version(parser)
    parser.add_argument("--off", action="store_true", help="no longer")
    parser.set_defaults(action=_shadow)


def _load(given: argparse.Namespace) -> int:
    async def load(operator: Operator) -> int:
        await operator.load(given.model, given.version)
        say(f"{given.model}/{given.version} serves")
        return 0

    return _with_operator(given, load)


def _unload(given: argparse.Namespace) -> int:
    async def unload(operator: Operator) -> int:
        left = await operator.unload(given.model, given.version, force=given.force)
        what = f"waits for {left} sessions" if left else "is gone"
        say(f"{given.model}/{given.version} takes no new sessions and {what}")
        return 0

    return _with_operator(given, unload)


def _migrate(given: argparse.Namespace) -> int:
    async def migrate(operator: Operator) -> int:
        ids = None if given.all else given.ids
        went, stay = await operator.migrate(
            given.model, given.origin, given.target, ids, by=given.by
        )
        for session_id, error in stay.items():
            say(f"tidegate: {session_id} stays: {error}", error=True)
        say(f"{len(went)} sessions went to {given.model}/{given.target}, {len(stay)} stay")
        return 1 if stay else 0

    return _with_operator(given, migrate)


def _shadow(given: argparse.Namespace) -> int:
    async def shadow(operator: Operator) -> int:
        await operator.shadow(given.model, given.version, not given.off)
        say(f"{given.model}/{given.version} is {'no' if given.off else 'a'} shadow")
        return 0

    return _with_operator(given, shadow)


def _with_operator(given: argparse.Namespace, work: Work) -> int:
    async def run() -> int:
        async with Operator(given.address, client_options(given)) as operator:
            return await work(operator)

    return asyncio.run(run())
