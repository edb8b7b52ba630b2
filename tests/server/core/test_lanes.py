"""A stream's lanes, without a stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from server.transport.lanes import Lanes
from tests.server.core.parts import make_bundle, make_model
from tidegate.v1 import tidegate_pb2 as pb


@pytest.fixture
def lanes(tmp_path: Path) -> Lanes:
    return Lanes(make_model(make_bundle(tmp_path), tmp_path, max_sessions=8))


def naming(lane: int, session_id: str, create: bool = True) -> pb.LaneOpen:
    return pb.LaneOpen(lane=lane, session_id=session_id, create=create)


def known(lanes: Lanes, *numbers: int) -> list[bool]:
    return list(map(bool, lanes.known(np.array(numbers, dtype=np.uint32))))


def test_rows_under_way_keep_the_names_they_came_with(lanes: Lanes) -> None:
    lanes.open([naming(0, "a"), naming(1, "b")])
    under_way = lanes.ids
    lanes.open([naming(0, "c"), naming(1, "nobody", create=False), naming(2, "d")])
    assert (under_way[0], under_way[1]) == ("a", "b")
    assert dict(lanes.ids) == {0: "c", 2: "d"}
    lanes.open([naming(0, "e")])
    assert (under_way[0], lanes.ids[0]) == ("a", "e")


def test_a_lane_is_known_while_its_last_naming_succeeded(lanes: Lanes) -> None:
    assert known(lanes, 0, 2**32 - 1) == [False, False]
    lanes.open([naming(0, "a"), naming(3, "b")])
    assert known(lanes, 0, 1, 3, 4, 2**32 - 1) == [True, False, True, False, False]
    lanes.open([naming(0, ""), naming(3, "b", create=False)])
    assert known(lanes, 0, 3) == [False, True]
    lanes.open([naming(0, "a", create=False)])
    assert known(lanes, 0, 3) == [True, True]


def test_a_lane_named_twice_in_a_message_names_what_was_last_asked_for(lanes: Lanes) -> None:
    first, second, lost = lanes.open(
        [naming(0, "a"), naming(0, "b"), naming(0, "nobody", create=False)]
    )
    assert first.created and second.created and lost.HasField("error")
    assert known(lanes, 0) == [False]
