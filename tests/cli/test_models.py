"""`tidegate models`, run as users run it."""

from __future__ import annotations

from tests.cli.running import tidegate
from tests.harness import RunningServer


def test_models_are_listed(shipped: RunningServer) -> None:
    models = tidegate("models", "--address", shipped.address)
    assert models.returncode == 0
    assert "exercise/1 on cpu" in models.stdout
    assert "PEN, ABD, FEL, IR, ER, TRAP, ROW" in models.stdout
