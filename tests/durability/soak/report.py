"""The soak's table, a line a minute, and its verdict."""

from __future__ import annotations

from dataclasses import dataclass

from tests.durability.soak.places import Places, Sufferings
from tests.durability.soak.samples import Growth, Sample
from tests.durability.soak.tally import Tally, Times
from tidegate.cli.bench.record import Latencies

MOST_SLOPE, MOST_RISE = 30.0, 6.0  # MiB an hour, MiB: growth past both of them is a leak
SPARE_FDS = 4  # a store opens files and connections as it first needs them

COLUMNS = (
    "min", "steps", "opened", "kills", "drains", "p50 ms", "p99 ms", "RSS MiB", "fds", "threads",
    "lag s", "store MiB", "lost", "doubled", "wrong",
)  # fmt: skip


class Table:
    """A line a minute about the steady server; steps and sessions are those of both."""

    def __init__(self, tally: Tally, times: Times, sufferings: Sufferings, where: Places) -> None:
        self._tally, self._times, self._places = tally, times, where
        self._sufferings = sufferings
        self._lines = 0
        self._stood = (0, 0)

    def head(self) -> str:
        return f"| {' | '.join(COLUMNS)} |\n|{'--:|' * len(COLUMNS)}"

    def line(self, samples: list[Sample]) -> str:
        """What the time since the last line was like."""
        tally, minute, last = self._tally, self._times.minute, samples[-1]
        now = (tally.steps, tally.events["opened"])
        steps, opened = (b - a for a, b in zip(self._stood, now, strict=True))
        self._stood, self._times.minute = now, Latencies()
        self._lines += 1
        told = (
            self._lines, f"{steps:,}", f"{opened:,}", self._sufferings.kills,
            self._sufferings.drains, _ms(minute, 50), _ms(minute, 99), f"{last.resident:.1f}",
            last.fds, last.threads, f"{max(each.lag for each in samples):.2f}",
            f"{self._places.stored() / (1 << 20):.1f}", tally.lost, tally.doubled, tally.wrong,
        )  # fmt: skip
        return f"| {' | '.join(map(str, told))} |"


@dataclass(frozen=True)
class Verdict:
    """All that the soak is judged by."""

    tally: Tally
    kills: int
    drains: int
    growth: Growth
    fds: tuple[int, int]
    """Before the first caller came, and after the last had gone."""
    threads: tuple[int, int]
    left: int
    """Sessions that the steady server still holds after all were closed or had expired."""
    thirds: tuple[Latencies, Latencies]

    @property
    def faults(self) -> list[str]:
        """What is not as it must be."""
        tally, growth = self.tally, self.growth
        found = {
            f"{tally.lost} steps lost": tally.lost,
            f"{tally.doubled} steps doubled": tally.doubled,
            f"{tally.wrong} answers wrong": tally.wrong,
            f"{sum(tally.failures.values())} failures": tally.failures,
            f"file descriptors went from {self.fds[0]} to {self.fds[1]}": (
                self.fds[1] > self.fds[0] + SPARE_FDS
            ),
            f"memory grew by {growth.slope:.0f} MiB an hour, {growth.rise:.1f} MiB in all": (
                growth.slope > MOST_SLOPE and growth.rise > MOST_RISE
            ),
            f"{self.left} sessions left": self.left,
            "no step was answered": not tally.steps,
        }
        return [text for text, wrong in found.items() if wrong]

    def __str__(self) -> str:
        tally, (first, last) = self.tally, self.thirds
        events = ", ".join(f"{count:,} {what}" for what, count in tally.events.most_common())
        lines = [
            f"{tally.steps:,} steps through {self.kills} kills and "
            f"{self.drains} drains: lost {tally.lost}, doubled {tally.doubled}, "
            f"wrong {tally.wrong}",
            events,
            f"steady server: memory {self.growth.slope:+.1f} MiB an hour after the warm-up "
            f"({self.growth.rise:+.1f} MiB; bounds {MOST_SLOPE:.0f} and {MOST_RISE:.0f}); file "
            f"descriptors {self.fds[0]} before, {self.fds[1]} after; threads "
            f"{self.threads[0]}, {self.threads[1]}; p99 of steps {_ms(first, 99)} ms in the first "
            f"third, {_ms(last, 99)} ms in the last; {self.left} sessions left",
            *(f"{count} x {what}" for what, count in tally.failures.most_common()),
            *tally.shown,
            "FAILED: " + "; ".join(self.faults) if self.faults else "passed",
        ]
        return "\n".join(lines)


def _ms(times: Latencies, percent: float) -> str:
    return f"{times.percentile(percent) * 1e3:.1f}"
