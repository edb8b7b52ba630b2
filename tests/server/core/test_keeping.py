"""Sessions outlive their server: stored behind the steps, spilled, taken up by the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.bundle.repository import Bundle
from server.errors import SessionClosed, SessionExpired, StepConflict, StepGap, StoreDown
from server.serving.assembly import Keeping
from server.serving.model import ServedModel
from server.store.health import Health
from server.store.interface import StoreUnreachable
from server.store.sqlite import SqliteStore, SqliteTable
from tests.server.core.parts import Caller, Floats, expected, make_model

XS = np.random.default_rng(5).normal(size=(64, 5)).astype(np.float32)


class Failing(SqliteStore):
    """A store that does not answer while it is told not to."""

    down = False
    claimed: Callable[[], object] = staticmethod(lambda: None)
    """Called after each claim."""

    def table(self, model: str, version: int) -> SqliteTable:
        store, table = self, super().table(model, version)
        for name in ("claim", "read", "write", "delete", "release", "expire"):
            setattr(table, name, _unless_down(store, getattr(table, name)))
        return table


def _unless_down(store: Failing, call: Callable[..., object]) -> Callable[..., object]:
    def answer(*args: object) -> object:
        if store.down:
            raise StoreUnreachable("told not to answer")
        answered = call(*args)
        if call.__name__ == "claim":
            store.claimed()
        return answered

    return answer


@contextmanager
def keeping(folder: Path, refuse: bool = False) -> Iterator[tuple[Failing, Keeping]]:
    store = Failing(folder, lock=False)
    yield store, Keeping(store, Health(refuse))
    store.close()


@contextmanager
def serving(
    bundle: Bundle, folder: Path, kept: Keeping, **more: object
) -> Iterator[tuple[ServedModel, Caller]]:
    """A model over a store; it ends without a last word to the store."""
    usual: dict[str, Any] = {"max_sessions": 100, "checkpoint_interval": 0.02, "drift_window": 0.0}
    model = make_model(bundle, folder, keeping=kept, **(usual | more))
    model.start()
    yield model, Caller(model)
    model.stop()


def name(model: ServedModel, *ids: str, create: bool = True) -> None:
    """Have sessions known, as callers do before they name them."""
    if (sought := model.seek(dict.fromkeys(ids, create))) is not None:
        for problem in sought.result(20).values():
            raise problem
    if create:
        for each in ids:
            model.attach(each, create=True)


def step(caller: Caller, session_id: str, first: int, xs: Floats) -> Floats:
    done = caller.step([(session_id, first, xs)])
    for error in done.errors.values():
        raise error
    return done.room(3)


def wait_durable(model: ServedModel, session_id: str, steps: int) -> None:
    deadline = time.monotonic() + 20
    while model.get(session_id).durable_step < steps:
        assert time.monotonic() < deadline, "it was never stored"
        time.sleep(0.002)


def test_a_session_goes_on_where_it_was_stored(bundle: Bundle, tmp_path: Path) -> None:
    with keeping(tmp_path) as (_, kept), serving(bundle, tmp_path, kept) as (model, caller):
        name(model, "a")
        step(caller, "a", 0, XS[:3])
        life = model.get("a").life
        wait_durable(model, "a", 3)
    with keeping(tmp_path) as (_, kept), serving(bundle, tmp_path, kept) as (model, caller):
        name(model, "a", create=False)
        found = model.get("a")
        assert (found.steps, found.durable_step, found.life) == (3, 3, life)
        assert np.allclose(step(caller, "a", 3, XS[3:5]), expected(XS[:5])[3:], atol=1e-5)


def test_a_retry_of_the_last_row_is_recognised_after_a_restart(
    bundle: Bundle, tmp_path: Path
) -> None:
    with keeping(tmp_path) as (_, kept), serving(bundle, tmp_path, kept) as (model, caller):
        name(model, "a")
        step(caller, "a", 0, XS[:1])
        before = step(caller, "a", 1, XS[1:4])
        wait_durable(model, "a", 4)
    with keeping(tmp_path) as (_, kept), serving(bundle, tmp_path, kept) as (model, caller):
        name(model, "a", create=False)
        assert np.array_equal(step(caller, "a", 1, XS[1:4]), before)
        assert model.get("a").steps == 4
        with pytest.raises(StepConflict):
            step(caller, "a", 3, XS[9:10])


def test_a_closed_session_is_gone_from_the_store_and_opens_anew(
    bundle: Bundle, tmp_path: Path
) -> None:
    with keeping(tmp_path) as (_, kept), serving(bundle, tmp_path, kept) as (model, caller):
        name(model, "a")
        step(caller, "a", 0, XS[:2])
        wait_durable(model, "a", 2)
        model.close("a")
        name(model, "a")  # at once: before anything else is asked of the store
        assert model.get("a").steps == 0
        model.close("a")
        forgotten = model.forgotten()
        assert forgotten is not None
        forgotten.result(20)
    with keeping(tmp_path) as (_, kept), serving(bundle, tmp_path, kept) as (model, _):
        sought = model.seek({"a": False})
        assert sought is not None and sought.result(20) == {}
        assert "a" not in model.directory


def test_an_expired_session_is_not_taken_up(bundle: Bundle, tmp_path: Path) -> None:
    with keeping(tmp_path) as (_, kept), serving(bundle, tmp_path, kept) as (model, caller):
        name(model, "a")
        step(caller, "a", 0, XS[:2])
        wait_durable(model, "a", 2)
    time.sleep(0.3)
    with (
        keeping(tmp_path) as (_, kept),
        serving(bundle, tmp_path, kept, session_ttl=0.2) as (model, _),
    ):
        name(model, "a", create=False)
        with pytest.raises(SessionExpired):
            model.get("a")
        name(model, "a")
        assert model.get("a").steps == 0


def test_while_the_store_is_away_steps_go_on_and_are_stored_once_it_is_back(
    bundle: Bundle, tmp_path: Path
) -> None:
    with (
        keeping(tmp_path) as (store, kept),
        serving(bundle, tmp_path, kept, max_resident=2) as (model, caller),
    ):
        name(model, "a", "b", "c")
        store.down = True
        for at in range(8):
            for each in "abc":  # there are two slots, so one is always elsewhere
                step(caller, each, at, XS[at : at + 1])
        assert kept.health.down
        with pytest.raises(StoreDown):
            name(model, "d")
        store.down = False
        for each in "abc":
            wait_durable(model, each, 8)
            assert np.allclose(step(caller, each, 8, XS[8:9]), expected(XS[:9])[8:], atol=1e-5)


def test_by_the_other_policy_steps_are_refused_meanwhile(bundle: Bundle, tmp_path: Path) -> None:
    with (
        keeping(tmp_path, refuse=True) as (store, kept),
        serving(bundle, tmp_path, kept) as (model, caller),
    ):
        name(model, "a")
        step(caller, "a", 0, XS[:1])
        store.down = True
        while not kept.health.down:
            time.sleep(0.002)
        with pytest.raises(StoreDown):
            step(caller, "a", 1, XS[1:2])
        store.down = False
        wait_durable(model, "a", 1)
        assert np.allclose(step(caller, "a", 1, XS[1:2]), expected(XS[:2])[1:], atol=1e-5)


def test_a_confirmed_step_is_stored_when_it_is_answered(bundle: Bundle, tmp_path: Path) -> None:
    with (
        keeping(tmp_path) as (_, kept),
        serving(bundle, tmp_path, kept, durability="sync") as (model, caller),
    ):
        name(model, "a")
        for at in range(5):
            step(caller, "a", at, XS[at : at + 1])
            assert model.get("a").durable_step == at + 1


def test_steps_that_wait_behind_one_to_be_confirmed_follow_it(
    bundle: Bundle, tmp_path: Path
) -> None:
    """Nothing else comes that would wake the scheduler."""
    with (
        keeping(tmp_path) as (_, kept),
        serving(bundle, tmp_path, kept, durability="sync") as (model, caller),
    ):
        name(model, "a")
        sent = [caller.send([("a", at, XS[at : at + 1])]) for at in range(6)]
        for submission, done in sent:
            assert done.wait(20), "a step was never answered"
            assert not submission.errors
        assert model.get("a").durable_step == 6


def test_two_owners_never_both_apply(bundle: Bundle, tmp_path: Path) -> None:
    with (
        keeping(tmp_path) as (_, one),
        keeping(tmp_path) as (_, two),
        serving(bundle, tmp_path, one, durability="sync") as (first, former),
        serving(bundle, tmp_path, two, durability="sync") as (second, latter),
    ):
        name(first, "a")
        step(former, "a", 0, XS[:1])
        name(second, "a", create=False)
        step(latter, "a", 1, XS[1:2])
        done = former.step([("a", 1, XS[1:2])])
        assert [error.reason for error in done.errors.values()] == ["MOVED"]
        assert "a" not in first.directory
        assert np.allclose(step(latter, "a", 2, XS[2:3]), expected(XS[:3])[2:], atol=1e-5)


Action = tuple[str, int]


@given(
    actions=st.lists(
        st.tuples(
            st.sampled_from(["step"] * 8 + ["chunk", "reset", "close", "crash", "away", "back"]),
            st.integers(0, 7),
        ),
        max_size=40,
    )
)
@settings(max_examples=40, deadline=None)
def test_any_history_over_few_slots_equals_the_equations(
    bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, actions: Sequence[Action]
) -> None:
    """Eight sessions over two slots; crashes lose no more than what was not stored, which is
    stepped again, as the client library does."""
    tmp_path = tmp_path_factory.mktemp("history")
    counts: dict[str, int] = {}
    at = 0
    while at < len(actions):
        with (
            keeping(tmp_path) as (store, kept),
            serving(bundle, tmp_path, kept, max_resident=2) as (model, caller),
        ):
            while at < len(actions):
                what, who = actions[at]
                at += 1
                if what == "crash":
                    store.down = True  # nothing is written any more
                    break
                if what in ("away", "back"):
                    store.down = what == "away"
                    continue
                _act(model, caller, store, what, f"s{who}", counts)


def _act(
    model: ServedModel, caller: Caller, store: Failing, what: str, who: str, counts: dict[str, int]
) -> None:
    try:
        name(model, who)
    except StoreDown:
        assert store.down or model.keeper is not None
        return
    count = model.get(who).steps
    if what == "close":
        model.close(who)
        counts.pop(who, None)
    elif what == "reset":
        model.operations.reset(who).result(20)
        counts[who] = 0
    else:
        many = 3 if what == "chunk" else 1
        try:
            outputs = step(caller, who, count, XS[count : count + many])
        except (StoreDown, StepGap):
            return
        assert np.allclose(outputs, expected(XS[: count + many])[count:], atol=1e-5)
        counts[who] = count + many


def test_a_session_that_was_claimed_while_the_lease_ran_out_is_claimed_again(
    bundle: Bundle, tmp_path: Path
) -> None:
    """Between the claim and its being known here, another server has had it for a step."""
    with keeping(tmp_path) as (_, kept), serving(bundle, tmp_path, kept) as (model, caller):
        name(model, "a")
        step(caller, "a", 0, XS[:1])
        wait_durable(model, "a", 1)
    with keeping(tmp_path) as (store, kept):
        claims: list[int] = []
        store.claimed = partial(_step_elsewhere, bundle, tmp_path, kept, claims)
        with serving(bundle, tmp_path, kept) as (model, caller):
            name(model, "a")
            assert len(claims) == 2
            assert model.get("a").steps == 2
            assert np.allclose(step(caller, "a", 2, XS[2:3]), expected(XS[:3])[2:], atol=1e-5)


def _step_elsewhere(bundle: Bundle, folder: Path, kept: Keeping, claims: list[int]) -> None:
    """What another server does once the lease of this one has run out, as it claimed first."""
    claims.append(1)
    if len(claims) > 1:
        return
    kept.health.lapses += 1
    with keeping(folder) as (_, theirs), serving(bundle, folder, theirs) as (model, caller):
        name(model, "a", create=False)
        step(caller, "a", 1, XS[1:2])
        wait_durable(model, "a", 2)


def test_a_session_that_was_closed_says_so(bundle: Bundle, tmp_path: Path) -> None:
    with keeping(tmp_path) as (_, kept), serving(bundle, tmp_path, kept) as (model, _):
        name(model, "a")
        model.close("a")
        with pytest.raises(SessionClosed):
            model.get("a")
