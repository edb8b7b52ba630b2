"""Sessions over a real engine: failing runs, deadlines, slots that change hands, random use."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.bundle.repository import Bundle
from server.engine.engine import Engine
from server.errors import (
    Draining,
    RunFailed,
    ServingError,
    SessionClosed,
    SessionExpired,
    SessionLost,
    SessionsFull,
    StepCancelled,
    UnknownSession,
)
from server.serving.model import ServedModel
from tests.server.core.parts import (
    Caller,
    Clock,
    Floats,
    expected,
    make_model,
)
from tidegate.wire import APPLIED, FAILED, REMEMBERED


@pytest.fixture
def model(bundle: Bundle, folder: Path) -> Iterator[ServedModel]:
    served = make_model(bundle, folder, max_sessions=8, session_ttl=60.0)
    served.start()
    yield served
    served.stop()


def observations(seed: int, steps: int) -> Floats:
    return np.random.default_rng(seed).normal(0, 2, (steps, 5)).astype(np.float32)


def test_a_run_that_fails_ends_its_sessions_and_no_others_and_the_loop_goes_on(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine may have moved their state in part: a retry must never step from there."""
    caller, x = Caller(model), observations(1, 3)
    for name in ("a", "b", "c"):
        model.open(name)
        caller.step([(name, 0, x[:1])])

    def fail(*_: object) -> Floats:
        raise RuntimeError("the device is on fire")

    with monkeypatch.context() as broken:
        broken.setattr(Engine, "run", fail)
        failed = caller.step([("a", 1, x[1:2]), ("b", 1, x[1:2])])
    assert list(failed.status) == [FAILED, FAILED]
    assert {type(error) for error in failed.errors.values()} == {SessionLost}
    assert "on fire" not in str(failed.errors[0])
    assert "on fire" in caplog.text
    with pytest.raises(SessionLost, match="'b' of model 'small' was lost in a run that failed at"):
        model.get("b")
    assert model.open("a")[0].steps == 0
    after = caller.step([("a", 0, x), ("c", 1, x[1:])])
    assert after.outputs is not None
    np.testing.assert_allclose(after.outputs[:3], expected(x), atol=1e-5)
    np.testing.assert_allclose(after.outputs[3:], expected(x)[1:], atol=1e-5)


@pytest.mark.parametrize("place", ["replay_cache.ReplayCache.keep", "directory.Directory.count"])
@pytest.mark.parametrize("names", ["a", "ab"])
def test_a_step_that_ran_and_could_not_be_counted_is_never_stepped_again(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch, place: str, names: str
) -> None:
    caller, x = Caller(model), observations(1, 2)
    for name in names:
        model.open(name)
        caller.step([(name, 0, x[:1])])
    alone = "_one" if len(names) == 1 else ""
    with monkeypatch.context() as broken:
        broken.setattr(f"server.sessions.{place}{alone}", lambda *_: 1 / 0)
        failed = caller.step([(name, 1, x[1:]) for name in names])
    assert {type(error) for error in failed.errors.values()} == {SessionLost}
    with pytest.raises(SessionLost):
        caller.step([("a", 1, x[1:])])


