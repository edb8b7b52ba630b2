"""What the client encodes the server reads, and what the server replies the client reads back."""

from __future__ import annotations

import asyncio

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from server.api import columns
from server.api.lanes import Lanes
from server.bundle.manifest import Feature, Manifest, Output, State
from server.errors import BadInput, StepGap
from tidegate import errors
from tidegate._stream.answers import Answers, plain
from tidegate._stream.course import Course
from tidegate._stream.message import Block, LaneNames, Message
from tidegate._stream.rows import Row
from tidegate.model import FloatArray
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.wire import APPLIED, FAILED, REMEMBERED

INPUTS, OUTPUTS = 3, 2
MANIFEST = Manifest(
    name="m",
    version=1,
    description="",
    features=tuple(Feature(f"x{k}", "") for k in range(INPUTS)),
    outputs=(Output("y", OUTPUTS, "value", "", ()),),
    states=(State("h0", (1,), "float32", 0.0),),
    max_chunk=9,
    max_batch=64,
    files={},
)
LOOP = asyncio.new_event_loop()  # only for its futures
LOOP.close()
LENGTHS = st.lists(st.integers(1, 9), max_size=12)


class Nowhere:
    def offer(self, row: Row) -> None:
        raise AssertionError("nothing is sent here")


def message_of(lengths: list[int], block: int, first: int) -> tuple[Message, FloatArray]:
    """A message of rows and of a block of single steps, and all of its features."""
    draw = np.random.default_rng(first)
    message, features, lanes = Message(), [], LaneNames()
    for k, length in enumerate(lengths):
        course = Course(f"s{k}", first + k, Nowhere())
        course.lane = lanes.lane(course.session_id)
        steps = draw.normal(size=(length, INPUTS)).astype(np.float32)
        row = Row(course, steps.tobytes(), length, LOOP.create_future(), 0.0)
        row.number = course.number
        message.add(row)
        features.append(steps)
    if block:
        steps = draw.normal(size=(block, 1, INPUTS)).astype(np.float32)
        names = [f"b{k}" for k in range(block)]
        held = Block(names, np.full(block, first), steps, OUTPUTS, True, LOOP.create_future(), 0.0)
        message.add_share(*held.shares())
        features.append(steps[:, 0])
    return message, np.concatenate(features) if features else np.empty((0, INPUTS), np.float32)


class EveryLane(Lanes):
    """The server's side of a stream on which every lane names a session."""

    def __init__(self) -> None:
        pass

    def handles(self, lanes: NDArray[np.uint32]) -> NDArray[np.int64]:
        return lanes.astype(np.int64) + 1


EVERY_LANE = EveryLane()


@given(LENGTHS, st.integers(0, 12), st.integers(0, 2**60))
def test_any_rows_and_blocks_arrive_as_they_were_sent(
    lengths: list[int], block: int, first: int
) -> None:
    message, features = message_of(lengths, block, first)
    lanes = LaneNames()
    packed = message.encode(7, _same(lanes, message)).SerializeToString()
    read = columns.read(pb.StepBatch.FromString(packed), EVERY_LANE, MANIFEST, print)
    numbers = [first + k for k in range(len(lengths))] + [first] * block
    assert read.first_steps.tolist() == numbers
    assert read.lengths.tolist() == [*lengths, *[1] * block]
    np.testing.assert_array_equal(read.features, features)
    assert len(set(read.handles.tolist())) == len(lengths) + block
    assert list(message.opens) == list(range(len(lengths) + block))


def _same(lanes: LaneNames, message: Message) -> LaneNames:
    for row in message.rows:
        assert lanes.lane(row.course.session_id) == row.course.lane
    return lanes


@settings(deadline=None)
@given(LENGTHS, st.integers(0, 12), st.data())
def test_any_outcome_is_read_back_row_by_row(
    lengths: list[int], block: int, data: st.DataObject
) -> None:
    message, features = message_of(lengths, block, 5)
    packed = message.encode(7, _same(LaneNames(), message))
    done = columns.read(packed, EVERY_LANE, MANIFEST, print)
    outputs = np.random.default_rng(1).normal(size=(len(features), OUTPUTS)).astype(np.float32)
    status = data.draw(
        st.lists(
            st.sampled_from([APPLIED, REMEMBERED, FAILED]),
            min_size=len(done), max_size=len(done),
        )
    )  # fmt: skip
    for row, outcome in enumerate(status):
        if outcome == FAILED:
            done.fail(
                row,
                data.draw(st.sampled_from([StepGap("s", 9, 5, "x"), BadInput("no", field="f")])),
            )
        else:
            done.answer(row, outputs[done.span(row)], outcome)
    reply = pb.StepBatchReply.FromString(b"".join(columns.reply(7, done, [], MANIFEST)))
    answers = Answers(message, reply, OUTPUTS)
    for row, answer in enumerate(answers):
        if status[row] == FAILED:
            assert isinstance(answer, errors.StepGap | errors.BadInput)
        else:
            assert isinstance(answer, np.ndarray)
            np.testing.assert_array_equal(answer.reshape(-1, OUTPUTS), outputs[done.span(row)])
    start = len(lengths)
    values, told = answers.block(start, start + block)
    assert told.tolist() == status[start:]
    good = [k for k in range(start, start + block) if status[k] != FAILED]
    wanted = [outputs[done.span(k)] for k in good]
    np.testing.assert_array_equal(values, np.concatenate([np.empty((0, OUTPUTS)), *wanted]))
    usual = plain(message, reply, OUTPUTS)
    if usual is not None:
        np.testing.assert_array_equal(usual, outputs)


@given(st.integers(1, 40), st.lists(st.integers(0, 60), min_size=1, max_size=200))
def test_a_lane_names_one_session_at_a_time(limit: int, asked: list[int]) -> None:
    lanes = LaneNames(limit)
    told: dict[int, str] = {}
    for number in asked:
        lane = lanes.lane(f"s{number}")
        assert lane < limit
        if lanes.name([lane]):
            told[lane] = f"s{number}"  # what the server holds
        assert told[lane] == f"s{number}" == lanes.names[lane]
        if number % 7 == 0:
            lanes.release(f"s{number}")
        if number % 13 == 0:
            lanes.forget()
            told.clear()
