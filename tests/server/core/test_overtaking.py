"""Steps and moves under way at once: whatever overtakes what, no session gets another's data."""

from __future__ import annotations

import random
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from server.errors import ServingError
from server.scheduler.submission import Submission
from server.serving.model import ServedModel
from server.sessions.snapshot import Snapshot
from tests.server.core.parts import Caller, Floats, expected, make_bundle, make_model
from tests.server.core.test_walks import assert_state
from tidegate.wire import FAILED

# What each of them observes at each step. A session "a0" or "a1" observes what "a" does.
SEEN = {name: np.random.default_rng(k).normal(0, 2, (400, 5)) for k, name in enumerate("ab")}
LONGEST, MOST = 3, 390
REFUSALS = {"CLOSED", "UNKNOWN_SESSION", "STEP_GAP", "STEP_TOO_OLD", "STEP_CONFLICT"}


@dataclass
class Crowd:
    """Acts on sessions at random and waits for little."""

    model: ServedModel
    dice: random.Random
    steps: list[tuple[str, Submission]] = field(default_factory=list)
    exports: list[tuple[str, Future[Snapshot]]] = field(default_factory=list)
    rest: dict[str, Snapshot] = field(default_factory=dict)

    def act(self) -> None:
        base = self.dice.choice("ab")
        name, other = base + self.dice.choice("01"), base + self.dice.choice("01")
        match self.dice.choices(["step", "export", "fork", "move", "close"], [60, 8, 4, 4, 2])[0]:
            case "step":
                self._step(base, name)
            case "export":
                self.exports.append((base, self.model.operations.export(name)))
                self._pick_up()
            case "fork":
                self.model.operations.fork(name, other)
            case "move" if base in self.rest:
                self.model.operations.take_in(self.rest[base], other, replace=True)
            case "close":
                self.model.close(name)

    def _step(self, base: str, name: str) -> None:
        count = self.model.open(name)[0].steps % MOST
        xs = SEEN[base][count : count + self.dice.randint(1, LONGEST)].astype(np.float32)
        submission, done = Caller(self.model).send([(name, count, xs)])
        self.steps.append((base, submission))
        if self.dice.random() < 0.5:
            assert done.wait(20)

    def _pick_up(self) -> None:
        """Keep the latest snapshot that is there, to be taken in later."""
        for base, each in self.exports[-5:]:
            if each.done() and not each.exception():
                self.rest[base] = each.result()


@pytest.mark.parametrize("resident", [1, 2, 3])
def test_moves_that_overtake_each_other_never_mix_sessions(tmp_path: Path, resident: int) -> None:
    model = make_model(make_bundle(tmp_path), tmp_path, max_sessions=3, max_resident=resident)
    model.start()
    crowd = Crowd(model, random.Random(1))
    for _ in range(1300):
        try:
            crowd.act()
        except ServingError as error:
            assert error.reason in REFUSALS | {"SESSIONS_FULL"}
    model.stop()
    good = [(base, each.result()) for base, each in crowd.exports if not each.exception()]
    for base, snapshot in good:
        assert_state(snapshot, SEEN[base][: snapshot.steps].astype(np.float32))
    answered = [step for base, step in crowd.steps if _is_right(base, step)]
    furthest = max(snapshot.steps for _, snapshot in good)
    assert len(answered) > 200 and len(good) > 30 and furthest > 20, (
        len(answered), len(good), furthest,
    )  # fmt: skip


TOLD: dict[str, Floats] = {name: expected(xs.astype(np.float32)) for name, xs in SEEN.items()}


def _is_right(base: str, step: Submission) -> bool:
    """Whether the step was answered; then its outputs must be those of its name and number."""
    if step.status[0] == FAILED:
        assert step.errors[0].reason in REFUSALS
        return False
    assert step.outputs is not None
    first = int(step.first_steps[0])
    wanted = TOLD[base][first : first + len(step.outputs)]
    np.testing.assert_allclose(step.outputs, wanted, rtol=0, atol=1e-5)
    return True
