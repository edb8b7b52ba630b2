"""Training with the state carried on: what a session began with is known at its end."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.training.commands.tasks import config_of, fit
from training.insight.evaluation import evaluate, open_subject
from training.insight.positions import scores

STEPS, WINDOW = 240, 20


def beginnings(sessions: int = 24) -> list[list[object]]:
    """The first load's sign is the state of the whole session; later loads look the same, so that
    only who knows what came before can tell that they say nothing."""
    rng = np.random.default_rng(0)
    table: list[list[object]] = []
    for session in range(sessions):
        up = bool(rng.integers(2))
        loads = rng.choice([-1.0, 1.0], STEPS) * rng.uniform(0.5, 1.5, STEPS).round(3)
        loads[0] = abs(loads[0]) if up else -abs(loads[0])
        table += [[f"d{session}", t, load, "a", "up" if up else "down"]
                  for t, load in enumerate(loads.tolist())]  # fmt: skip
    return table


def test_accuracy_does_not_fall_over_twelve_windows(tmp_path: Path) -> None:
    config = config_of(tmp_path, beginnings())
    bundle = fit(config, tmp_path, "loop.epochs=60", f"loop.window={WINDOW}", "loop.rate=2e-2",
                 "network.hidden=12", "loop.batch=32", "features={load={unit='V'}}",
                 "split.test=0.3", "split.validation=0.0")  # fmt: skip
    right = np.stack(scores(evaluate(open_subject(bundle))))
    first, last = right[:, :WINDOW].mean(), right[:, -WINDOW:].mean()
    assert right.shape == (7, STEPS)
    assert first > 0.95
    assert last >= first - 0.02
