"""Steps of engines that tests share."""

from __future__ import annotations

import numpy as np

from server.bundle.repository import Bundle
from server.engine.engine import Engine, EngineRows
from tests.server.core.parts import CPU


def rows(count: int, fresh: bool = True) -> EngineRows:
    ones = np.ones((count, 1, 5), np.float32)
    flags, lengths = np.full(count, fresh), np.ones(count, np.int32)
    return EngineRows(np.arange(1, count + 1), flags, lengths, ones)


def alike(ours: Engine, bundle: Bundle) -> None:
    """Three steps of three sessions are those of an engine on the CPU."""
    theirs = Engine(bundle, CPU, ours.capacity)
    for k in range(3):
        found, wanted = (each.run(rows(3, k == 0)) for each in (ours, theirs))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
