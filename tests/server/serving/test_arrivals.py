"""Sessions on their way from one version to another: nobody's until they are live there."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from server.errors import (
    SessionExists,
    SessionMigrated,
    SessionsFull,
    UnknownSession,
    VersionLeaves,
)
from server.sessions.directory import Directory
from server.sessions.standing import Left

MOVED = partial(SessionMigrated, version=2)


def pair() -> tuple[Directory, Directory]:
    return Directory("m", 1, 2, 60.0), Directory("m", 2, 2, 60.0)


def test_a_session_is_live_in_one_version_before_and_in_the_other_after() -> None:
    first, second = pair()
    handle, _, _ = first.open("s")
    hidden = second.hide("s", 7)
    assert "s" in first
    assert "s" not in second
    assert second.page("", 10) == []
    second.show(hidden, "s", lambda: first.move(handle, MOVED))
    assert "s" not in first
    assert second.find("s") == (hidden, 7)
    with pytest.raises(SessionMigrated, match="went to version 2"):
        first.find("s")
    assert isinstance(first.error(handle), SessionMigrated)


def test_one_that_ended_meanwhile_does_not_live_on_in_the_other() -> None:
    first, second = pair()
    handle, _, _ = first.open("s")
    hidden = second.hide("s", 1)
    first.close("s")
    first.open("s")  # another of that name
    with pytest.raises(UnknownSession):
        second.show(hidden, "s", lambda: first.move(handle, MOVED))
    second.drop(hidden)
    assert "s" in first
    assert "s" not in second
    assert not second.live(np.array([hidden])).any()


def test_one_on_its_way_takes_room_and_keeps_its_version_from_going() -> None:
    _, second = pair()
    hidden = second.hide("a", 1)
    second.open("b")
    with pytest.raises(SessionsFull):
        second.open("c")
    second.close("b")
    second.leaving = True
    assert not second.vacated
    with pytest.raises(VersionLeaves):
        second.show(hidden, "a", lambda: Left(0.0, 0.0, 1))
    second.drop(hidden)
    assert second.vacated
    with pytest.raises(VersionLeaves):
        second.open("d")


def test_one_does_not_take_the_place_of_a_live_one() -> None:
    first, second = pair()
    handle, _, _ = first.open("s")
    hidden = second.hide("s", 1)
    second.open("s")
    with pytest.raises(SessionExists):
        second.show(hidden, "s", lambda: first.move(handle, MOVED))
    assert "s" in first
    with pytest.raises(SessionExists):
        second.hide("s", 1)
