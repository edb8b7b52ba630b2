"""`tidegate stream`: its arguments."""

import argparse
import asyncio
from pathlib import Path

from tidegate.cli.arguments import Subparsers, add_version, into, name, rate, several


def add(commands: Subparsers, server: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser("stream", parents=[server], help="play a CSV file")
    parser.description = "Streams the sessions of a CSV file side by side, each one row at a time."
    add = parser.add_argument
    add("file", type=Path, metavar="FILE.csv", help="columns named like the model's features")
    add("--session-column", required=True, help="the column that tells sessions apart")
    add("--label-column", help="the column with the true label, for accuracy")
    add("--model", type=name, required=True)
    add_version(parser, "the newest")
    add("--sessions", type=several, help="only the file's first N sessions")
    add("--rate", type=rate, default=0.0, help="steps a second of each session; 0: no pauses")
    add("--concurrency", type=several, default=64, help="sessions at a time (%(default)s)")
    add("--prefix", type=name, default="", help="put before each session's name")
    parser.set_defaults(action=_run, interrupted="interrupted; its sessions were closed")


def _run(given: argparse.Namespace) -> int:
    from tidegate.cli.stream import StreamPlan, stream

    asyncio.run(stream(into(StreamPlan, given)))
    return 0
