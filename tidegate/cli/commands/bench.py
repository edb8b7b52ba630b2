"""`tidegate bench`: its arguments."""

import argparse
import asyncio

from tidegate.cli.arguments import Subparsers, add_version, into, name, rate, seconds, several

MOST_SESSIONS = 100_000
MOST_STEPS = 65_536


def add(commands: Subparsers, server: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser("bench", parents=[server], help="put load on a model")
    parser.description = (
        "Steps sessions of its own through random observations, all at a time, and tells how fast "
        "they were answered."
    )
    add = parser.add_argument
    add("model", type=name)
    add_version(parser, "the newest")
    add("--sessions", type=_sessions, default=64, metavar="N", help="(%(default)s)")
    add("--seconds", type=seconds, default=5.0, metavar="S", help="(%(default)s)")
    add("--chunk", type=_steps, default=1, metavar="T", help="steps a call (%(default)s)")
    add("--rate", type=rate, default=0.0, metavar="HZ",
        help="steps a second of each session; 0: no pauses")  # fmt: skip
    add("--json", action="store_true", help="one line of JSON")
    parser.set_defaults(action=_run, interrupted="interrupted; its sessions were closed")


def _sessions(text: str) -> int:
    return _bounded(text, MOST_SESSIONS)


def _steps(text: str) -> int:
    return _bounded(text, MOST_STEPS)


def _bounded(text: str, most: int) -> int:
    value = several(text)
    if value > most:
        raise argparse.ArgumentTypeError(f"must be at most {most:,}")
    return value


def _run(given: argparse.Namespace) -> int:
    from tidegate.cli.bench.command import bench
    from tidegate.cli.bench.plan import BenchPlan

    return asyncio.run(bench(into(BenchPlan, given)))
