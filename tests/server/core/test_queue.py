"""The queue: bounded, in order for each session, never a session twice at once, nothing lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import BadInput, Draining, Internal, QueueFull, UnknownLane
from server.scheduler.batch import Batch
from server.scheduler.control import ControlCall
from server.scheduler.parts import Picked, width_of
from server.scheduler.queue import StepQueue
from server.scheduler.submission import MOST_CAUSES, Submission

CAPACITY = 6
ROW = st.tuples(st.integers(1, CAPACITY), st.sampled_from([1, 1, 1, 2, 3, 5, 8]))
SUBMISSIONS = st.lists(st.lists(ROW, min_size=1, max_size=10), min_size=1, max_size=12)


def submission(rows: list[tuple[int, int]], first: int = 0) -> Submission:
    """Rows of (session, length); each step's only feature is its place in the whole order."""
    steps = sum(length for _, length in rows)
    return Submission(
        handles=np.array([handle for handle, _ in rows], np.int64),
        first_steps=np.full(len(rows), -1, np.int64),
        lengths=np.array([length for _, length in rows], np.int32),
        features=np.arange(first, first + steps, dtype=np.float32)[:, None],
        on_done=lambda done: finished.append(done),
    )


finished: list[Submission] = []


def drain(queue: StepQueue, max_rows: int) -> list[Batch]:
    """Take and finish until nothing is left."""
    batches = []
    while queue.steps:
        picked = queue.take(max_rows)
        assert picked is not None
        batches.append(Batch(picked))
        queue.finish(picked)
    return batches


@settings(deadline=None, max_examples=200)
@given(all_rows=SUBMISSIONS, max_rows=st.integers(1, 7), taken_early=st.integers(0, 12))
def test_any_submissions_come_out_whole_in_order_and_apart(
    all_rows: list[list[tuple[int, int]]], max_rows: int, taken_early: int
) -> None:
    queue, sent, first = StepQueue(10_000), [], 0
    batches: list[Batch] = []
    for k, rows in enumerate(all_rows):
        queue.put(submission(rows, first), rate=1.0)
        sent += rows
        first += sum(length for _, length in rows)
        if k < taken_early and (picked := queue.take(max_rows)):
            batches.append(Batch(picked))
            queue.finish(picked)
    batches += drain(queue, max_rows)
    seen: dict[int, list[float]] = {slot: [] for slot in range(1, CAPACITY + 1)}
    for batch in batches:
        assert 1 <= len(batch) <= max_rows
        assert len(set(batch.handles.tolist())) == len(batch), "a session twice in one run"
        assert {width_of(length) for length in batch.lengths.tolist()} == {batch.width}
        features = batch.features(np.arange(len(batch)))
        for row, slot in enumerate(batch.handles.tolist()):
            seen[slot] += features[row, : batch.lengths[row], 0].tolist()
    expected: dict[int, list[float]] = {slot: [] for slot in range(1, CAPACITY + 1)}
    at = 0
    for slot, length in sent:
        expected[slot] += [float(k) for k in range(at, at + length)]
        at += length
    assert seen == expected
    assert queue.steps == 0
    assert not queue.busy(np.arange(CAPACITY + 1)).any()


@settings(deadline=None)
@given(all_rows=SUBMISSIONS)
def test_every_submission_completes_exactly_once(all_rows: list[list[tuple[int, int]]]) -> None:
    finished.clear()
    queue = StepQueue(10_000)
    every = [submission(rows) for rows in all_rows]
    for each in every:
        queue.put(each, rate=1.0)
    for batch in drain(queue, 3):
        for part, start, stop in batch.picked:
            part.submission.complete(stop - start)
    assert sorted(map(id, finished)) == sorted(map(id, every))


def test_a_full_queue_refuses_whole_submissions_at_once() -> None:
    queue = StepQueue(5)
    queue.put(submission([(1, 1), (2, 3)]), rate=100.0)
    with pytest.raises(QueueFull, match="4 steps wait already and the queue holds 5") as caught:
        queue.put(submission([(3, 1), (4, 1)]), rate=100.0)
    assert caught.value.retry_after == pytest.approx(0.04)
    assert queue.steps == 4
    assert not queue.busy(np.array([3, 4])).any()
    queue.put(submission([(3, 1)]), rate=100.0)
    with pytest.raises(BadInput, match="more than the queue's 5"):
        queue.put(submission([(4, 6)]), rate=100.0)


