"""The commands' arguments, and the way every command ends: its exit status and its last line."""

import argparse
import asyncio
import math
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path

from tidegate import __version__
from tidegate.cli.failure import Failure
from tidegate.cli.listing import list_models, list_sessions
from tidegate.cli.stream import StreamPlan, stream
from tidegate.errors import TidegateError

INTERRUPTED = 130


def run(arguments: Sequence[str] | None = None) -> int:
    """Parse, run and translate every expected failure to one line and a status."""
    command = _command(_parser().parse_args(arguments))
    try:
        asyncio.run(command)
    except KeyboardInterrupt:
        print("tidegate: interrupted; its sessions were closed", file=sys.stderr)
        return INTERRUPTED
    except BaseExceptionGroup as group:
        return _fail(_first(group))
    except (Failure, TidegateError) as error:
        return _fail(error)
    return 0


def _command(given: argparse.Namespace) -> Coroutine[None, None, None]:
    values = vars(given)
    name = values.pop("command")
    if name == "models":
        return list_models(given.address, given.timeout)
    if name == "sessions":
        return list_sessions(given.address, given.timeout, given.model, given.version)
    return stream(StreamPlan(**values))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first failure of several tasks: the others were cancelled or failed alike."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _fail(error: BaseException) -> int:
    if not isinstance(error, Failure | TidegateError):
        raise error
    print(f"tidegate: {' '.join(str(error).split())}", file=sys.stderr)
    return error.status if isinstance(error, Failure) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tidegate", description="A client of a Tidegate server.")
    parser.add_argument("--version", action="version", version=f"tidegate {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--address", default="127.0.0.1:50051", help="HOST:PORT (%(default)s)")
    common.add_argument(
        "--timeout", type=_positive, default=10.0, help="seconds a call may take (%(default)s)"
    )
    _add_stream(commands.add_parser("stream", parents=[common], help="play a CSV file"))
    commands.add_parser("models", parents=[common], help="list the models served")
    sessions = commands.add_parser("sessions", parents=[common], help="list live sessions")
    sessions.add_argument("model")
    sessions.add_argument("--model-version", dest="version", type=_count, default=0)
    return parser


def _add_stream(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.description = "Streams the sessions of a CSV file side by side, each one row at a time."
    add("file", type=Path, metavar="FILE.csv", help="columns named like the model's features")
    add("--session-column", required=True, help="the column that tells sessions apart")
    add("--label-column", help="the column with the true label, for accuracy")
    add("--model", required=True)
    add("--model-version", dest="version", type=_count, default=0, help="0: the newest")
    add("--sessions", type=_several, help="only the file's first N sessions")
    add("--rate", type=_rate, default=0.0, help="steps a second of each session; 0: no pauses")
    add("--concurrency", type=_several, default=64, help="sessions at a time (%(default)s)")
    add("--prefix", default="", help="put before each session's name")


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def _several(text: str) -> int:
    value = _count(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not a rate")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value
