"""Others' text for terminals and logs: one line of printable characters, which loses nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidegate.printable import printable

ANY = st.text(st.characters(exclude_categories=()))
"""Texts that UTF-8 cannot say included."""


@given(ANY)
def test_any_text_becomes_one_printable_line_that_python_reads_back(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1
    read = shown.encode("latin-1", "backslashreplace").decode("unicode_escape")
    assert read == text


def test_plain_text_stays_as_it_is_and_the_rest_is_spelt_out() -> None:
    assert printable("Übung 7: 10 °C, [red]日本[/red]") == "Übung 7: 10 °C, [red]日本[/red]"
    assert printable("a\x1b[2J\n\u202eb\\n\x9b\ud800") == (r"a\x1b[2J\n\u202eb\\n\x9b\ud800")
