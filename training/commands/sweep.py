"""Try every combination of a small grid of settings, by the validation part."""

from __future__ import annotations

import argparse
import csv
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import GridSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from training.commands.options import add_recipe, recipe_of, with_set
from training.errors import TrainingError
from training.loop.fit import fit
from training.loop.processes import side_by_side
from training.recipe.grid import axis_of, settings, words
from training.recipe.recipe import Recipe, read_recipe
from training.recipes import find_recipe
from training.table.dataset import load

log = logging.getLogger(__name__)
Grid = dict[str, list[str]]

UNPRUNED = 4  # trials that are run to their end, whatever becomes of them
LOSS = "validation_loss"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, the grid, where to write, how many at once."""
    add_recipe(parser)
    parser.add_argument(
        "--grid",
        action="append",
        required=True,
        metavar="KEY=A,B,...",
        help="a setting and the values to try, as network.hidden=32,64 (repeatable)",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="trials and their logs")
    parser.add_argument("--jobs", type=_jobs, default=1, help="processes that try side by side")
    parser.add_argument(
        "--whole", action="store_true", help="run trials to their end that lag behind the others"
    )


def run(arguments: argparse.Namespace) -> None:
    """Run what the grid still lacks: a sweep that was stopped goes on where it was.

    Raises:
        TrainingError: a setting is none, there is no validation part to measure by, a process of
            it failed, or no trial came to anything.
    """
    grid = dict(axis_of(text, "--grid") for text in arguments.grid)
    recipe = recipe_of(arguments)
    for each in settings(grid):  # before anything is tried
        with_set(arguments, each)
    if not load(recipe).validation:
        raise TrainingError("a sweep needs a validation part (split.validation)")
    folder = arguments.runs / f"{recipe.name}-sweep"
    folder.mkdir(parents=True, exist_ok=True)
    sweep = Sweep(arguments.config, tuple(arguments.set), grid, folder, not arguments.whole)
    if not sweep.is_full:
        sweep.retry()
        _run_in(arguments.jobs, sweep)
    _report(sweep.done, grid, folder)


@dataclass(frozen=True)
class Sweep:
    """A grid over a recipe, kept in a folder; several processes may work at one."""

    config: str
    overrides: tuple[str, ...]
    grid: Grid
    folder: Path
    prunes: bool

    @property
    def study(self) -> optuna.Study:
        """What is known of it. The same sweep has the same name, so that it can go on."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return optuna.create_study(
            study_name=repr((sorted(self.overrides), sorted(self.grid.items()))),
            storage=f"sqlite:///{self.folder / 'trials.db'}",
            sampler=GridSampler(self.grid, seed=0),
            pruner=self._pruner(),
            load_if_exists=True,
        )

    @property
    def done(self) -> list[FrozenTrial]:
        """Trials that came to something, one a combination; those of whole runs first, the best
        before the others."""
        found: dict[tuple[Any, ...], FrozenTrial] = {}
        for trial in sorted(self.study.get_trials(states=self._ends), key=lambda t: t.state.name):
            found.setdefault(tuple(sorted(trial.params.items())), trial)
        return sorted(found.values(), key=lambda t: (t.state.name, t.user_attrs[LOSS]))

    @property
    def _ends(self) -> tuple[TrialState, ...]:
        """How trials end that need not be tried again."""
        return (TrialState.COMPLETE, TrialState.PRUNED) if self.prunes else (TrialState.COMPLETE,)

    @property
    def is_full(self) -> bool:
        """Whether nothing is left to try."""
        return len(self.done) >= math.prod(map(len, self.grid.values()))

    def work(self) -> None:
        """Try what nobody has tried or tries; then what others have but begun."""
        study = self.study
        study.optimize(self._try)
        while study.get_trials(states=(TrialState.WAITING,)):  # optuna stops once all were begun
            study.optimize(self._try, n_trials=1)

    def retry(self) -> None:
        """Have combinations tried again of which every trial has failed, or was left where none is
        to be: optuna's grid takes them for tried."""
        study, left = self.study, dict[int, dict[str, Any]]()
        for trial in study.get_trials():
            if trial.state.is_finished():
                left[trial.system_attrs["grid_id"]] = trial.system_attrs
        for trial in study.get_trials(states=(*self._ends, TrialState.WAITING)):
            left.pop(trial.system_attrs["grid_id"], None)
        for attributes in left.values():
            again = optuna.create_trial(state=TrialState.WAITING, system_attrs=attributes)
            study.add_trial(again)

    def _pruner(self) -> BasePruner:
        return MedianPruner(n_startup_trials=UNPRUNED) if self.prunes else NopPruner()

    def _try(self, trial: Trial) -> float:
        """The best validation loss of one combination."""
        grid = self.grid.items()
        chosen = words(tuple((key, trial.suggest_categorical(key, each)) for key, each in grid))
        recipe = read_recipe(find_recipe(self.config), [*self.overrides, *chosen])
        loss = self._fitted(recipe, trial)
        log.info("%s: validation loss %.4g", " ".join(chosen), loss)
        return loss

    def _fitted(self, recipe: Recipe, trial: Trial) -> float:
        folder = self.folder / str(trial.number)
        fitted = fit(load(recipe), recipe, folder, quiet=True, watch=_Pruning(trial))
        zero = [] if fitted.beginning is None else [fitted.beginning.figures]
        best = min([*zero, *fitted.curve], key=lambda line: line[LOSS])
        for name, value in best.items():
            trial.set_user_attr(name, value)
        return best[LOSS]


class _Pruning(pl.Callback):
    """Ends a trial that is worse than half of the others were at its epoch."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        loss = float(trainer.callback_metrics[LOSS])
        self._trial.report(loss, trainer.current_epoch)
        if self._trial.should_prune():
            self._trial.set_user_attr(LOSS, loss)
            log.info("%s: left at epoch %d, validation loss %.4g",
                     self._trial.params, trainer.current_epoch + 1, loss)  # fmt: skip
            raise optuna.TrialPruned


def _run_in(jobs: int, sweep: Sweep) -> None:
    """In this process and in others beside it."""
    context = side_by_side()
    others = [context.Process(target=_beside, args=(sweep,)) for _ in range(jobs - 1)]
    for each in others:
        each.start()
    try:
        sweep.work()
    finally:
        for each in others:
            each.join()
    if any(each.exitcode for each in others):
        raise TrainingError("a process of the sweep failed; its trace is above")


def _beside(sweep: Sweep) -> None:
    """What another process does; it tells of its trials as the first does."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sweep.work()


def _jobs(text: str) -> int:
    jobs = int(text)
    if jobs < 1:
        raise ValueError(text)
    return jobs


def _report(done: list[FrozenTrial], grid: Grid, folder: Path) -> None:
    if not done:
        raise TrainingError("no combination came to a validation loss")
    lines = [
        trial.params | {"state": trial.state.name.lower()} | trial.user_attrs for trial in done
    ]
    with (folder / "trials.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(lines[0]), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    equal = sum(line[LOSS] == lines[0][LOSS] for line in lines) - 1
    log.info("best: %s%s", " ".join(f"--set {key}={lines[0][key]}" for key in grid),
             f" ({equal} more as good)" if equal else "")  # fmt: skip
    log.info("wrote %s", folder / "trials.csv")
