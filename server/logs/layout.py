"""The text of a record: a line for people, or one of JSON for machines.

Nothing that a caller chose can end a line or begin one that looks like a record: every text is
escaped here, and here alone. Records may have fields (`extra=` of logging's calls): those of
`FIELDS` are told, if they are set.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from server.logs.texts import LONGEST_VALUE, readable, told

FIELDS: Final = (
    "model", "version", "session", "sessions", "failed", "new_session", "to_version",
    "outcome", "peer", "identity", "tenant", "request_id",
)  # fmt: skip
"""What a record may say besides its message: texts and whole numbers."""


class TextLayout(logging.Formatter):
    """Time, level, logger, message, and fields as name="value"; an exception in lines below it,
    all of which are indented."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's lines."""
        said = readable(record.getMessage())
        head = f"{moment(record)} {record.levelname} {record.name} {said}"
        noted = [f"{name}={_quoted(value)}" for name, value in fields(record)]
        return "\n    ".join([" ".join([head, *noted]), *_exception(record)])


class JsonLayout(logging.Formatter):
    """An object a line: ts, level, logger, message, the fields, and exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line, in ASCII."""
        made: dict[str, str | int] = {
            "ts": moment(record),
            "level": record.levelname,
            "logger": record.name,
            "message": readable(record.getMessage()),
            **dict(fields(record)),
        }
        if lines := _exception(record):
            made["exception"] = "\n".join(lines)
        return json.dumps(made)


def moment(record: logging.LogRecord) -> str:
    """When, in UTC: ISO 8601 with milliseconds."""
    when = datetime.fromtimestamp(record.created, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def fields(record: logging.LogRecord) -> Iterator[tuple[str, str | int]]:
    """The fields that are set."""
    for name in FIELDS:
        value: Any = getattr(record, name, None)
        if isinstance(value, int):
            yield name, value
        elif value:
            yield name, readable(str(value), LONGEST_VALUE)


def _quoted(value: str | int) -> str:
    return str(value) if isinstance(value, int) else '"' + value.replace('"', '\\"') + '"'


def _exception(record: logging.LogRecord) -> list[str]:
    info = record.exc_info
    return told(info[1]) if info and info[1] is not None else []
