"""`tidegate models`: what a server serves, as plain text; and what operators do with it."""

import argparse
import asyncio

from tidegate import Client, ClientOptions, Feature
from tidegate.cli import versions
from tidegate.cli.common import Subparsers, client_options, say


def add(commands: Subparsers, server: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser("models", parents=[server], help="list the models served")
    parser.set_defaults(action=_run)
    versions.add(parser.add_subparsers(metavar="COMMAND"))


def _run(given: argparse.Namespace) -> int:
    asyncio.run(list_models(given.address, client_options(given)))
    return 0


async def list_models(address: str, options: ClientOptions) -> None:
    """Print every model version with its features and outputs."""
    async with Client(address, options) as client:
        for model in await client.models():
            say(f"{model.name}/{model.version} on {model.device}: {model.description}".strip())
            say(f"  features    {', '.join(map(_described, model.features))}")
            for output in model.outputs:
                what = ", ".join(output.labels) or f"{output.size} values {output.unit}".strip()
                say(f"  {output.kind:<12}{output.name}: {what}")
            say(f"  limits      {model.max_chunk} steps a request, {model.max_sessions:,} sessions")


def _described(feature: Feature) -> str:
    notes = [feature.unit, " | ".join(feature.labels), "may be missing" if feature.missing else ""]
    noted = ", ".join(note for note in notes if note)
    return f"{feature.name} ({noted})" if noted else feature.name
