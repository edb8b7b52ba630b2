"""Others' trackers are told the recipe and every figure; one that cannot be used stops the run."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from lightning.pytorch.loggers import CSVLogger, Logger

from tests.training.commands.tasks import config_of, words
from training.__main__ import main
from training.loop import trackers
from training.loop.fit import fit
from training.recipe.recipe import Recipe, read_recipe
from training.table.dataset import load


def test_a_tracker_is_told_the_recipe_and_the_figures_of_each_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(recipe: Recipe, folder: Path) -> Logger:
        return CSVLogger(tmp_path, name="elsewhere", version=0)

    monkeypatch.setattr(trackers, "TRACKERS", {"mine": elsewhere})
    recipe = read_recipe(config_of(tmp_path), ["loop.epochs=3"])
    fitted = fit(load(recipe), recipe, tmp_path / "run", quiet=True, tracker="mine")
    told = pl.read_csv(tmp_path / "elsewhere" / "version_0" / "metrics.csv")
    losses = told["validation_loss"].drop_nulls().to_list()
    assert losses == pytest.approx([line["validation_loss"] for line in fitted.curve])
    assert "name: devices" in (tmp_path / "elsewhere" / "version_0" / "hparams.yaml").read_text()
    assert (tmp_path / "run" / "csv").is_dir()


@pytest.mark.parametrize(
    ("raises", "says"),
    [
        (ModuleNotFoundError("x"), "the tracker 'wandb' needs `pip install wandb`"),
        (RuntimeError("nobody at home\nand more"), "cannot be used: nobody at home"),
    ],
)
def test_a_tracker_that_cannot_be_used_is_told_before_the_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raises: Exception,
    says: str,
) -> None:
    def fails(recipe: Recipe, folder: Path) -> Logger:
        raise raises

    monkeypatch.setattr(trackers, "TRACKERS", {"wandb": fails})
    assert main([*words(config_of(tmp_path), tmp_path), "--tracker", "wandb"]) == 2
    assert says in capsys.readouterr().err
    assert not list((tmp_path / "runs").rglob("*.ckpt"))


def test_a_tracker_of_no_known_name_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*words(config_of(tmp_path), tmp_path), "--tracker", "paper"])
    assert "paper" in (said := capsys.readouterr().err)
    assert "mlflow" in said
