"""Texts for logs: escaped, cut, without passwords; and what is told of an exception."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from typing import Final

from tidegate.printable import printable

LONGEST: Final = 4_096
"""Characters of a message."""
LONGEST_VALUE: Final = 1_024
"""Characters of a field: every session id's, however many of them have to be spelt out."""
FRAMES: Final = 20
"""Of a traceback, those nearest to where it was raised."""
CHAIN: Final = 4
"""Exceptions that led to one another."""
LONGEST_CAUSE: Final = 1_024
"""Characters of an exception's own words."""
LONGEST_TRACE: Final = 8_192
"""Characters of all that is told of an exception."""
AHEAD: Final = 2_048
"""Characters behind the longest text in which the end of a password is looked for."""

PASSWORD: Final = re.compile(r"(://[^\s/:@]{0,256}:)[^\s@]{1,1024}@")


def readable(text: str, longest: int = LONGEST) -> str:
    """The text in one printable line, cut where it is longer than that, which is told; what looks
    like the password of a URL is not."""
    known = text[: longest + AHEAD]
    if "://" in known:
        known = PASSWORD.sub(r"\1***@", known)
    whole = printable(known[:longest])
    if len(known) <= longest and len(whole) <= longest:
        return whole
    return f"{whole[:longest]} (cut)"


def told(error: BaseException) -> list[str]:
    """An exception and what led to it, in lines; those of others' making are escaped and cut. Of
    very many the last are told, which say what happened."""
    lines, room = list(_chain(error, CHAIN)), LONGEST_TRACE
    for at in range(len(lines) - 1, -1, -1):
        room -= len(lines[at])
        if room < 0:
            return ["(cut)", *lines[at + 1 :]]
    return lines


def _chain(error: BaseException, left: int) -> Iterator[str]:
    led = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if led is not None and left > 1:
        yield from _chain(led, left - 1)
        yield "which led to:"
    yield "Traceback (most recent call last):"
    for frame in traceback.extract_tb(error.__traceback__, limit=-FRAMES):
        where = f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}'
        yield readable(where, LONGEST_CAUSE)
        if frame.line:
            yield readable(f"    {frame.line}", LONGEST_CAUSE)
    yield f"{type(error).__qualname__}: {readable(_words(error), LONGEST_CAUSE)}"
    if isinstance(error, BaseExceptionGroup) and left > 1:
        for each in error.exceptions[:CHAIN]:
            yield from (f"  {line}" for line in _chain(each, left - 1))


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # its words are somebody's code, too
        return "(it has no words)"
