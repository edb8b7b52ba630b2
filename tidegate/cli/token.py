"""`tidegate token`: a new token, and what a server's access file has to say of it."""

import argparse
import hashlib
import os
import re
import secrets
from pathlib import Path

from tidegate.cli.common import BadFile, Subparsers, say

ROLES = ("step", "inspect", "admin")
BYTES = 32
NAME, TENANT = re.compile(r"[A-Za-z0-9._@:/-]{1,128}"), re.compile(r"[A-Za-z0-9._-]{1,64}")


def add(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "token",
        help="make a token",
        description="Makes a token, which goes into FILE and nowhere else, and prints what the "
        "server's access file has to say of it: append that there.",
    )
    parser.add_argument("name", type=_name, metavar="NAME", help="whose it is, for logs")
    parser.add_argument("--tenant", type=_tenant, help="whose sessions it works on")
    parser.add_argument(
        "--role", dest="roles", action="append", choices=ROLES, help="may be repeated (step)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="gets the token")
    parser.set_defaults(action=_run)


def _run(given: argparse.Namespace) -> int:
    token = secrets.token_urlsafe(BYTES)
    try:
        descriptor = os.open(given.out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{token}\n")
    except OSError as error:
        raise BadFile.of(given.out, error) from None
    roles = ", ".join(f'"{role}"' for role in dict.fromkeys(given.roles or ["step"]))
    say("[[tokens]]")
    say(f'name = "{given.name}"')
    say(f'sha256 = "{hashlib.sha256(token.encode()).hexdigest()}"')
    if given.tenant:
        say(f'tenant = "{given.tenant}"')
    say(f"roles = [{roles}]")
    return 0


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r}: 1 to 128 of A-Z a-z 0-9 . _ @ : / -")
    return text


def _tenant(text: str) -> str:
    if not TENANT.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r}: 1 to 64 of A-Z a-z 0-9 . _ -")
    return text
