"""What was answered within the time that counts. Written by the callers, read by the report."""

import time
from collections import Counter
from dataclasses import dataclass, field

from tidegate.cli.bench.latencies import Latencies
from tidegate.errors import TidegateError


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
