"""A stream's lanes, without a stream."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.api.errors import IN_FULL, LIKEWISE
from server.api.lanes import AT_ONCE, Lanes
from server.serving.model import ServedModel
from tests.server.core.parts import make_bundle, make_model
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.wire import MAX_LANES


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    folder = tmp_path_factory.mktemp("models")
    return make_model(make_bundle(folder), folder, max_sessions=8)


@pytest.fixture
def lanes(model: ServedModel) -> Lanes:
    return Lanes(model)


def naming(lane: int, session_id: str, create: bool = True) -> pb.LaneOpen:
    return pb.LaneOpen(lane=lane, session_id=session_id, create=create)


def opened(lanes: Lanes, *requests: pb.LaneOpen) -> tuple[list[pb.LaneOpened], int]:
    """What became of the requests, and how often others had their turn meanwhile."""
    work, turns = lanes.open(requests), 0
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value, turns
        turns += 1


def handles(lanes: Lanes, *numbers: int) -> list[int]:
    found: list[int] = lanes.handles(np.array(numbers, dtype=np.uint32)).tolist()
    return found


def test_a_lane_is_known_while_its_last_naming_succeeded(lanes: Lanes, model: ServedModel) -> None:
    assert handles(lanes, 0, 2**32 - 1) == [0, 0]
    opened(lanes, naming(0, "a"), naming(3, "b"))
    a, b = (model.directory.find(name)[0] for name in "ab")
    assert handles(lanes, 0, 1, 3, 4, 2**32 - 1) == [a, 0, b, 0, 0]
    opened(lanes, naming(0, ""), naming(3, "b", create=False))
    assert handles(lanes, 0, 3) == [0, b]
    opened(lanes, naming(0, "a", create=False))
    assert handles(lanes, 0, 3) == [a, b]


def test_a_lane_named_twice_in_a_message_names_what_was_last_asked_for(lanes: Lanes) -> None:
    (first, second, lost), _ = opened(
        lanes, naming(0, "c"), naming(0, "d"), naming(0, "nobody", create=False)
    )
    assert first.created and second.created and lost.HasField("error")
    assert handles(lanes, 0) == [0]


def test_a_far_lane_takes_no_more_room_than_a_near_one(lanes: Lanes) -> None:
    """Once a table of 16 MB: two hundred streams of 60 bytes each took 3 GB."""
    opened(lanes, naming(MAX_LANES - 1, "a"))
    assert handles(lanes, MAX_LANES - 1)[0] != 0
    assert lanes._near.nbytes < 10_000


def test_naming_many_lanes_lets_others_have_their_turn(lanes: Lanes) -> None:
    answers, turns = opened(lanes, *[naming(k, "a") for k in range(10 * AT_ONCE)])
    assert (len(answers), turns) == (10 * AT_ONCE, 10)


def test_lanes_that_fail_alike_are_told_in_full_only_so_often(lanes: Lanes) -> None:
    answers, _ = opened(lanes, *[naming(k, "nobody", create=False) for k in range(1000)])
    texts = [each.error.message for each in answers]
    assert texts.count(LIKEWISE) == 1000 - IN_FULL
    assert {each.error.reason for each in answers} == {pb.REASON_UNKNOWN_SESSION}


NAMED = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 40), st.integers(0, 3000), st.integers(0, MAX_LANES - 1)),
        st.sampled_from(["a", "b", "c", "", "nobody"]),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(named=NAMED, asked=st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_any_lanes_name_what_a_dictionary_says(
    model: ServedModel, named: list[tuple[int, str]], asked: list[int]
) -> None:
    lanes, known = Lanes(model), dict[int, int]()
    for lane, name in named:
        opened(lanes, naming(lane, name, create=name != "nobody"))
        known[lane] = model.directory.find(name)[0] if name in model.directory else 0
    numbers = [*known, *asked]
    assert handles(lanes, *numbers) == [known.get(lane, 0) for lane in numbers]
