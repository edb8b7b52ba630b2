"""Two bundles of one table, which tests of what comes after training share; short timings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from tests.training.commands.tasks import config_of, delayed, fit, words
from tests.training.tables import rows, write_recipe, write_table
from training.__main__ import main
from training.graphs import choice


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


@pytest.fixture(scope="session", autouse=True)
def short_timings() -> Iterator[None]:
    """Forms are timed by few runs: which is the faster is no test's business, and a dozen rounds of
    every batch are half of what the export of a small network takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "ROUNDS", 3)
        yield


SPLIT = ("split.test=0.5", "split.validation=0.1", "baselines.trees=5")
LEARN = ("loop.epochs=25", "loop.rate=3e-2", "network.hidden=12", "loop.window=10", "loop.batch=2")


@pytest.fixture(scope="session")
def bundles(shared: Path) -> Bundles:
    """Two bundles of the same recipe but for how long they learned, made once for all processes
    of tests."""
    folder = shared / "bundles"
    with FileLock(f"{folder}.lock"):
        if not (folder / "made").exists():
            folder.mkdir(exist_ok=True)
            _make_bundles(folder)
            (folder / "made").touch()
    return Bundles(folder / "models", folder / "t.csv")


def _make_bundles(folder: Path) -> None:
    config = write_recipe(write_table(folder / "t.csv", delayed(sessions=24)))
    for version, more in (("1", ("loop.epochs=1", "network.linear=false")), ("2", LEARN)):
        arguments = words(config, folder, *SPLIT, *more)
        arguments[arguments.index("--out") + 1] = str(folder / "models" / "devices" / version)
        assert main(arguments) == 0


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small table of classes, hardly trained; nobody changes it or its table."""
    folder = tmp_path_factory.mktemp("small")
    return fit(config_of(folder, rows(sessions=12, steps=60)), folder)
