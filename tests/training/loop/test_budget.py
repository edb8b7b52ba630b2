"""Minutes as epochs; and when a run would have used more."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.training.commands.tasks import config_of
from training.__main__ import main
from training.errors import TrainingError
from training.loop import budget
from training.recipe.recipe import Recipe, read_recipe
from training.table.dataset import load
from training.table.session import Dataset


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return read_recipe(config_of(tmp_path))


def at_rate(recipe: Recipe, rate: float) -> Recipe:
    """As one that names it."""
    loop = recipe.loop.model_copy(update={"rate": rate})
    return recipe.model_copy(update={"loop": loop})


def test_the_budget_is_divided_by_what_an_epoch_takes(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, recipe = load(recipe), at_rate(recipe, 1e-2)
    monkeypatch.setattr(budget, "_epoch", lambda *_: (2.0, 50))
    loop = budget.within(3.0, dataset, recipe).loop
    assert (loop.epochs, loop.patience) == (90, 30)
    few = budget.within(0.01, dataset, recipe).loop
    assert (few.epochs, few.patience) == (budget.FEWEST, budget.FEWEST)
    monkeypatch.setattr(budget, "_epoch", lambda *_: (0.001, 10))
    assert budget.within(60, dataset, recipe).loop.epochs == budget.MOST
    monkeypatch.setattr(budget, "_epoch", lambda *_: (0.001, 3000))
    assert budget.within(60, dataset, recipe).loop.epochs == 11  # updates are bounded as well


@pytest.mark.parametrize(
    ("lost", "rate"),
    [(set(), 9e-3), ({9e-3}, 3e-3), ({9e-3, 3e-3}, 1e-3)],
    ids=["all come to something", "one does not", "two do not"],
)
def test_the_rate_that_does_best_in_short_runs_is_taken_and_their_time_is_of_the_budget(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, lost: set[float], rate: float
) -> None:
    tried = []

    def loss(_: Dataset, of: Recipe) -> float:
        tried.append((of.loop.epochs, of.loop.patience))
        failed = any(of.loop.rate == pytest.approx(each) for each in lost)
        return math.inf if failed else -of.loop.rate

    monkeypatch.setattr(budget, "_epoch", lambda *_: (2.0, 50))
    monkeypatch.setattr(budget, "_loss", loss)
    loop = budget.within(3.0, load(recipe), recipe).loop
    assert loop.rate == pytest.approx(rate)
    assert tried == [(7, 0)] * 3
    assert loop.epochs == 90 - 3 * 7


def test_a_rate_is_left_that_is_named_or_that_nothing_could_tell_of(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load(recipe)
    monkeypatch.setattr(budget, "_epoch", lambda *_: (2.0, 50))
    monkeypatch.setattr(budget, "_loss", lambda *_: pytest.fail("nothing is to be tried"))
    assert budget.within(3.0, dataset, at_rate(recipe, 1e-2)).loop.rate == 1e-2
    assert budget.within(0.5, dataset, recipe).loop.rate == recipe.loop.rate
    alone = Dataset(**{**vars(dataset), "validation": ()})
    assert budget.within(3.0, alone, recipe).loop.rate == recipe.loop.rate


def test_short_runs_tell_a_rate_at_which_nothing_is_learned(recipe: Recipe) -> None:
    recipe = at_rate(recipe, 1e-3)
    assert budget._best_rate(load(recipe), recipe, 4) == pytest.approx(3e-3)


def test_several_processes_have_no_budget_of_their_own_each(recipe: Recipe) -> None:
    for setting in ("devices", "machines"):
        loop = recipe.loop.model_copy(update={setting: 2})
        with pytest.raises(TrainingError, match=r"set loop\.epochs"):
            budget.within(5.0, load(recipe), recipe.model_copy(update={"loop": loop}))


def test_an_epoch_of_more_updates_takes_as_much_longer(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load(recipe)
    monkeypatch.setattr(budget, "_update", lambda *_: 0.5)
    wide = recipe.model_copy(update={"loop": recipe.loop.model_copy(update={"window": 1000})})
    narrow = recipe.model_copy(update={"loop": recipe.loop.model_copy(update={"window": 5})})
    (longer, many), (shorter, few) = (budget._epoch(dataset, each) for each in (narrow, wide))
    assert many > few and longer > shorter
    alone = Dataset(**{**vars(dataset), "validation": ()})
    assert budget._epoch(alone, narrow)[0] == pytest.approx(0.5 * many * budget.BESIDES)


def test_the_real_time_of_an_update_is_found(recipe: Recipe) -> None:
    assert budget._update(load(recipe), recipe, 4) > 0


def losses(*values: float) -> list[dict[str, float]]:
    return [{"validation_loss": each} for each in values]


@pytest.mark.parametrize(
    ("curve", "epochs", "told"),
    [
        (losses(*(1 / k for k in range(1, 13))), 12, "by 25.0 % in the last quarter"),
        (losses(*(1 / k for k in range(1, 13))), 40, None),  # it stopped by itself
        (losses(1.0, 0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.399), 8, None),
        (losses(1.0, 0.5, 0.3, 0.4, 0.5, 0.5, 0.6, 0.7), 8, None),
        (losses(1.0, 0.5, 0.2), 3, "by 60.0 % in the last epoch"),
        (losses(1.0), 1, None),
        ([{"train_loss": 1.0}] * 12, 12, None),
    ],
)
def test_more_training_is_advised_where_the_loss_still_fell(
    curve: list[dict[str, float]], epochs: int, told: str | None
) -> None:
    found = budget.advice(curve, epochs)
    assert (found is None) == (told is None)
    assert told is None or (found is not None and told in found)


def test_what_the_minutes_came_to_is_in_the_bundle(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    out = tmp_path / "models" / "devices" / "1"
    given: list[Any] = ["fit", config, "--out", out, "--runs", tmp_path / "runs", "--quiet"]
    assert main([*map(str, given), "--minutes", "0.02"]) == 0
    loop = json.loads((out / "model.json").read_text())["training"]["recipe"]["loop"]
    assert budget.FEWEST <= loop["epochs"] <= budget.MOST
    assert loop["patience"] >= budget.FEWEST
    assert "minutes" not in loop


@pytest.mark.parametrize("wrong", ["0", "-1", "nan", "inf", "soon"])
def test_what_is_no_time_is_refused(
    tmp_path: Path, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["fit", str(config_of(tmp_path)), "--minutes", wrong])
    assert "--minutes" in capsys.readouterr().err
