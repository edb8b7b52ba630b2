"""Rows that start their session anew, and work between two runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from server.engine.engine import Engine, EngineRows
from server.errors import NotFinite, QueueFull, StepGap
from server.scheduler.submission import RESTART
from server.serving.model import ServedModel
from server.sessions.forecast import Forecast
from server.sessions.snapshot import Snapshot
from tests.server.core.parts import Caller, Floats, expected, make_bundle, make_model
from tests.server.growing import growing
from tidegate.wire import APPLIED, FAILED, REMEMBERED
from training.reference import NumpyNetwork


@pytest.fixture
def model(tmp_path: Path) -> Iterator[ServedModel]:
    served = make_model(make_bundle(tmp_path), tmp_path, max_sessions=8)
    served.start()
    yield served
    served.stop()


def observations(steps: int) -> Floats:
    return np.random.default_rng(3).normal(size=(steps, 5)).astype(np.float32)


def assert_close(got: Floats | None, wanted: Floats) -> None:
    assert got is not None
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


def test_a_restart_steps_from_the_initial_state_and_counts_anew(model: ServedModel) -> None:
    caller, xs = Caller(model), observations(9)
    model.open("a")
    caller.step([("a", 0, xs)])
    restarted = caller.step([("a", RESTART, xs[:4])])
    assert (restarted.status[0], restarted.first_steps[0]) == (APPLIED, 0)
    assert_close(restarted.outputs, expected(xs[:4]))
    assert model.get("a").steps == 4
    assert caller.step([("a", 2, xs[2:4])]).status[0] == REMEMBERED
    refused = caller.step([("a", 9, xs[:1])])  # the count before is forgotten
    assert isinstance(refused.errors[0], StepGap)
    assert_close(caller.step([("a", 4, xs[4:])]).outputs, expected(xs)[4:])


def test_a_restart_that_fails_leaves_the_session_as_it_was(model: ServedModel) -> None:
    caller, xs = Caller(model), observations(6)
    model.open("a")
    caller.step([("a", 0, xs[:3])])
    bad = np.full((1, 5), np.nan, np.float32)
    failed = caller.step([("a", RESTART, bad)])
    assert failed.status[0] == FAILED and isinstance(failed.errors[0], NotFinite)
    assert model.get("a").steps == 3
    assert caller.step([("a", 1, xs[1:3])]).status[0] == REMEMBERED
    assert_close(caller.step([("a", 3, xs[3:])]).outputs, expected(xs)[3:])


def test_restarts_and_steps_share_a_batch(model: ServedModel) -> None:
    caller, xs = Caller(model), observations(4)
    for name in "abc":
        model.open(name)
    caller.step([(name, 0, xs[:2]) for name in "abc"])
    done = caller.step([("a", 2, xs[2:3]), ("b", RESTART, xs[:1]), ("c", None, xs[2:3])])
    assert done.status.tolist() == [APPLIED] * 3
    assert done.first_steps.tolist() == [2, 0, 2]
    assert_close(done.outputs, expected(xs)[[2, 0, 2]])
    assert [model.get(name).steps for name in "abc"] == [3, 1, 3]


def test_a_restart_queued_behind_the_sessions_steps_waits_for_them(model: ServedModel) -> None:
    caller, xs = Caller(model), observations(40)
    model.open("a")
    sent = [caller.send([("a", None, xs[k : k + 1])]) for k in range(20)]
    sent.append(caller.send([("a", RESTART, xs[:1])]))
    sent += [caller.send([("a", None, xs[k : k + 1])]) for k in range(1, 20)]
    assert all(event.wait(20) for _, event in sent)
    outputs = np.concatenate([done.outputs for done, _ in sent if done.outputs is not None])
    assert_close(outputs, np.concatenate([expected(xs[:20]), expected(xs[:20])]))


def test_work_between_runs_is_bounded_and_dropped_where_nobody_waits(tmp_path: Path) -> None:
    model = make_model(make_bundle(tmp_path), tmp_path, max_sessions=4)
    model.open("a")
    asked: list[Future[Snapshot]] = []
    with pytest.raises(QueueFull):
        while len(asked) < 10_000:
            asked.append(model.operations.export("a"))
    assert len(asked) == 4096
    for each in asked[::2]:
        assert each.cancel()
    model.start()
    assert {each.result(20).steps for each in asked[1::2]} == {0}
    model.stop()


def test_a_stopping_model_finishes_the_work_it_was_given(tmp_path: Path) -> None:
    model = make_model(make_bundle(tmp_path), tmp_path, max_sessions=4)
    model.open("a")
    asked = [model.operations.export("a") for _ in range(50)]
    model.start()
    model.stop()
    assert all(each.done() and each.result().session_id == "a" for each in asked)


def test_a_restart_of_which_a_later_step_overflows_leaves_the_session_as_it_was(
    tmp_path: Path,
) -> None:
    weights, xs = growing(), np.full((5, 1), 0.3, np.float32)
    model = make_model(make_bundle(tmp_path, weights), tmp_path, max_sessions=4)
    model.start()
    caller = Caller(model)
    for name in "ab":
        model.open(name)
        caller.step([(name, 0, -xs[:2])])
    done = caller.step([("a", RESTART, xs[:4]), ("b", RESTART, -2 * xs[:1])])
    assert done.status.tolist() == [FAILED, APPLIED] and isinstance(done.errors[0], NotFinite)
    assert [model.get(name).steps for name in "ab"] == [2, 1]
    assert caller.step([("a", 0, -xs[:2])]).status[0] == REMEMBERED
    last = caller.step([("a", 2, xs[:1])])
    lstm = NumpyNetwork(weights)
    wanted = lstm.run(np.concatenate([-xs[:2], xs[:1]]), lstm.initial())[0][2:]
    assert last.outputs is not None
    np.testing.assert_allclose(last.outputs, wanted, rtol=1e-5)
    model.stop()


def test_a_forecast_goes_on_from_what_it_began_with(model: ServedModel) -> None:
    """Whatever happens between its turns: other forecasts, steps, a restart, the session's end."""
    caller, xs = Caller(model), observations(210)
    model.open("a")
    caller.step([("a", 0, xs[:10])])
    ahead = [Forecast(model.manifest, 200, xs[10:]), Forecast(model.manifest, 199, xs[11:])]
    assert model.operations.begin(ahead[0], "a").result(20) == 10
    caller.step([("a", 10, xs[10:11])])
    assert model.operations.begin(ahead[1], "a").result(20) == 11
    caller.step([("a", RESTART, xs[:1])])
    model.operations.advance(ahead[0]).result(20)
    model.close("a")
    model.open("b")
    caller.step([("b", 0, xs[:3])])
    while ahead[0].outputs is None or ahead[1].outputs is None:
        for each in ahead:
            model.operations.advance(each).result(20)
    assert_close(ahead[0].outputs, expected(xs)[10:])
    assert_close(ahead[1].outputs, expected(xs)[11:])
    assert_close(caller.step([("b", 3, xs[3:9])]).outputs, expected(xs[:9])[3:])


def test_a_forecast_by_a_slow_model_takes_short_turns(
    model: ServedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    xs, run, runs = observations(8), Engine.run, list[int]()

    def slow(engine: Engine, rows: EngineRows) -> Floats:
        time.sleep(0.003)
        runs.append(rows.steps)
        return run(engine, rows)

    monkeypatch.setattr(Engine, "run", slow)
    monkeypatch.setattr(Forecast, "_next", lambda ahead: xs[ahead._done : ahead._done + 1])
    model.open("a")
    ahead = Forecast(model.manifest, 8, xs)
    model.operations.begin(ahead, "a").result(20)
    assert runs == [1] and ahead.outputs is None
    for _ in range(7):
        model.operations.advance(ahead).result(20)
    assert_close(ahead.outputs, expected(xs))
