"""Where two ways to step the same sessions part: session, step, output, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.network import Floats

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Parting:
    """The first place in one session, and how many of its steps are apart, the most by `most`."""

    session: str
    step: int
    output: str
    streamed: float
    offline: float
    steps: int
    most: float

    def told(self) -> str:
        """In words."""
        return (
            f"session {self.session!r}, step {self.step}, output {self.output!r}: "
            f"{self.streamed:.6g} streamed, {self.offline:.6g} offline, "
            f"{abs(self.streamed - self.offline):.2g} apart ({self.steps:,} steps of the session "
            f"part, by {self.most:.2g} at most)"
        )


def scale_of(outputs: Sequence[Floats], kinds: Sequence[str]) -> Doubles:
    """What differences are shares of, [O]: 1 for probabilities, else the largest value."""
    largest = np.abs(np.concatenate(outputs)).max(axis=0).astype(np.float64)
    plain = np.array([kind != "value" for kind in kinds]) | (largest == 0)
    return np.where(plain, 1.0, largest)


def partings(
    names: Sequence[str],
    outputs: Sequence[str],
    streamed: Sequence[Floats],
    offline: Sequence[Floats],
    limit: Doubles,
) -> list[Parting]:
    """One for each session that has a step whose outputs are more than `limit` [O] apart."""
    triples = zip(names, streamed, offline, strict=True)
    found = (_parting(name, outputs, ours, theirs, limit) for name, ours, theirs in triples)
    return [each for each in found if each is not None]


def _parting(
    name: str, outputs: Sequence[str], streamed: Floats, offline: Floats, limit: Doubles
) -> Parting | None:
    apart = np.abs(streamed.astype(np.float64) - offline)
    over = ~(apart <= limit)  # what is no number is apart, too
    steps = np.flatnonzero(over.any(axis=1))
    if not len(steps):
        return None
    first = int(steps[0])
    k = int((apart[first] / limit).argmax())
    return Parting(
        session=name,
        step=first,
        output=outputs[k],
        streamed=float(streamed[first, k]),
        offline=float(offline[first, k]),
        steps=len(steps),
        most=float(apart.max()),
    )
