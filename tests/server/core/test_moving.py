"""What a version takes in of another: never a state that its graph would not have kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from server.errors import CannotMigrate, SessionMoved, UnknownSession
from server.serving.model import ServedModel
from server.sessions.moving import Leaver
from tests.server.core.parts import Caller, expected, make_bundle, make_model

XS = np.random.default_rng(2).normal(size=(4, 5)).astype(np.float32)


def leavers_of(model: ServedModel) -> list[Leaver]:
    found = model.moving.look(["spoiled", "sound"]).result()
    return [each for each in found if isinstance(each, Leaver)]


def spoiled(leaver: Leaver, number: float) -> Leaver:
    first, *others = leaver.snapshot.states
    values = first.values.copy()
    values.flat[-1] = number
    states = [replace(first, values=values), *others]
    return replace(leaver, snapshot=replace(leaver.snapshot, states=states))


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_state_that_is_not_finite_stays_where_it_is(tmp_path: Path, number: float) -> None:
    bundle = make_bundle(tmp_path)
    origin, target = (make_model(bundle, tmp_path) for _ in range(2))
    for model in (origin, target):
        model.start()
    try:
        for name in ("spoiled", "sound"):
            origin.open(name)
        Caller(origin).step([(name, 0, XS[:1]) for name in ("spoiled", "sound")])
        bad, good = leavers_of(origin)
        why, went = target.moving.take_in([spoiled(bad, number), good], SessionMoved).result()
        assert isinstance(why, CannotMigrate) and "not finite" in str(why) and went is None
        assert origin.get("spoiled").steps == target.get("sound").steps == 1
        with pytest.raises(UnknownSession):
            target.get("spoiled")
        done = Caller(target).step([("sound", 1, XS[1:2])])
        assert done.outputs is not None
        np.testing.assert_allclose(done.outputs, expected(XS[:2])[1:], atol=1e-5)
    finally:
        for model in (origin, target):
            model.stop()
