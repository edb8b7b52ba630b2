"""How far a server's features have moved from those of training: read from its metrics page, where
`server/serving/drift.py` exports a stability index for each feature. What says that it is time to
train again, and by what.
"""

from __future__ import annotations

import http.client
import math
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from training.errors import TrainingError

PSI, SAMPLES = "tidegate_feature_psi", "tidegate_feature_samples"
SECONDS, MOST_BYTES = 10.0, 32 << 20
LITTLE, MUCH = 0.1, 0.25
"""By custom: below the one an index says nothing, above the other the feature is another."""


@dataclass(frozen=True)
class Moved:
    """One feature: its index, NaN while the server has seen too few steps to tell."""

    feature: str
    index: float

    @property
    def words(self) -> str:
        """What the index comes to."""
        if math.isnan(self.index):
            return "too few steps yet"
        return "much" if self.index > MUCH else "some" if self.index > LITTLE else "little"


@dataclass(frozen=True)
class Movement:
    """A server's features over so many steps of late, the one that moved furthest first."""

    url: str
    samples: int
    features: Sequence[Moved]

    @property
    def sentence(self) -> str:
        """Whether to train again."""
        seen = f"over {self.samples:,} steps that {self.url} served of late"
        if all(math.isnan(each.index) for each in self.features):
            return (
                f"Too early to tell whether features moved: {self.samples:,} steps are kept of "
                f"those that {self.url} served of late. Of its window's 10,000 periods each keeps "
                "one, and 1,000 are enough: 6 minutes of an hour, if that is its window."
            )
        far = [each for each in self.features if each.index > MUCH]
        if not far:
            return f"No feature moved much {seen}."
        named = ", ".join(f"{each.feature} (PSI {each.index:.2f})" for each in far)
        return (
            f"{len(far)} of {len(self.features)} features moved much {seen}: {named}. What was "
            "learned may not hold for them: train again on a table that has these steps."
        )


def movement(url: str, manifest: Mapping[str, Any]) -> Movement:
    """The indices that a server exports of the bundle's model version.

    Raises:
        TrainingError: no page can be read there, or it tells nothing of the model version.
    """
    model = {"model": str(manifest["name"]), "version": str(manifest["version"])}
    every = [each for each in _samples(url) if each.name in (PSI, SAMPLES)]
    ours = [each for each in every if model.items() <= each.labels.items()]
    found = dict[str, float]()
    for each in ours:
        if each.name == PSI:  # of several servers on one page, the one that moved furthest
            name = each.labels["feature"]
            found[name] = _further(found.get(name, math.nan), each.value)
    if not found:
        raise TrainingError(f"{url} tells no drift of {model['model']}/{model['version']}; "
                            f"it does of {_others(every)}")  # fmt: skip
    ranked = sorted(found, key=lambda name: -math.inf if math.isnan(found[name]) else found[name])
    samples = sum(each.value for each in ours if each.name == SAMPLES)
    return Movement(url, int(samples), [Moved(name, found[name]) for name in reversed(ranked)])


def _further(one: float, other: float) -> float:
    known = [each for each in (one, other) if not math.isnan(each)]
    return max(known, default=math.nan)


def _others(every: Sequence[Sample]) -> str:
    names = sorted({f"{each.labels['model']}/{each.labels['version']}" for each in every})
    return ", ".join(names) or "no model"


def _samples(url: str) -> list[Sample]:
    if urlsplit(url).scheme not in ("http", "https"):
        raise TrainingError(f"--against must be a URL of http or https, not {url!r}")
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as reply:
            body = reply.read(MOST_BYTES).decode()
        families = text_string_to_metric_families(body)
        return [sample for family in families for sample in family.samples]
    except urllib.error.HTTPError as error:
        error.close()
        raise TrainingError(f"{url} answers with status {error.code}") from None
    except (OSError, http.client.HTTPException) as error:
        raise TrainingError(f"no answer from {url}: {error}") from None
    except (ValueError, KeyError) as error:
        raise TrainingError(f"{url} is no metrics page: {error}") from None
