"""A server's metrics page: fetched, and read by model version."""

from __future__ import annotations

import http.client
import math
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tidegate.cli.common import Failure

PREFIX = "tidegate_"
SECONDS = 2.0
"""That a page may take to come."""
MOST_BYTES = 32 << 20
Version = tuple[str, str]
"""A model's name and version; both empty for what happened to no served model."""


class NoPage(Failure):
    """There is no page to read now; later there may be."""


def scrape(url: str) -> Page:
    """Fetch and read the page.

    Raises:
        NoPage: no answer, or another one.
    """
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as reply:
            body = reply.read(MOST_BYTES)
        return read_page(body.decode(), time.monotonic())
    except urllib.error.HTTPError as error:
        error.close()
        raise NoPage(f"{url} answers with status {error.code}") from None
    except (OSError, http.client.HTTPException):
        raise NoPage(f"no answer from {url}") from None
    except (ValueError, KeyError):
        raise NoPage(f"{url} is no metrics page of a Tidegate server") from None


@dataclass
class Counts:
    """The samples of one model version, their names without what is the same in all."""

    counters: dict[tuple[str, str], float] = field(default_factory=dict)
    """By name and reason ("" where it has none)."""
    gauges: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """One scrape."""

    taken: float
    """When, on the monotonic clock."""
    versions: dict[Version, Counts]


def read_page(text: str, taken: float) -> Page:
    """Read a page.

    Raises:
        ValueError: it is no metrics page, or not one of a Tidegate server.
    """
    versions: defaultdict[Version, Counts] = defaultdict(Counts)
    families = [each for each in text_string_to_metric_families(text) if _ours(each)]
    for family in families:
        name = family.name.removeprefix(PREFIX)
        if family.type == "histogram":
            _add_histograms(versions, name, family.samples)
            continue
        for sample in family.samples:
            _add_value(versions[_version(sample)], family.type, name, sample)
    if not families:
        raise ValueError("no metric of Tidegate")
    return Page(taken, dict(versions))


def _ours(family: Metric) -> bool:
    return family.name.startswith(PREFIX)


def _version(sample: Sample) -> Version:
    return sample.labels.get("model", ""), sample.labels.get("version", "")


def _add_value(counts: Counts, kind: str, name: str, sample: Sample) -> None:
    if kind == "gauge":
        counts.gauges[name] = sample.value
        return
    key = name, sample.labels.get("reason", "")
    counts.counters[key] = counts.counters.get(key, 0.0) + sample.value


def _add_histograms(
    versions: defaultdict[Version, Counts], name: str, samples: list[Sample]
) -> None:
    buckets: defaultdict[Version, dict[float, float]] = defaultdict(dict)
    sums: dict[Version, float] = {}
    for sample in samples:
        if sample.name.endswith("_bucket"):
            buckets[_version(sample)][float(sample.labels["le"])] = sample.value
        elif sample.name.endswith("_sum"):
            sums[_version(sample)] = sample.value
    for version, cumulative in buckets.items():
        histogram = Histogram.of_page(cumulative, sums.get(version, 0.0))
        versions[version].histograms[name] = histogram


@dataclass(frozen=True)
class Histogram:
    """Counts by bucket as Prometheus keeps them, and the percentiles that they allow.

    The last bound is infinite.
    """

    bounds: tuple[float, ...]
    counts: tuple[float, ...]
    """How many lie in each bucket (above the bound before, up to its own)."""
    total: float
    """The sum of all values."""

    @classmethod
    def of_page(cls, cumulative: Mapping[float, float], total: float) -> Histogram:
        """From a page's buckets, each of which counts all those below it too.

        Raises:
            ValueError: the buckets are not a histogram's.
        """
        bounds = tuple(sorted(cumulative))
        if not bounds or bounds[-1] != math.inf:
            raise ValueError("a histogram without a last bucket")
        running = [0.0, *(cumulative[bound] for bound in bounds)]
        counts = tuple(after - before for before, after in pairwise(running))
        if min(counts) < 0:
            raise ValueError("a histogram whose buckets do not add up")
        return cls(bounds, counts, total)

    @property
    def count(self) -> float:
        """How many values were seen."""
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """Their mean; None where there are none."""
        return self.total / self.count if self.count else None

    @property
    def limit(self) -> float:
        """The highest finite bound: what lies above has no known size."""
        return self.bounds[-2] if len(self.bounds) > 1 else 0.0

    def percentile(self, percent: float) -> float | None:
        """The value below which `percent` of all lie, evenly spread within its bucket.

        None where there are none; infinite where it lies above the highest finite bound.
        """
        place = self._place(percent)
        if place is None:
            return None
        at, share = place
        lower = self.bounds[at - 1] if at else 0.0
        return (
            math.inf if math.isinf(self.bounds[at]) else lower + (self.bounds[at] - lower) * share
        )

    def bound(self, percent: float) -> float | None:
        """The bound of the bucket that holds the percentile: all that is sure where a bucket holds
        few different values."""
        place = self._place(percent)
        return None if place is None else self.bounds[place[0]]

    def _place(self, percent: float) -> tuple[int, float] | None:
        """The percentile's bucket, and the share of the bucket that is below it."""
        rank = min(self.count * percent / 100, self.count)
        below = 0.0
        for at, upto in enumerate(accumulate(self.counts)):
            if upto >= rank and upto > below:
                return at, (rank - below) / (upto - below)
            below = upto
        return None

    def __add__(self, other: Histogram) -> Histogram:
        return self._joined(other, 1)

    def __sub__(self, earlier: Histogram) -> Histogram:
        return self._joined(earlier, -1)

    def _joined(self, other: Histogram, sign: int) -> Histogram:
        pairs = zip(self.counts, other.counts, strict=True)
        counts = tuple(mine + sign * theirs for mine, theirs in pairs)
        return Histogram(self.bounds, counts, self.total + sign * other.total)
