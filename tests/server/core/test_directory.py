"""The directory: handles for life, ends that are remembered, time that nobody can set."""

from __future__ import annotations

import resource
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import BadInput, SessionClosed, SessionExpired, SessionsFull, UnknownSession
from server.scheduler.submission import INDEX, Handles
from server.sessions import register
from server.sessions.directory import AT_ONCE, Directory
from server.sessions.standing import Adopted
from tests.harness import ROOT
from tests.server.core.parts import Clock


def idle(handles: Handles) -> np.ndarray:
    return np.zeros(len(handles), np.bool_)


def directory(limit: int = 5000, **more: object) -> tuple[Directory, Clock, Clock]:
    clock, wall = Clock(), Clock()
    return Directory("m", 1, limit, 10.0, clock, wall, **more), clock, wall  # type: ignore[arg-type]


def test_a_handle_is_nobody_elses_for_ever() -> None:
    known, seen = directory()[0], set[int]()
    for _ in range(50):
        handles = [known.open(f"s{k}")[0] for k in range(40)]
        assert not seen & set(handles)
        seen |= set(handles)
        for k in range(40):
            known.close(f"s{k}")
    assert not known.live(np.array([0, *sorted(seen)])).any()


def test_a_jump_of_the_time_of_day_ends_nobody() -> None:
    known, clock, wall = directory()
    known.open("a")
    for jump in (-1e9, 3e9):
        wall.now += jump
        assert known.expire(idle) == 0
        assert known.look("a")[1].last_used_at == wall.now
    clock.now += 10.5
    assert known.expire(idle) == 1
    with pytest.raises(SessionExpired) as caught:
        known.find("a")
    assert caught.value.ended_at == wall.now


def test_a_step_that_has_begun_keeps_its_session_live() -> None:
    known, clock, _ = directory()
    handle = known.open("a")[0]
    clock.now += 10.5
    known.use(np.array([handle]))
    assert known.expire(idle) == 0


def test_very_many_sessions_expire_some_at_a_time() -> None:
    known, clock, _ = directory()
    for k in range(2 * AT_ONCE + 10):
        known.open(f"s{k}")
    clock.now += 11
    asked: list[int] = []

    def between(handles: Handles) -> np.ndarray:
        asked.append(len(handles))
        return idle(handles)

    assert known.expire(between) == 2 * AT_ONCE + 10
    assert asked == [AT_ONCE, AT_ONCE, 10]


def test_a_full_directory_does_not_look_at_every_session_for_every_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once it did: 65,536 of them kept every caller waiting for fourteen seconds."""
    known, clock, _ = directory(1000)
    for k in range(1000):
        known.open(f"s{k}")
    looks, handles = list[int](), Directory._handles

    def looking(self: Directory) -> Handles:
        looks.append(1)
        return handles(self)

    monkeypatch.setattr(Directory, "_handles", looking)
    for _ in range(500):
        with pytest.raises(SessionsFull):
            known.open("one more")
    assert len(looks) == 1
    clock.now += 9.5
    with pytest.raises(SessionsFull) as caught:
        known.open("one more")
    assert caught.value.retry_after == pytest.approx(0.5)


def test_only_so_many_ends_are_remembered() -> None:
    known = directory(remembered_ends=3)[0]
    handles = [known.open(f"s{k}")[0] for k in range(5)]
    for k in range(5):
        known.close(f"s{k}")
    kinds = [type(known.error(handle)) for handle in handles]
    assert kinds == [UnknownSession] * 2 + [SessionClosed] * 3
    assert [known.ended(f"s{k}") for k in range(5)] == [False] * 2 + [True] * 3
    assert known.open("s4")[2]
    assert not known.ended("s4")


def test_sessions_beyond_what_columns_have_room_for_are_known_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(register, "ROOM", 3)
    known = directory(limit=10**15)[0]
    handles = np.array([known.open(f"s{k}")[0] for k in range(100)])
    known.count(handles, np.zeros(100, np.int64), np.arange(1, 101))
    assert known.live(handles).all() and sorted(known.handles()) == sorted(handles)
    assert [known.find(f"s{k}") for k in range(100)] == [
        (handle, k + 1) for k, handle in enumerate(handles.tolist())
    ]
    known.close("s7")
    assert known.handles().tolist() == sorted(np.delete(handles, 7))


def test_a_session_has_nothing_of_the_one_whose_index_it_has() -> None:
    known = directory()[0]
    before = known.adopt(Adopted("a", 3, 12345, steps=9, opened_at=0.0, used_at=0.0, created=False))
    assert known.told(before) == (9, 12345)
    known.close("a")
    after = known.open("b")[0]
    assert after & INDEX == before & INDEX and after != before
    assert known.told(after)[0] == 0 and known.told(after)[1] != 12345
    assert known.look("b")[1].steps == 0


ROOMY = """
from server.scheduler.submission import ROOM
from tests.server.core.test_directory import directory, resident_bytes
before = resident_bytes()
many = [directory(ROOM)[0] for _ in range(8)]
print(resident_bytes() - before, 8 * ROOM * 8 * 7)
assert len({known.open("s")[0] for known in many}) == 1
"""


def test_room_for_sessions_takes_no_memory_before_there_are_any() -> None:
    """In a process of its own, as a server is: an older one may be given memory that was used. Of
    each one's seven columns one is touched, which where pages are large may be all of it."""
    command = [sys.executable, "-c", ROOMY]
    ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    took, room = map(int, ran.stdout.split())
    assert took < room / 4


def test_a_session_takes_its_id_and_a_number_beside_its_place_in_columns() -> None:
    """In what Python allots: 116 bytes now."""
    known, count = directory(10_000)[0], 10_000
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for k in range(count):
            known.open(f"s-{k}")
        assert tracemalloc.get_traced_memory()[0] - before < 140 * count
    finally:
        tracemalloc.stop()


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.parametrize("session_id", ["", "x" * 257, "é" * 129, "\ud800"])
def test_what_cannot_be_an_id_is_refused_by_name(session_id: str) -> None:
    with pytest.raises(BadInput, match="1 to 256 bytes of UTF-8") as caught:
        directory()[0].open(session_id)
    assert caught.value.field == "session_id"


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["open", "close", "count", "lose"]), st.integers(0, 5)), max_size=60
)


@settings(deadline=None)
@given(operations=OPERATIONS)
def test_any_life_of_sessions_equals_a_dictionary(operations: list[tuple[str, int]]) -> None:
    known, live, ended = directory()[0], dict[str, list[int]](), list[int]()
    known.watch_ends(lambda handle, *_: ended.append(handle))
    for what, who in operations:
        name = f"s{who}"
        if what == "open":
            handle, steps, created = known.open(name)
            assert created == (name not in live)
            assert live.setdefault(name, [handle, 0]) == [handle, steps]
        elif name not in live:
            with pytest.raises((UnknownSession, SessionClosed)):
                known.find(name)
        elif what == "count":
            live[name][1] += 3
            known.count(np.array([live[name][0]]), np.array([1]), np.array([live[name][1]]))
        elif what == "close":
            assert known.close(name) == live.pop(name)[1]
        else:
            known.close(name)
            known.lose(np.array([live.pop(name)[0]]))  # it has ended already
    assert {name: list(known.find(name)) for name in live} == live
    assert [info.session_id for info in known.page("", 10)] == sorted(live)
    handles = np.array([handle for handle, _ in live.values()] + ended, np.int64)
    assert known.live(handles).tolist() == [True] * len(live) + [False] * len(ended)
    assert len({handle & INDEX for handle, _ in live.values()}) == len(live) == len(known)
