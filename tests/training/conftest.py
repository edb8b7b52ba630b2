"""Two bundles of one table, which tests of what comes after training share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.training.commands.tasks import delayed, words
from tests.training.tables import write_recipe, write_table
from training.__main__ import main


@dataclass(frozen=True)
class Bundles:
    """`models` holds devices/1, hardly trained, and devices/2, which learned; of 12 sessions of 20
    that are held out, the states are the sign of the load two steps before."""

    models: Path
    table: Path

    @property
    def poor(self) -> Path:
        """devices/1."""
        return self.models / "devices" / "1"

    @property
    def good(self) -> Path:
        """devices/2."""
        return self.models / "devices" / "2"


SPLIT = ("split.test=0.5", "split.validation=0.1", "baselines.trees=5")
LEARN = ("loop.epochs=25", "loop.rate=3e-2", "network.hidden=12", "loop.window=10", "loop.batch=2")


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """Two bundles of the same recipe but for how long they learned."""
    folder = tmp_path_factory.mktemp("bundles")
    table = write_table(folder / "t.csv", delayed(sessions=24))
    config = write_recipe(table)
    for version, more in (("1", ("loop.epochs=1", "network.linear=false")), ("2", LEARN)):
        arguments = words(config, folder, *SPLIT, *more)
        arguments[arguments.index("--out") + 1] = str(folder / "models" / "devices" / version)
        assert main(arguments) == 0
    return Bundles(folder / "models", table)
