"""Runs one command, and the way every command ends: its exit status and its last line."""

import argparse
import os
import sys
from collections.abc import Sequence

from tidegate import __version__
from tidegate.cli import bench, models, server, sessions, stream, token, top
from tidegate.cli.common import Failure, say, server_arguments
from tidegate.errors import DeadlineExceeded, TidegateError, Unavailable

INTERRUPTED = 130


def run(arguments: Sequence[str] | None = None) -> int:
    """Parse, run and translate every expected failure to one line and a status."""
    given = _parser().parse_args(arguments)
    try:
        status = int(given.action(given))
        sys.stdout.flush()  # a reader that left is noticed here, not at the interpreter's end
    except KeyboardInterrupt:
        say(f"tidegate: {given.interrupted}", error=True)
        return INTERRUPTED
    except BrokenPipeError:
        return _unread()
    except BaseExceptionGroup as group:
        return _fail(_first(group), given)
    except (Failure, TidegateError) as error:
        return _fail(error, given)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tidegate", description="A client of a Tidegate server.")
    parser.add_argument("--version", action="version", version=f"tidegate {__version__}")
    parser.set_defaults(interrupted="interrupted")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    about = server_arguments()
    for command in (stream, sessions, models, bench, server):
        command.add(commands, about)
    top.add(commands)
    token.add(commands)
    return parser


def _unread() -> int:
    """Nobody reads the output any more (`| head`): end without a word, nor one at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first failure of several tasks: the others were cancelled or failed alike."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _fail(error: BaseException, given: argparse.Namespace) -> int:
    if not isinstance(error, Failure | TidegateError):
        raise error
    text = str(error)
    if isinstance(error, Unavailable | DeadlineExceeded) and error.detail is None:
        text = f"{given.address}: {text}"  # no server's words, so they do not tell which
    say(f"tidegate: {' '.join(text.split())}", error=True)
    return error.status if isinstance(error, Failure) else 1
