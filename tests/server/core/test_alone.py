"""A step that comes alone is run without columns: nobody can tell by what comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.bundle.repository import Bundle
from server.engine.engine import Engine
from server.errors import ServingError
from server.scheduler.parts import Part
from server.scheduler.running import Run, Runner
from server.scheduler.submission import RESTART, UNNUMBERED, Submission
from server.serving.model import ServedModel
from tests.server.core.parts import Caller, Floats, make_model
from tidegate.wire import APPLIED, FAILED

SLOTS = 2  # of three sessions one has none
MOVES = (*["step"] * 12, "unnumbered", "unnumbered", "restart", "close", "reset", "open")
Pair = tuple[ServedModel, ServedModel]
Told = tuple[list[int], list[int], list[str], object]

moves = st.lists(
    st.tuples(
        st.sampled_from(MOVES),
        st.sampled_from("aaabbc"),
        st.sampled_from((0, 0, 0, 0, -1, -1, -2, -3, 1)),  # from the session's next
        st.sampled_from([1.0, 1.0, 1.0, 1e37, np.nan]),
    ),
    max_size=40,
)  # fmt: skip


@pytest.fixture
def pair(
    bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Pair, list[bool]]]:
    """A model that runs steps alone, one that never does, and how often the first has."""
    models = [
        make_model(bundle, folder, max_sessions=3, max_resident=SLOTS, remembered_steps=2)
        for _ in range(2)
    ]
    others = models[1]._scheduler._runs
    alone, ran = Runner.alone, list[bool]()

    def noted(runs: Runner, part: Part) -> Run | None:
        run = None if runs is others else alone(runs, part)
        ran.append(run is not None)
        return run

    monkeypatch.setattr(Runner, "alone", noted)
    for each in models:
        each.start()
    yield (models[0], models[1]), ran
    for each in models:
        each.stop()


def told(model: ServedModel, what: str, name: str, number: int, x: Floats) -> object:
    """What one move came to."""
    try:
        if what in ("step", "unnumbered", "restart"):
            return outcome(Caller(model).step([(name, number, x)]))
        if what == "reset":
            return model.operations.reset(name).result(20).steps
        return model.close(name) if what == "close" else model.attach(name, True)[1:]
    except ServingError as error:
        return str(error).partition(" at ")[0]


def outcome(done: Submission) -> Told:
    errors = [str(error).partition(" at ")[0] for error in done.errors.values()]
    outputs = done.outputs.tolist() if done.outputs is not None and not errors else None
    return done.status.tolist(), done.first_steps.tolist(), errors, outputs


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(moves)
def test_whatever_comes_a_step_alone_has_the_outcome_that_columns_give_it(
    pair: tuple[Pair, list[bool]], wanted: list[tuple[str, str, int, float]]
) -> None:
    (ours, others), _ = pair
    x = np.random.default_rng(0).normal(0, 2, (1, 5)).astype(np.float32)
    for name in "abc":
        assert told(ours, "open", name, 0, x) == told(others, "open", name, 0, x)
    for what, name, off, scale in wanted:
        handle = ours.directory.handle(name)
        count = int(ours.directory.counts(np.array([handle]))[0])
        number = {"unnumbered": UNNUMBERED, "restart": RESTART}.get(what, max(0, count + off))
        move = what, name, number, (x * np.float32(scale)).astype(np.float32)
        assert told(ours, *move) == told(others, *move), move
    for name in "abc":
        if ours.directory.handle(name):
            one, other = (m.operations.peek(name).result(20) for m in (ours, others))
            assert one[0].steps == other[0].steps
            for tensor, same in zip(one[1], other[1], strict=True):
                np.testing.assert_array_equal(tensor.values, same.values)
            assert told(ours, "close", name, 0, x) == told(others, "close", name, 0, x)


def test_the_next_step_of_a_resident_session_runs_alone_and_no_other(
    pair: tuple[Pair, list[bool]],
) -> None:
    (model, _), ran = pair
    caller, x = Caller(model), np.ones((1, 5), np.float32)
    model.open("a")
    for number, alone in ((0, False), (1, True), (1, False), (5, False), (None, True), (3, True)):
        caller.step([("a", number, x)])
        assert ran.pop() == alone, number
    assert caller.step([("a", 4, x)], deadline=0.0).status[0] != APPLIED
    assert not ran.pop()
    assert model.get("a").steps == 4


def test_a_lone_step_that_fails_in_the_run_ends_its_session_and_is_told_its_number(
    pair: tuple[Pair, list[bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    models, ran = pair
    x, found = np.ones((1, 5), np.float32), list[object]()
    for model in models:
        told(model, "open", "a", 0, x)
        told(model, "step", "a", 0, x)
        with monkeypatch.context() as broken:
            broken.setattr(Engine, "run", lambda *_: 1 / 0)
            found.append(told(model, "unnumbered", "a", UNNUMBERED, x))
        assert not model.directory.handle("a")
    status, first_steps, errors, _ = cast(Told, found[0])
    assert (status, first_steps) == ([FAILED], [1])
    assert "was lost in a run that failed" in errors[0]
    assert found[0] == found[1]
    assert ran == [False, True, False, False]
