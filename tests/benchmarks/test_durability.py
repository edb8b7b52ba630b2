"""The benchmark of keeping sessions measures what it says, on few sessions."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import durability, machine
from benchmarks.models import H64

MODES = ["none", "sqlite, write-behind", "redis, write-behind", "sqlite, sync", "redis, sync"]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(durability, "WINDOWS", 1)
    monkeypatch.setattr(durability, "SECONDS", 0.2)
    H64.write(tmp_path / "models")
    return tmp_path / "models"


def test_every_store_and_mode_has_its_price(repository: Path, tmp_path: Path) -> None:
    core, _ = machine.choose_cores()
    prices = durability.price(repository, tmp_path, core, 50)
    assert [each.mode for each in prices] == MODES
    assert all(each.steps_per_second > 0 and each.ratio > 0 for each in prices)
    assert prices[0].ratio == 1


def test_sessions_that_come_and_go_and_come_back_are_counted(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, _ = machine.choose_cores()
    monkeypatch.setattr(durability, "RESIDENT", 40)
    found = durability.known(repository, tmp_path, core, 100)
    assert found.known == 100 and found.churn_steps_per_second > 0
    assert durability.recovery(repository, tmp_path, core, 100).sessions == 100
