"""`tidegate server show`, `log-level`, `drain`: an operator's calls about a server itself."""

import argparse
import asyncio
from collections.abc import Callable, Coroutine

from tidegate._stream.operator import Operator
from tidegate.cli.common import Subparsers, client_options, say
from tidegate.v1 import admin_pb2 as pb

LEVELS = ("debug", "info", "warning", "error")
Work = Callable[[Operator], Coroutine[None, None, None]]


def add(commands: Subparsers, server: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser("server", help="look at a server, have it log more, or end it")
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)
    show = verbs.add_parser("show", parents=[server], help="settings, models, tenants")
    show.set_defaults(action=_show)
    level = verbs.add_parser("log-level", parents=[server], help="what is logged from now on")
    level.add_argument("level", choices=LEVELS)
    level.set_defaults(action=_log_level)
    drain = verbs.add_parser("drain", parents=[server], help="finish, store, and end, as SIGTERM")
    drain.set_defaults(action=_drain)


def _show(given: argparse.Namespace) -> int:
    async def show(operator: Operator) -> None:
        _tell(await operator.describe())

    return _with_operator(given, show)


def _log_level(given: argparse.Namespace) -> int:
    async def change(operator: Operator) -> None:
        before = await operator.set_log_level(given.level)
        say(f"{given.level}; it was {before}")

    return _with_operator(given, change)


def _drain(given: argparse.Namespace) -> int:
    async def drain(operator: Operator) -> None:
        await operator.drain()
        say(f"{given.address} drains")

    return _with_operator(given, drain)


def _tell(server: pb.DescribeReply) -> None:
    since = server.started_at.ToDatetime().isoformat(sep=" ", timespec="seconds")
    state = "drains" if server.draining else "serves"
    say(f"Tidegate {server.version} {state}, since {since} UTC, log level {server.log_level}")
    for each in server.models:
        notes = [", newest" if each.newest else "", ", takes no new ones" if each.leaving else ""]
        said = f"{each.sessions:,} sessions, {each.queued_steps:,} steps queued{''.join(notes)}"
        say(f"  model    {each.model}/{each.version}: {said}")
    for broken in server.broken:
        say(f"  broken   {broken.model}/{broken.version}: {broken.why}")
    for tenant in server.tenants:
        say(f"  tenant   {tenant.tenant or '(none)'}: {tenant.sessions:,} sessions")
    for name in sorted(server.settings):
        say(f"  setting  {name} = {server.settings[name]}")


def _with_operator(given: argparse.Namespace, work: Work) -> int:
    async def run() -> int:
        async with Operator(given.address, client_options(given)) as operator:
            await work(operator)
        return 0

    return asyncio.run(run())
