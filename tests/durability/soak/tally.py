"""What the soak's callers were answered, beside what the equations say."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from tests.server.wire.wire import WIDTH
from tidegate.cli.bench.record import Latencies
from training.network import Network
from training.reference import NumpyNetwork

Floats = NDArray[np.float32]
TOLERANCE = 1e-5
SHOWN = 20  # of what went wrong; the rest is counted


@dataclass
class Tally:
    """What came of the load so far."""

    steps: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    events: Counter[str] = field(default_factory=Counter)
    """What callers did besides stepping: opened, closed, expired, forked, ..."""
    failures: Counter[str] = field(default_factory=Counter)
    """Errors that no caller should see, by type and doing."""
    shown: list[str] = field(default_factory=list)

    def failed(self, doing: str, error: BaseException) -> None:
        """A caller met an error that it should not have met."""
        self.failures[f"{doing}: {type(error).__name__}"] += 1
        self.show(f"{doing}: {error!r}")

    def show(self, text: str) -> None:
        """Tell one of what went wrong, as it is found."""
        if len(self.shown) < SHOWN:
            self.shown.append(text)
            print(f"{datetime.now(UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)

    def counted(self, session: str, server: int, steps: int) -> None:
        """The server's count of a session, beside the steps that its caller was answered."""
        self.lost += max(0, steps - server)
        self.doubled += max(0, server - steps)
        if server != steps:
            self.show(f"{session}: the server counts {server} steps, its caller {steps}")


class Ledger:
    """One session: what it was given and answered, and the state it must have by then."""

    def __init__(self, network: Network, tally: Tally, seed: int, name: str) -> None:
        self._lstm, self._tally, self.name = NumpyNetwork(network), tally, name
        self._network, self._state = network, NumpyNetwork(network).initial()
        self._draws = np.random.default_rng(seed)
        self._given: list[Floats] = []
        self._got: list[Floats] = []
        self.steps = 0

    def draw(self, steps: int) -> Floats:
        """So many new observations."""
        return self._draws.normal(0, 2, (steps, WIDTH)).astype(np.float32)

    def answered(self, given: Floats, got: Floats) -> None:
        """Steps [T, WIDTH] were applied and answered so."""
        self._given.append(given)
        self._got.append(got)
        self.steps += len(given)
        self._tally.steps += len(given)
        if len(self._given) >= 32:
            self.check()

    def check(self) -> None:
        """Compare what was answered since the last check."""
        if not self._given:
            return
        given, got = np.concatenate(self._given), np.concatenate(self._got)
        self._given, self._got = [], []
        expected, self._state = self._lstm.run(given, self._state)
        self._compare(got, expected, f"steps up to {self.steps}")

    def check_ahead(self, given: Floats, got: Floats) -> None:
        """Compare a forecast, which moves nothing."""
        self.check()
        self._compare(got, self._lstm.run(given, self._state)[0], f"a forecast at {self.steps}")

    def check_state(self, state: dict[str, NDArray[np.float32]]) -> None:
        """Compare what `peek` told."""
        self.check()
        for at, (hidden, cell) in enumerate(self._state):
            self._compare(state[f"h{at}"][None], np.asarray(hidden)[None], f"h{at}")
            self._compare(state[f"c{at}"][None], np.asarray(cell)[None], f"c{at}")

    def branch(self, seed: int, name: str) -> Ledger:
        """The ledger of a copy of the session as it is now."""
        self.check()
        copy = Ledger(self._network, self._tally, seed, name)
        copy._state, copy.steps = self._state, self.steps
        return copy

    def restart(self) -> None:
        """The session was put back to its beginning."""
        self.check()
        self._state, self.steps = self._lstm.initial(), 0

    def _compare(self, got: Floats, expected: NDArray[np.floating], what: str) -> None:
        off = ~(np.abs(got - expected).max(axis=1) <= TOLERANCE)
        if off.any():
            self._tally.wrong += int(off.sum())
            row = int(off.argmax())
            self._tally.show(f"{self.name}: {what}: {got[row]}, and not {expected[row]}")


class Times:
    """How long steps took, by the minute and by the third of the whole time."""

    def __init__(self) -> None:
        self.minute, self.third = Latencies(), Latencies()

    def add(self, seconds: float) -> None:
        """A step was answered."""
        self.minute.add(seconds)
        self.third.add(seconds)
