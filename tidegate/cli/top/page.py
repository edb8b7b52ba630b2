"""What a server's metrics page says, by model version."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tidegate.cli.top.histogram import Histogram

PREFIX = "tidegate_"
Version = tuple[str, str]
"""A model's name and version; both empty for what happened to no served model."""


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
