"""Steps gathered for one run: each has its own outcome, whatever becomes of the others."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.api.gathering import HALVED, WORTH, Gathering, Message, Single
from server.errors import ServingError
from server.scheduler.submission import UNNUMBERED, Submission
from server.serving.model import ServedModel
from tests.server.core.parts import expected, make_bundle, make_model
from tidegate.wire import APPLIED, FAILED, REMEMBERED

FEATURES = 5


class Caller:
    """Keeps what it is told; all in one thread, as steps run at once."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.error: ServingError | None = None
        self.output = np.zeros(0, np.float32)
        self.first = -9
        self.waited: list[Single] = []

    def address(self, deliver: Callable[[Submission], None]) -> Callable[[Submission], None]:
        return deliver

    def done(self, submission: Submission, row: int) -> None:
        assert self.status is None, "told twice"
        self.status, self.first = int(submission.status[row]), int(submission.first_steps[row])
        if self.status == FAILED:
            self.error = submission.error(row)
        else:
            assert submission.outputs is not None
            self.output = submission.outputs[row].copy()

    def waits(self, single: Single) -> None:
        self.waited.append(single)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedModel]:
    """Small, with two slots for ten sessions, its scheduler running."""
    yield from _started(tmp_path_factory.mktemp("models"), max_sessions=1000, max_resident=2)


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedModel]:
    """With a slot for each session."""
    yield from _started(tmp_path_factory.mktemp("models"), max_sessions=1000)


def _started(folder: Path, **settings: int) -> Iterator[ServedModel]:
    model = make_model(make_bundle(folder), folder, **settings)  # type: ignore[arg-type]
    model.start()
    yield model
    model.stop()


def _observation(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=FEATURES).astype("<f4")


def _single(
    model: ServedModel,
    name: str,
    values: np.ndarray,
    first: int = UNNUMBERED,
    deadline: float = math.inf,
) -> tuple[Single, Caller]:
    handle, _, _ = model.attach(name, create=True)
    caller = Caller()
    return Single(handle, first, values.tobytes(), deadline, caller), caller


def _run(model: ServedModel, singles: list[Single]) -> None:
    gathering = Gathering()
    for single in singles:
        gathering.add(model, single)
    gathering.submit()
    until = time.monotonic() + 30
    while any(single.caller.status is None for single in singles):  # type: ignore[attr-defined]
        assert time.monotonic() < until
        time.sleep(0.001)


@settings(max_examples=30, deadline=None)
@given(
    names=st.lists(st.integers(0, 5), min_size=1, max_size=40)
    | st.lists(st.integers(0, 70), min_size=1, max_size=120),
    crowded=st.booleans(),
)
def test_each_step_is_applied_once_and_in_order_however_sessions_mingle(
    names: list[int], crowded: bool, model: ServedModel, roomy: ServedModel
) -> None:
    """A session may be named again and again, and may not be resident."""
    served = model if crowded else roomy
    run = time.monotonic_ns()
    fed: dict[int, list[np.ndarray]] = {}
    asked: list[tuple[int, int, Caller]] = []
    singles = []
    for at, name in enumerate(names):
        values = _observation(at)
        single, caller = _single(served, f"{run}-{name}", values)
        fed.setdefault(name, []).append(values)
        asked.append((name, len(fed[name]) - 1, caller))
        singles.append(single)
    _run(served, singles)
    for name, step, caller in asked:
        assert (caller.status, caller.first) == (APPLIED, step)
        wanted = expected(np.array(fed[name]))[step]
        np.testing.assert_allclose(caller.output, wanted, atol=1e-5)
    for name in fed:
        served.close(f"{run}-{name}")