def test_what_fails_after_the_count_takes_no_answer_back(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller, x = Caller(model), observations(1, 2)
    model.open("a")
    with monkeypatch.context() as broken:
        broken.setattr(model.metrics.steps, "inc", lambda *_: 1 / 0)
        broken.setattr(model.metrics.batch_rows, "observe", lambda *_: 1 / 0)
        first = caller.step([("a", 0, x[:1])])
    assert list(first.status) == [APPLIED]
    assert list(caller.step([("a", 0, x[:1])]).status) == [REMEMBERED]
    last = caller.step([("a", 1, x[1:])])
    assert last.outputs is not None
    np.testing.assert_allclose(last.outputs, expected(x)[1:], atol=1e-5)


def test_rows_that_make_no_batch_fail_and_the_loop_goes_on(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caller, x = Caller(model), observations(1, 1)
    model.open("a")
    with monkeypatch.context() as broken:
        broken.setattr("server.scheduler.batch.Batch._column", lambda *_: 1 / 0)
        failed = caller.step([("a", 0, x)])
    assert {type(error) for error in failed.errors.values()} == {RunFailed}
    assert "no batch could be made" in caplog.text
    assert list(caller.step([("a", 0, x)]).status) == [APPLIED]


def test_cancelled_and_late_rows_never_run(bundle: Bundle, folder: Path) -> None:
    model = make_model(bundle, folder)
    caller, x = Caller(model), observations(2, 1)
    for name in ("cancelled", "late", "kept"):
        model.open(name)
    cancelled, first = caller.send([("cancelled", 0, x)])
    late, second = caller.send([("late", 0, x)], deadline=time.monotonic() - 0.001)
    kept, third = caller.send([("kept", 0, x)])
    cancelled.cancelled = True
    model.start()
    assert first.wait(5) and second.wait(5) and third.wait(5)
    assert isinstance(cancelled.errors[0], StepCancelled)
    assert late.errors[0].reason == "DEADLINE"
    assert list(kept.status) == [APPLIED]
    assert [model.get(name).steps for name in ("cancelled", "late", "kept")] == [0, 0, 1]
    model.stop()


def test_a_session_closed_while_its_step_waits_is_told_and_its_slot_starts_afresh(
    bundle: Bundle, folder: Path
) -> None:
    model = make_model(bundle, folder, max_sessions=1)
    caller, x = Caller(model), observations(3, 2)
    model.open("first")
    waiting, done = caller.send([("first", 0, x)])
    model.close("first")
    model.open("second")
    model.start()
    assert done.wait(5)
    assert isinstance(waiting.errors[0], SessionClosed)
    answer = caller.step([("second", 0, x)])
    assert answer.outputs is not None
    np.testing.assert_allclose(answer.outputs, expected(x), atol=1e-5)
    model.stop()


def test_a_session_never_expires_while_a_step_waits(bundle: Bundle, folder: Path) -> None:
    clock = Clock()
    model = make_model(bundle, folder, clock, session_ttl=10.0)
    caller, x = Caller(model), observations(4, 1)
    for name in ("waiting", "idle"):
        model.open(name)
    waiting, done = caller.send([("waiting", 0, x)])
    clock.now += 11
    assert model.expire() == 1
    with pytest.raises(SessionExpired) as caught:
        model.get("idle")
    assert caught.value.ended_at is not None
    model.start()
    assert done.wait(5)
    assert list(waiting.status) == [APPLIED]
    model.stop()
    clock.now += 11
    assert model.expire() == 1


def test_retries_and_attaching_keep_a_session_live(bundle: Bundle, folder: Path) -> None:
    clock = Clock()
    model = make_model(bundle, folder, clock, session_ttl=60.0)
    model.start()
    caller, x = Caller(model), observations(5, 1)
    for name in ("retried", "attached", "left"):
        model.open(name)
        caller.step([(name, 0, x)])
    clock.now += 1
    assert list(caller.step([("retried", 0, x)]).status) == [REMEMBERED]
    assert model.open("attached")[1] is False
    clock.now += 59.5
    assert model.expire() == 1
    live = [name in model.directory for name in ("retried", "attached", "left")]
    assert live == [True, True, False]
    model.stop()


def test_a_full_model_and_a_draining_one_refuse(model: ServedModel) -> None:
    for k in range(8):
        model.open(f"s{k}")
    with pytest.raises(SessionsFull) as caught:
        model.open("one more")
    assert 0 < caught.value.retry_after <= 60  # type: ignore[operator]
    model.close("s0")
    model.refuse()
    with pytest.raises(Draining):
        model.open("late")
    with pytest.raises(Draining):
        Caller(model).send([("s1", 0, observations(1, 1))])


def test_an_end_is_told_from_never_having_been(model: ServedModel) -> None:
    model.open("ended")
    model.close("ended")
    with pytest.raises(SessionClosed, match="'ended' of model 'small' was closed at"):
        model.close("ended")
    with pytest.raises(UnknownSession, match="no session 'never'"):
        model.get("never")


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["open", "close", "step", "step", "step", "retry", "gap", "other input"]),
        st.integers(0, 4),
        st.integers(1, 7),
    ),
    min_size=1,
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(operations=OPERATIONS, seed=st.integers(0, 1000), resident=st.integers(1, 3))
def test_any_sequence_of_operations_equals_dictionaries_and_the_numpy_lstm(
    bundle: Bundle,
    folder: Path,
    operations: list[tuple[str, int, int]],
    seed: int,
    resident: int,
) -> None:
    model = make_model(bundle, folder, max_sessions=3, max_resident=resident)
    model.start()
    try:
        _walk(model, operations, np.random.default_rng(seed))
    finally:
        model.stop()


def _walk(
    model: ServedModel, operations: list[tuple[str, int, int]], rng: np.random.Generator
) -> None:
    live: dict[str, Floats] = {}
    caller = Caller(model)
    for what, who, size in operations:
        name = f"s{who}"
        if what == "open":
            if name not in live and len(live) == 3:
                with pytest.raises(SessionsFull):
                    model.open(name)
            else:
                info, created = model.open(name)
                assert (created, info.steps) == (name not in live, len(live.get(name, ())))
                live.setdefault(name, np.zeros((0, 5), np.float32))
        elif name not in live:
            with pytest.raises(ServingError):
                model.close(name)
        elif what == "close":
            assert model.close(name) == len(live.pop(name))
        else:
            live[name] = _step(caller, what, name, live[name], size, rng)
    assert {name: model.get(name).steps for name in live} == {n: len(x) for n, x in live.items()}


def _step(
    caller: Caller, what: str, name: str, past: Floats, size: int, rng: np.random.Generator
) -> Floats:
    """One step operation; returns what the session has observed after it."""
    new = rng.normal(0, 2, (size, 5)).astype(np.float32)
    count = len(past)
    if what == "step":
        whole = np.concatenate([past, new])
        done = caller.step([(name, count, new)])
        assert list(done.status) == [APPLIED] and done.outputs is not None
        np.testing.assert_allclose(done.outputs, expected(whole)[count:], atol=1e-5)
        return whole
    if what == "gap":
        assert caller.step([(name, count + size, new)]).errors[0].expected_step == count
    elif count >= size and what == "retry":
        done = caller.step([(name, count - size, past[-size:])])
        assert list(done.status) == [REMEMBERED] and done.outputs is not None
        np.testing.assert_allclose(done.outputs, expected(past)[-size:], atol=1e-5)
    elif count >= size:
        assert caller.step([(name, count - size, new)]).errors[0].reason == "STEP_CONFLICT"
    return past
