"""Random use of everything that moves sessions, against dictionaries and the NumPy LSTM."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from server.bundle.repository import Bundle
from server.errors import ServingError
from server.scheduler.submission import RESTART
from server.serving.model import ServedModel
from server.sessions.forecast import Forecast
from server.sessions.snapshot import Snapshot
from tests.server.core.parts import WEIGHTS, Caller, Floats, expected, make_model
from training.reference import NumpyNetwork

LSTM = NumpyNetwork(WEIGHTS)
SLOTS, WAIT, NOTHING = 3, 20, np.zeros((0, 5), np.float32)


def assert_state(snapshot: Snapshot, xs: Floats) -> None:
    """The snapshot is of a session that has seen exactly `xs`."""
    assert snapshot.steps == len(xs)
    state = [part for pair in LSTM.run(xs, LSTM.initial())[1] for part in pair]
    for tensor, wanted in zip(snapshot.states, state, strict=True):
        np.testing.assert_allclose(tensor.values, wanted, rtol=0, atol=1e-5)
    known = len(snapshot.outputs)
    assert known == len(snapshot.prints) == min(len(xs), 64)
    np.testing.assert_allclose(snapshot.outputs, expected(xs)[len(xs) - known :], rtol=0, atol=1e-5)


@dataclass
class Walk:
    """A model, and what each of its sessions must have seen."""

    model: ServedModel
    rng: np.random.Generator
    live: dict[str, Floats] = field(default_factory=dict)
    rest: list[tuple[Snapshot, Floats]] = field(default_factory=list)

    def go(self, what: str, name: str, other: str, size: int) -> None:
        """One operation: it must do what the dictionaries say, or be refused where they say so."""
        new = self.rng.normal(0, 2, (size, 5)).astype(np.float32)
        try:
            getattr(self, what)(name, other, new)
        except ServingError as error:
            full = len(self.live) == SLOTS and error.reason == "SESSIONS_FULL"
            gone = name not in self.live and error.reason in ("UNKNOWN_SESSION", "CLOSED")
            taken = other in self.live and error.reason == "SESSION_EXISTS"
            assert full or gone or taken, (what, error)

    def open(self, name: str, _: str, __: Floats) -> None:
        self.model.open(name)
        self.live.setdefault(name, NOTHING)

    def close(self, name: str, _: str, __: Floats) -> None:
        assert self.model.close(name) == len(self.live.pop(name))

    def step(self, name: str, _: str, new: Floats) -> None:
        self._step(name, len(self.live.get(name, ())), self.live.get(name, NOTHING), new)

    def restart(self, name: str, _: str, new: Floats) -> None:
        self._step(name, RESTART, NOTHING, new)

    def retry(self, name: str, _: str, new: Floats) -> None:
        past = self.live.get(name, NOTHING)
        if size := min(len(new), len(past)):
            done = Caller(self.model).step([(name, len(past) - size, past[-size:])])
            assert done.outputs is not None and not done.errors
            np.testing.assert_allclose(done.outputs, expected(past)[-size:], rtol=0, atol=1e-5)

    def reset(self, name: str, _: str, __: Floats) -> None:
        assert self.model.operations.reset(name).result(WAIT).steps == 0
        self.live[name] = NOTHING

    def fork(self, name: str, other: str, _: Floats) -> None:
        made = self.model.operations.fork(name, other).result(WAIT)
        assert (made.session_id, made.steps) == (other, len(self.live[name]))
        self.live[other] = self.live[name]

    def export(self, name: str, _: str, __: Floats) -> None:
        snapshot = self.model.operations.export(name).result(WAIT)
        assert_state(snapshot, self.live[name])
        self.rest.append((snapshot, self.live[name]))

    def take_in(self, _: str, other: str, new: Floats) -> None:
        if self.rest:
            snapshot, seen = self.rest[int(self.rng.integers(len(self.rest)))]
            replace = bool(len(new) % 2)
            self.model.operations.take_in(snapshot, other, replace).result(WAIT)
            assert replace or other not in self.live
            self.live[other] = seen

    def forecast(self, name: str, _: str, new: Floats) -> None:
        ahead = Forecast(self.model.manifest, len(new), new)
        assert self.model.operations.begin(ahead, name).result(WAIT) == len(self.live[name])
        wanted = expected(np.concatenate([self.live[name], new]))[len(self.live[name]) :]
        assert ahead.outputs is not None
        np.testing.assert_allclose(ahead.outputs, wanted, rtol=0, atol=1e-5)

    def _step(self, name: str, first: int, past: Floats, new: Floats) -> None:
        whole = np.concatenate([past, new])
        done = Caller(self.model).step([(name, first, new)])
        assert done.outputs is not None and not done.errors
        np.testing.assert_allclose(done.outputs, expected(whole)[len(past) :], rtol=0, atol=1e-5)
        self.live[name] = whole


WORDS = "open step step step restart retry reset fork fork export take_in take_in forecast close"
NAMES = st.sampled_from(["a", "b", "c", "d"])
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(WORDS.split()), NAMES, NAMES, st.integers(1, 32)),
    min_size=5,
    max_size=40,
)


@settings(deadline=None, max_examples=75)
@given(operations=OPERATIONS, seed=st.integers(0, 1000), resident=st.integers(1, SLOTS))
def test_any_sequence_of_moves_equals_dictionaries_and_the_numpy_lstm(
    bundle: Bundle,
    folder: Path,
    operations: list[tuple[str, str, str, int]],
    seed: int,
    resident: int,
) -> None:
    """Whether each session has a slot of its own, or all share fewer."""
    model = make_model(bundle, folder, max_sessions=SLOTS, max_resident=resident)
    model.start()
    try:
        walk = Walk(model, np.random.default_rng(seed))
        for name in "ab":  # so that most operations find a session
            walk.go("open", name, name, 1)
        for operation in operations:
            walk.go(*operation)
        for name, seen in walk.live.items():
            assert_state(model.operations.export(name).result(WAIT), seen)
    finally:
        model.stop()