def test_callers_are_told_before_their_run_is_counted(
    roomy: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for that. It runs right here, however slow the machine is."""
    monkeypatch.setattr("server.scheduler.scheduler.SHORT_RUN", math.inf)
    counted = list[int]()
    single, caller = _single(roomy, "counted", _observation(1))

    def told() -> None:
        assert caller.status == APPLIED
        counted.append(_runs(roomy))

    gathering, before = Gathering(told), _runs(roomy)
    gathering.add(roomy, single)
    gathering.submit()
    assert counted == [before]
    assert _runs(roomy) == before + 1


def _runs(model: ServedModel) -> int:
    buckets, _ = model.metrics.batch_rows.cumulative()
    return int(buckets[-1][1])


@pytest.mark.parametrize(("steps", "runs"), [(HALVED - 1, 1), (HALVED, 2), (HALVED + 51, 2)])
def test_where_many_single_steps_come_half_of_them_are_answered_before_the_others_run(
    steps: int, runs: int, roomy: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their callers then turn to the replies while the others run. It runs right here, however slow
    the machine is."""
    monkeypatch.setattr("server.scheduler.scheduler.SHORT_RUN", math.inf)
    gathering, before = Gathering(), _runs(roomy)
    callers = list[Caller]()
    for k in range(steps):
        single, caller = _single(roomy, f"many-{k}", _observation(k))
        gathering.add(roomy, single)
        callers.append(caller)
    told = list[int]()
    while gathering.submit_some():
        told.append(sum(caller.status == APPLIED for caller in callers))
    assert told == [(steps + 1) // 2] * (runs - 1)
    assert _runs(roomy) == before + runs
    for k, caller in enumerate(callers):
        np.testing.assert_allclose(caller.output, expected(_observation(k)[None])[0], atol=1e-5)
        roomy.close(f"many-{k}")


def test_a_step_that_is_wrong_fails_alone(roomy: ServedModel) -> None:
    good, told = _single(roomy, "good", _observation(1), first=0)
    bad, refused = _single(roomy, "bad", np.full(FEATURES, np.inf, "<f4"), first=0)
    gap, gapped = _single(roomy, "gap", _observation(1), first=7)
    late, dropped = _single(roomy, "late", _observation(1), deadline=time.monotonic() - 1)
    ended, gone = _single(roomy, "ended", _observation(1))
    roomy.close("ended")
    _run(roomy, [bad, gap, late, ended, good])
    assert told.status == APPLIED
    reasons = [caller.error and caller.error.reason for caller in (refused, gapped, dropped, gone)]
    assert reasons == ["BAD_INPUT", "STEP_GAP", "DEADLINE", "CLOSED"]
    again, remembered = _single(roomy, "good", _observation(1), first=0)
    _run(roomy, [again])
    assert remembered.status == REMEMBERED
    np.testing.assert_array_equal(remembered.output, told.output)


def test_a_step_that_waits_and_is_cancelled_does_not_run(roomy: ServedModel) -> None:
    """While the engine is busy, the steps gathered wait; one's caller goes."""
    held, free = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        held.set()
        free.wait(30)

    holding = roomy._scheduler.between_runs(hold)
    assert held.wait(30)
    singles = [_single(roomy, f"waits-{k}", _observation(k)) for k in range(3)]
    gathering = Gathering()
    for single, _ in singles:
        gathering.add(roomy, single)
    gathering.submit()
    assert [caller.waited for _, caller in singles] == [[single] for single, _ in singles]
    singles[1][0].cancel()
    free.set()
    holding.result(30)
    until = time.monotonic() + 30
    while any(caller.status is None for _, caller in singles):
        assert time.monotonic() < until
        time.sleep(0.001)
    assert [caller.status for _, caller in singles] == [APPLIED, FAILED, APPLIED]
    assert roomy.get("waits-1").steps == 0


@pytest.mark.parametrize("part", ["submit", "at_hand"])
def test_whatever_fails_unexpectedly_every_step_has_an_outcome(
    roomy: ServedModel, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    singles = [_single(roomy, f"{part}-{k}", _observation(k))[0] for k in range(3)]

    def fail(*_: object) -> None:
        raise RuntimeError("made up")

    with monkeypatch.context() as patched:
        patched.setattr(roomy, part, fail)
        _run(roomy, singles)
    errors = [single.caller.error for single in singles]  # type: ignore[attr-defined]
    assert [error and error.reason for error in errors] == ["INTERNAL"] * 3
    again, told = _single(roomy, f"{part}-0", _observation(0), first=0)
    _run(roomy, [again])
    assert told.status == APPLIED


class Rows:
    """A message of a step each of some sessions, all messages of one caller unless it is said."""

    def __init__(
        self, model: ServedModel, names: Sequence[str], values: np.ndarray, caller: int = 0
    ) -> None:
        self.caller, self.done = caller, threading.Event()
        self.submission = Submission(
            handles=np.array([model.attach(name, create=True)[0] for name in names]),
            first_steps=np.full(len(names), UNNUMBERED),
            lengths=np.ones(len(names), np.int32),
            features=values,
            on_done=lambda _: self.done.set(),
        )

    @property
    def message(self) -> Message:
        return Message(self.caller, self.submission, self.refuse)

    def refuse(self, error: ServingError) -> None:
        raise AssertionError(error)


def test_messages_that_come_together_run_together_as_far_as_that_pays(
    roomy: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those that ran are done, to be answered, before the others are begun."""
    values = np.stack([_observation(k) for k in range(100)])
    names = [[f"message-{k}-{row}" for row in range(100)] for k in range(3)]
    messages = [Rows(roomy, each, values) for each in names]
    together, run = list[int](), roomy.run_together

    def noted(some: Sequence[Submission]) -> bool:
        together.append(len(some))
        return run(some)

    monkeypatch.setattr(roomy, "run_together", noted)
    gathering = Gathering()
    for message in messages:
        gathering.add_rows(roomy, message.message)
    assert gathering.submit_some()
    assert all(message.done.wait(30) for message in messages[:2])
    assert together == [2]
    assert [roomy.get(each[0]).steps for each in names] == [1, 1, 0]
    assert not gathering.submit_some()
    assert messages[2].done.wait(30)


def test_one_message_of_each_caller_runs_and_is_done_before_their_second_ones(
    roomy: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.scheduler.scheduler.SHORT_RUN", math.inf)
    monkeypatch.setattr("server.api.gathering.WORTH", 20)
    monkeypatch.setattr(roomy._scheduler, "most_together", 60)
    values = np.stack([_observation(row) for row in range(20)])
    names = [
        [[f"{turn}-{caller}-{row}" for row in range(20)] for caller in range(3)]
        for turn in range(2)
    ]
    first, second = (
        [Rows(roomy, each, values, caller) for caller, each in enumerate(turn)] for turn in names
    )
    gathering, before = Gathering(), _runs(roomy)
    for caller in range(3):
        gathering.add_rows(roomy, first[caller].message)
        gathering.add_rows(roomy, second[caller].message)
    assert gathering.submit_some()
    assert [each.done.is_set() for each in [*first, *second]] == [True] * 3 + [False] * 3
    assert not gathering.submit_some()
    assert all(each.done.is_set() for each in second)
    assert _runs(roomy) == before + 2
    for name in (name for turn in names for each in turn for name in each):
        roomy.close(name)


@given(
    asked=st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 2 * WORTH)), min_size=1, max_size=80
    ),
    most=st.sampled_from([0, WORTH, 4 * WORTH]),
)
def test_messages_enter_runs_that_are_bounded_each_once_and_each_caller_s_in_order(
    asked: list[tuple[int, int]], most: int, roomy: ServedModel
) -> None:
    runs = list[list[Submission]]()

    def noted(*together: Submission) -> bool:
        runs.append(list(together))
        return True

    sent, gathering = list[Message](), Gathering()
    for who, steps in asked:
        rows = Submission(*_columns(steps), on_done=lambda _: None)
        sent.append(Message(who, rows, _not_refused))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(roomy, "run_together", lambda some: noted(*some))
        patched.setattr(roomy, "submit", noted)
        patched.setattr(roomy._scheduler, "most_together", most)
        for each in sent:
            gathering.add_rows(roomy, each)
        gathering.submit()
    of = {each.submission: each.caller for each in sent}
    for run in runs:
        assert len(run) == 1 or sum(each.steps for each in run) <= most
        for anyone in {of[each] for each in run}:
            its = [each.steps for each in run if of[each] == anyone]
            assert len(its) == 1 or sum(its) <= WORTH
    ran = [each for run in runs for each in run]
    assert len(ran) == len(sent)
    for caller in range(4):
        mine = [each.submission for each in sent if each.caller == caller]
        assert [each for each in ran if of[each] == caller] == mine


def _columns(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of a step each of some sessions."""
    numbers = np.arange(1, rows + 1)
    features = np.zeros((rows, FEATURES), np.float32)
    return numbers, numbers, np.ones(rows, np.int32), features


def _not_refused(error: ServingError) -> None:
    raise AssertionError(error)


@pytest.mark.parametrize(("messages", "runs"), [(HALVED - 1, 1), (HALVED, 2), (HALVED + 1, 2)])
def test_where_many_small_messages_come_half_of_them_are_done_before_the_others_run(
    messages: int, runs: int, roomy: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.scheduler.scheduler.SHORT_RUN", math.inf)
    gathering, before = Gathering(), _runs(roomy)
    sent = [Rows(roomy, [f"small-{k}"], _observation(k)[None]) for k in range(messages)]
    for each in sent:
        gathering.add_rows(roomy, each.message)
    done = list[int]()
    while gathering.submit_some():
        done.append(sum(each.done.is_set() for each in sent))
    assert done == [(messages + 1) // 2] * (runs - 1)
    assert all(each.done.is_set() for each in sent)
    assert _runs(roomy) == before + runs
    for k in range(messages):
        roomy.close(f"small-{k}")


@settings(max_examples=30, deadline=None)
@given(
    asked=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12),
    crowded=st.booleans(),
)
def test_messages_and_single_steps_that_mingle_are_each_applied_once_and_in_order(
    asked: list[tuple[int, int]], crowded: bool, model: ServedModel, roomy: ServedModel
) -> None:
    """Of so many sessions from one on a step each, in a message; of none: a single step of it."""
    served, run = model if crowded else roomy, time.monotonic_ns()
    fed: dict[str, list[np.ndarray]] = {}
    gathering, told = Gathering(), list[Callable[[], tuple[bool, np.ndarray, np.ndarray]]]()
    wanted = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("server.api.gathering.WORTH", 6)
        for at, (first, count) in enumerate(asked):
            names = [f"{run}-{first + row}" for row in range(count or 1)]
            values = np.stack([_observation(20 * at + row) for row in range(len(names))])
            for name, each in zip(names, values, strict=True):
                fed.setdefault(name, []).append(each)
            wanted.append([(name, len(fed[name]) - 1) for name in names])
            told.append(_add(gathering, served, names, values, alone=not count))
        gathering.submit()
        until = time.monotonic() + 30
        while not all(each()[0] for each in told):
            assert time.monotonic() < until
            time.sleep(0.001)
    for steps, each in zip(wanted, told, strict=True):
        _, numbers, outputs = each()
        assert numbers.tolist() == [step for _, step in steps]
        answers = [expected(np.array(fed[name]))[step] for name, step in steps]
        np.testing.assert_allclose(outputs, answers, atol=1e-5)
    for name in fed:
        served.close(name)


def _add(
    gathering: Gathering, model: ServedModel, names: list[str], values: np.ndarray, alone: bool
) -> Callable[[], tuple[bool, np.ndarray, np.ndarray]]:
    """Gather a step of each; returns what tells whether they are done, their numbers, outputs."""
    if alone:
        single, caller = _single(model, names[0], values[0])
        gathering.add(model, single)
        return lambda: (caller.status == APPLIED, np.array([caller.first]), caller.output[None])
    rows = Rows(model, names, values)
    gathering.add_rows(model, rows.message)
    submission = rows.submission
    return lambda: (rows.done.is_set(), submission.first_steps, submission.room(3))
