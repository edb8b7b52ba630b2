"""`tidegate top`: scrapes a server's metrics page again and again, and shows what changed.

Here are its arguments alone: the rest needs libraries that only the extra `cli` brings. `page`
reads a page, `change` compares two, `watch` does so until the user leaves, and shows lines, or on a
terminal a `screen` of `tables`.
"""

import argparse

from tidegate.cli.common import NotInstalled, Subparsers, seconds, web_address

METRICS = "http://127.0.0.1:9095/metrics"
SHORTEST = 0.1


def add(commands: Subparsers) -> None:
    """Add the command, which reads the metrics page and calls no server."""
    parser = commands.add_parser("top", help="watch a server's rates and latencies")
    parser.description = "Shows what a server does, from its metrics page, until q or Ctrl-C."
    add = parser.add_argument
    add("--metrics", type=web_address, default=METRICS, metavar="URL", help="(%(default)s)")
    add("--interval", type=_interval, default=1.0, metavar="SECONDS", help="(%(default)s)")
    add("--once", action="store_true", help="one interval as a table, then leave")
    parser.set_defaults(action=_run)


def _interval(text: str) -> float:
    value = seconds(text)
    if value < SHORTEST:
        raise argparse.ArgumentTypeError(f"must be at least {SHORTEST}")
    return value


def _run(given: argparse.Namespace) -> int:
    try:
        from tidegate.cli.top.watch import top
    except ImportError as error:
        raise NotInstalled(error.name or "a library") from None
    return top(given.metrics, given.interval, given.once)