def test_the_oldest_steps_go_first_even_when_others_came_meanwhile() -> None:
    queue = StepQueue(100)
    for rows in ([(1, 1)], [(1, 1)], [(2, 1)], [(1, 1)], [(3, 1)]):
        queue.put(submission(rows), rate=1.0)
    order = [batch.handles.tolist() for batch in drain(queue, 1)]
    assert order == [[1], [1], [2], [1], [3]]


def test_sessions_that_pipeline_do_not_starve_one_that_came_between() -> None:
    queue = StepQueue(10_000)
    many = [(slot, 1) for slot in range(1, 9)]
    for rows in (many, many, [(50, 1)], *([many] * 16)):
        queue.put(submission(rows), rate=1.0)
    order = [batch.handles.tolist() for batch in drain(queue, 8)]
    assert [50 in slots for slots in order].index(True) == 2


def test_rows_that_failed_before_are_never_queued() -> None:
    queue = StepQueue(100)
    each = submission([(1, 1), (2, 2), (3, 1)])
    each.fail(1, UnknownLane(9))
    queue.put(each, rate=1.0)
    assert queue.steps == 2
    (batch,) = drain(queue, 10)
    assert batch.handles.tolist() == [1, 3]
    assert batch.features(np.arange(2))[:, 0, 0].tolist() == [0.0, 3.0]


def test_a_stopped_queue_hands_out_what_is_left_and_then_nothing() -> None:
    queue = StepQueue(100)
    queue.put(submission([(1, 1)]), rate=1.0)
    queue.stop()
    picked: list[Picked] | None = queue.take(10)
    assert picked
    queue.finish(picked)
    assert queue.take(10) is None


def test_a_chain_of_one_session_leaves_other_widths_their_turn() -> None:
    """Once they waited until its 65,000 rows were through: half a minute."""
    queue = StepQueue(10_000)
    queue.put(submission([(1, 1)] * 1000), rate=1.0)
    queue.put(submission([(2, 8)]), rate=1.0)
    queue.put(submission([(3, 1)]), rate=1.0)
    order = [batch.handles.tolist() for batch in drain(queue, 4)]
    assert order[:2] == [[1, 3], [2]]
    assert order[2:] == [[1]] * 999


def test_rows_of_one_session_wait_as_one_entry_with_one_part() -> None:
    queue = StepQueue(100_000)
    queue.put(submission([(1, 1)] * 65_000), rate=1.0)
    assert [len(parts) for parts in queue._ready.values()] == [1]
    assert queue.steps == 65_000


def test_a_submission_of_many_errors_keeps_few_of_them() -> None:
    each = submission([(1, 1)] * 5000)
    for row in range(5000):
        each.fail(row, UnknownLane(row) if row % 2 else QueueFull(str(row), 1.0))
    assert len(each.failures) <= MOST_CAUSES + 2
    assert sorted(each.errors) == list(range(5000))
    for row, error in each.errors.items():
        assert type(error) is (UnknownLane if row % 2 else QueueFull)
    assert "lane 99 " in str(each.errors[99])


def test_an_abandoned_queue_lets_nothing_in_and_ends_whoever_waits() -> None:
    queue = StepQueue(100)
    waiting = submission([(1, 1)])
    queue.put(waiting, rate=1.0)
    submissions, calls = queue.abandon()
    assert (submissions, calls, queue.steps) == ([waiting], [], 0)
    with pytest.raises(Internal):
        queue.put(submission([(1, 1)]), rate=1.0)
    assert queue.take(10) is None


def test_a_queue_that_was_stopped_and_is_empty_lets_nothing_in() -> None:
    queue = StepQueue(100)
    queue.stop()
    queue.put(submission([(1, 1)]), rate=1.0)  # somebody is there to take it
    picked = queue.take(10)
    assert picked
    queue.finish(picked)
    assert queue.take(10) is None
    with pytest.raises(Draining):
        queue.put(submission([(1, 1)]), rate=1.0)
    with pytest.raises(Draining):
        queue.call(ControlCall(print))
