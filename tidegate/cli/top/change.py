"""What happened between two scrapes: rates, and the histograms of that time alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tidegate.cli.top.page import Counts, Histogram, Page, Version

Changes = Mapping[Version, "Change"]


@dataclass(frozen=True)
class Change:
    """One model version's, or the sum of several."""

    seconds: float = 0.0
    """Between the scrapes; 0 where there is only one, so that nothing has a rate."""
    counted: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """How far each counter rose, by name and reason."""
    gauges: Mapping[str, float] = field(default_factory=dict)
    """As they stood at the end."""
    histograms: Mapping[str, Histogram] = field(default_factory=dict)

    def rate(self, name: str) -> float | None:
        """A counter's rise a second, whatever the reason."""
        if not self.seconds:
            return None
        rises = (rise for (counter, _), rise in self.counted.items() if counter == name)
        return sum(rises) / self.seconds

    def reasons(self, name: str) -> dict[str, float]:
        """The rise a second by reason, the most frequent first, without those that did not rise."""
        rises = {
            reason: rise / self.seconds
            for (counter, reason), rise in self.counted.items()
            if counter == name and rise
        }
        return dict(sorted(rises.items(), key=lambda item: -item[1]))

    def percentile(self, name: str, percent: float) -> float | None:
        """Of a histogram; None where nothing was seen."""
        histogram = self.histograms.get(name)
        return histogram.percentile(percent) if histogram else None


def standing(page: Page) -> Changes:
    """A page with none before it: gauges, and no rates."""
    return {version: Change(gauges=counts.gauges) for version, counts in page.versions.items()}


def restarted(before: Page, after: Page) -> bool:
    """Whether the server began to count anew: something that only rises has fallen."""
    return any(
        _fell(counts, after.versions[version])
        for version, counts in before.versions.items()
        if version in after.versions
    )


def changes(before: Page, after: Page) -> Changes:
    """From one page to the next of the same server process. Who is new began at 0."""
    seconds = after.taken - before.taken
    return {
        version: _change(before.versions.get(version, Counts()), counts, seconds)
        for version, counts in after.versions.items()
    }


def total(several: Iterable[Change]) -> Change:
    """All together."""
    seconds = 0.0
    counted: dict[tuple[str, str], float] = {}
    gauges: dict[str, float] = {}
    histograms: dict[str, Histogram] = {}
    for each in several:
        seconds = max(seconds, each.seconds)
        for key, rise in each.counted.items():
            counted[key] = counted.get(key, 0.0) + rise
        for name, value in each.gauges.items():
            gauges[name] = gauges.get(name, 0.0) + value
        for name, histogram in each.histograms.items():
            histograms[name] = histograms[name] + histogram if name in histograms else histogram
    return Change(seconds, counted, gauges, histograms)


def _change(before: Counts, after: Counts, seconds: float) -> Change:
    counted = {key: now - before.counters.get(key, 0.0) for key, now in after.counters.items()}
    histograms = {
        name: now - before.histograms[name] if name in before.histograms else now
        for name, now in after.histograms.items()
    }
    return Change(seconds, counted, after.gauges, histograms)


def _fell(before: Counts, after: Counts) -> bool:
    if any(after.counters.get(key, 0.0) < value for key, value in before.counters.items()):
        return True
    return any(
        name not in after.histograms or _shrank(histogram, after.histograms[name])
        for name, histogram in before.histograms.items()
    )


def _shrank(before: Histogram, after: Histogram) -> bool:
    if before.bounds != after.bounds:
        return True  # another build of the server
    return any(now < then for then, now in zip(before.counts, after.counts, strict=True))
