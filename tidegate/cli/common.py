"""What the commands have in common: failures, the kinds of arguments, and lines of figures."""

import argparse
import math
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar
from urllib.parse import urlsplit

from tidegate import ClientOptions
from tidegate.options import Tls
from tidegate.printable import printable
from tidegate.shards import MOST_SHARDS

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Plan = TypeVar("Plan", bound="DataclassInstance")
# argparse's own class takes no type arguments when it runs.
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
LONGEST = 10_000_000
"""Seconds that an argument may ask for: all that clocks can say."""


class Failure(Exception):
    """The command cannot go on; `str()` is its one line on stderr."""

    status = 1


class BadFile(Failure):
    """The user's file or arguments are at fault."""

    status = 2

    @classmethod
    def of(cls, file: object, error: Exception) -> "BadFile":
        """A file that cannot be opened, read or written."""
        return cls(f"{file}: {getattr(error, 'strerror', None) or error}")


class NotInstalled(Failure):
    """The command needs what only the extra `cli` brings."""

    status = 2

    def __init__(self, library: str) -> None:
        super().__init__(f"{library} is not installed (pip install 'tidegate[cli]')")


class LiveAlready(Failure):
    """A session of that name is live on the server."""

    def __init__(self, session_id: str, model: str, version: int, others: int = 0) -> None:
        more = f" (and {others} more)" if others else ""
        super().__init__(
            f"session {session_id!r}{more} is live on {model}/{version} already; "
            "close it, or give your sessions other names with --prefix"
        )


def say(*lines: str, error: bool = False, now: bool = False) -> None:
    """Write lines to stdout, or to stderr. All that a command says goes through here, or through
    `printable`: names and messages are others', and a terminal obeys what it is told."""
    print(*map(printable, lines), sep="\n", file=sys.stderr if error else sys.stdout, flush=now)


def server_arguments() -> argparse.ArgumentParser:
    """The parent of every command that calls a server."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--address", default="127.0.0.1:50051", help="HOST:PORT (%(default)s)")
    parser.add_argument(
        "--timeout", type=seconds, default=10.0, help="seconds a call may take (%(default)s)"
    )
    parser.add_argument(
        "--tls-ca", type=Path, metavar="FILE", help="PEM: encrypt, and trust whom it signed"
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="PEM: this client's own")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="PEM: its key")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="has the token that says who calls"
    )
    parser.add_argument(
        "--shards", type=_shards, default=1, metavar="N",
        help="streams that a proxy may route by the header tidegate-shard (%(default)s)",
    )  # fmt: skip
    return parser


def client_options(given: argparse.Namespace) -> ClientOptions:
    """What `server_arguments` say.

    Raises:
        BadFile: a file that they name cannot be used.
    """
    if given.token_file is not None:
        try:
            given.token_file.read_text()
        except (OSError, ValueError) as error:
            raise BadFile.of(given.token_file, error) from None
    return ClientOptions(
        timeout=given.timeout, tls=_tls(given), shards=given.shards, token=given.token_file
    )


def _tls(given: argparse.Namespace) -> Tls | None:
    files = given.tls_ca, given.tls_cert, given.tls_key
    if files == (None, None, None):
        return None
    try:
        tls = Tls(*files)
        tls.credentials()
    except ValueError:
        raise BadFile("--tls-cert and --tls-key go together") from None
    except OSError as error:
        raise BadFile.of(error.filename, error) from None
    return tls


def add_version(parser: argparse.ArgumentParser, zero: str) -> None:
    """The model's version, for commands that name a model; `zero` says what 0 means."""
    parser.add_argument(
        "--model-version", dest="version", metavar="V", type=_version, default=0, help=f"0: {zero}"
    )


def into(plan: type[Plan], given: argparse.Namespace) -> Plan:
    """The plan whose fields are named like the arguments."""
    return plan(**{each.name: getattr(given, each.name) for each in fields(plan)})


def name(text: str) -> str:
    """A model's or session's name: the server takes UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not UTF-8") from None
    return text


def _version(text: str) -> int:
    value = count(text)
    if value >= 2**63:
        raise argparse.ArgumentTypeError(f"{text} is no version")
    return value


def count(text: str) -> int:
    """A whole number from 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def several(text: str) -> int:
    """A whole number from 1."""
    value = count(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _shards(text: str) -> int:
    value = several(text)
    if value > MOST_SHARDS:
        raise argparse.ArgumentTypeError(f"must be at most {MOST_SHARDS}")
    return value


def rate(text: str) -> float:
    """So many a second; 0 is no limit."""
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not a rate")
    return value


def seconds(text: str) -> float:
    """Seconds: above 0, and no more than clocks can say."""
    value = float(text)
    if not 0 < value <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most {LONGEST:,}")
    return value


def web_address(text: str) -> str:
    """A URL that can be fetched over HTTP."""
    try:
        parts = urlsplit(text)
        port = parts.port  # read, because it is checked only then
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no URL of http or https")
    return text


def steps_line(steps: int, elapsed: float) -> str:
    """How many were answered in so many seconds, and the rate."""
    a_second = steps / elapsed if elapsed else 0.0
    return f"steps      {steps:,} in {elapsed:.1f} s ({a_second:,.0f} steps/s)"


def latency_line(p50: float, p90: float, p99: float, longest: float) -> str:
    """Percentiles of round trips, in milliseconds."""
    return f"latency    p50 {p50:.2f} ms, p90 {p90:.2f}, p99 {p99:.2f}, max {longest:.2f}"
