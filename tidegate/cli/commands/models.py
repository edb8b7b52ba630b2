"""`tidegate models`: its arguments."""

import argparse
import asyncio

from tidegate.cli.arguments import Subparsers


def add(commands: Subparsers, server: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser("models", parents=[server], help="list the models served")
    parser.set_defaults(action=_run)


def _run(given: argparse.Namespace) -> int:
    from tidegate.cli.models import list_models

    asyncio.run(list_models(given.address, given.timeout))
    return 0
