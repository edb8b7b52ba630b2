"""What a load was answered within the time that counts: written by its sessions, then reported."""

import math
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from tidegate.errors import TidegateError

SHORTEST = 1e-6
PER_E_FOLD = 100
"""Sizes within a factor of e: neighbours are 1 % apart."""
SIZES = 2_100
"""From a microsecond to some twenty minutes; what is longer counts as that."""


class Latencies:
    """Durations in seconds, in few bytes however many: counts by size, sizes 1 % apart."""

    def __init__(self) -> None:
        self._counts = [0] * SIZES
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        size = int(PER_E_FOLD * math.log(max(seconds, SHORTEST) / SHORTEST))
        self._counts[min(size, SIZES - 1)] += 1
        if seconds > self.longest:
            self.longest = seconds

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self._counts)

    def percentile(self, percent: float) -> float:
        """Within 1 % of the duration that so many did not exceed; 0 where there are none."""
        reached = np.cumsum(self._counts)
        rank = max(1, math.ceil(reached[-1] * percent / 100))
        size = int(np.searchsorted(reached, rank))
        middle = SHORTEST * math.exp((size + 0.5) / PER_E_FOLD)
        return min(middle, self.longest)


@dataclass
class Record:
    """Steps, latencies and errors between `begin` and `end`."""

    steps: int = 0
    latencies: Latencies = field(default_factory=Latencies)
    errors: Counter[str] = field(default_factory=Counter)
    elapsed: float = 0.0
    cpu: float = 0.0
    """Seconds of this process's CPU, all threads."""
    _counting: bool = False
    _began: float = 0.0
    _cpu_began: float = 0.0

    def begin(self) -> None:
        """The warm-up is over."""
        self._began, self._cpu_began = time.perf_counter(), time.process_time()
        self._counting = True

    def end(self) -> None:
        """What comes now is only on its way home."""
        if self._counting:
            self._counting = False
            self.elapsed = time.perf_counter() - self._began
            self.cpu = time.process_time() - self._cpu_began

    def answered(self, steps: int, seconds: float) -> None:
        """A call was answered."""
        if self._counting:
            self.steps += steps
            self.latencies.add(seconds)

    def failed(self, error: TidegateError) -> None:
        """A call failed."""
        if self._counting:
            self.errors[error.reason or error.code.name.lower()] += 1

    @property
    def rate(self) -> float:
        """Steps a second."""
        return self.steps / self.elapsed if self.elapsed else 0.0

    @property
    def cpu_per_step(self) -> float:
        """Microseconds of this process's CPU."""
        return self.cpu / self.steps * 1e6 if self.steps else 0.0
