"""What a record looks like: nothing that others chose can pass for a line of its own."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.logs.layout import JsonLayout, TextLayout
from tidegate.wire import MAX_ID_BYTES

ANY = st.text(st.characters(exclude_categories=()))
HEAD = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ERROR server\.part ")
MOST_BYTES = 40_000
"""Of a record: a message, an exception and its fields, in UTF-8."""


def record(message: str, *given: object, error: BaseException | None = None, **more: Any) -> Any:
    info = None if error is None else (type(error), error, error.__traceback__)
    made = logging.LogRecord("server.part", logging.ERROR, "", 0, message, given, info)
    vars(made).update(more)
    return made


def raised(words: str, cause: BaseException | None = None) -> ValueError:
    try:
        raise ValueError(words) from cause
    except ValueError as error:
        return error


@given(ANY, ANY, ANY, ANY)
def test_any_text_stays_within_its_record(message: str, given: str, words: str, name: str) -> None:
    told = record("%s of %r", message, given, error=raised(words, raised(name)), session=name)
    first, *others = TextLayout().format(told).split("\n")
    assert HEAD.match(first)
    assert all(line.startswith("    ") for line in others)
    assert "".join([first, *others]).isprintable()
    line = JsonLayout().format(told)
    assert line.isascii()
    assert line.isprintable()
    read = json.loads(line)
    assert read["message"].isprintable()
    assert all(part.isprintable() for part in read["exception"].split("\n"))


def test_fields_are_told_and_a_quote_does_not_end_one() -> None:
    told = record("Export", session='a" outcome="OK\n', outcome="UNKNOWN_SESSION", version=3)
    assert (
        TextLayout()
        .format(told)
        .endswith(r' Export version=3 session="a\" outcome=\"OK\n" outcome="UNKNOWN_SESSION"')
    )
    read = json.loads(JsonLayout().format(told))
    assert HEAD.pattern.startswith(r"\d{4}")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", read.pop("ts"))
    assert read == {
        "level": "ERROR", "logger": "server.part", "message": "Export", "version": 3,
        "session": r'a" outcome="OK\n', "outcome": "UNKNOWN_SESSION",
    }  # fmt: skip


@pytest.mark.parametrize("sign", ["\x01", "\U0010ffff", "\u2028", "\\"])
def test_the_longest_id_is_told_whole_however_it_has_to_be_spelt(sign: str) -> None:
    name = sign * (MAX_ID_BYTES // len(sign.encode()))
    told = json.loads(JsonLayout().format(record("Close", session=name)))
    assert told["session"].encode().decode("unicode_escape") == name


def test_an_exception_is_told_with_where_it_was_raised_and_what_led_to_it() -> None:
    told = record("a run failed", error=raised("the end", raised("the beginning")))
    text = TextLayout().format(told)
    beginning, end = text.split("which led to:")
    assert "ValueError: the beginning" in beginning
    assert text.endswith("ValueError: the end")
    assert end.count("raise ValueError(words) from cause") == 1
    assert f'File "{__file__}", line ' in end


def test_what_a_group_holds_is_told() -> None:
    told = record("tasks failed", error=ExceptionGroup("two", [raised("one"), KeyError("other")]))
    text = TextLayout().format(told)
    assert "ValueError: one" in text
    assert "KeyError: 'other'" in text


def deep(left: int) -> None:
    if left:
        deep(left - 1)
    raise ValueError("z" * 1_000_000)


def wide(depth: int) -> Exception:
    return ExceptionGroup(
        "g" * 9_000, [wide(depth - 1) for _ in range(9)] if depth else [OSError()]
    )


@pytest.mark.parametrize("layout", [TextLayout(), JsonLayout()])
def test_a_record_is_cut_however_much_there_is_to_tell(layout: logging.Formatter) -> None:
    with pytest.raises(ValueError) as deepest:
        deep(500)
    for error in (deepest.value, wide(4)):
        told = record("é\x01" * 100_000, error=error, session="\x1b" * 100_000)
        assert len(layout.format(told).encode()) < MOST_BYTES
    assert "(cut)" in layout.format(told)


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_exception_that_cannot_be_said_is_told_by_its_name() -> None:
    assert "Mute: (it has no words)" in TextLayout().format(record("a run failed", error=Mute()))


@pytest.mark.parametrize("far", [0, 4_080, 4_090])
def test_a_url_s_password_is_not_told(far: int) -> None:
    url = "redis://tidegate:hunter2-is-secret@store:6379/0"
    told = record("x" * far + " cannot reach %s", url, error=raised(f"at {url}"), peer=url)
    for text in (TextLayout().format(told), JsonLayout().format(told)):
        assert "hunter2" not in text
        assert "redis://tidegate:***@store:6379/0" in text
