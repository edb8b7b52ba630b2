"""What is asked of a run, as both the command and the processes of its parts see it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

Say = Callable[..., None]
"""`say(kind, **figures)` writes one record down."""

SHAPES = {
    "h64": (1, 64, 64),
    "2x128": (2, 128, 128),
    "3x256": (3, 256, 256),
    "3x480": (3, 480, 480),
    "LSTM_A": (2, 100, 100),
}
"""Layers, units a layer, features. LSTM_A is as wide as STAC-ML's model of that name."""
BOUNDS = {"float32": 1e-3, "float16": 1e-2}
"""How far an output or a state may be from the CPU's in float32, relative to its largest value."""
ALIKE = {"float32": 1e-4, "float16": 5e-3}
"""How far a captured run's outputs may be from an eager one's: with other numbers of rows products
may sum in another order, and round to another number."""
PARTS = {
    "proofs": 200.0,
    "floor": 20.0,
    "steps": 130.0,
    "torch": 50.0,
    "served": 60.0,
    "sessions": 100.0,
}
"""What there is to do, in this order, and the seconds after which each is cut off."""


@dataclass(frozen=True)
class Options:
    """One run's."""

    device: str = "cuda"
    models: tuple[str, ...] = tuple(SHAPES)
    batches: tuple[int, ...] = (1, 4, 16, 64, 256, 1024, 4096)
    most: int = 4097
    """Rows of the largest batch that is proven."""
    slots: tuple[int, ...] = (1_000, 100_000, 1_000_000)
    """Arenas in which a run must cost the same."""
    sessions: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    """Resident in a server."""
    table_slots: int = 100_000
    """Of the arenas in the table of runs, in which batches are strewn."""
    seconds: float = 0.25
    """For each line of a table of runs; a server is watched eight times as long."""
    prepare: str = ""
    """MODULE:FUNCTION that each part calls first; tests put a double of a GPU in place by it."""

    def packed(self) -> str:
        """For a part's command line."""
        return json.dumps(asdict(self))


def unpacked(text: str) -> Options:
    """As `packed` wrote it."""
    told: Mapping[str, Any] = json.loads(text)
    lists = {name: tuple(each) for name, each in told.items() if isinstance(each, list)}
    known = {field.name for field in fields(Options)}
    return Options(**{name: each for name, each in {**told, **lists}.items() if name in known})


class Unusable(RuntimeError):
    """A part cannot be done here; the message says why."""
