"""A budget of minutes as a number of epochs and a rate, and whether a run would have used more."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch

from training.errors import TrainingError
from training.loop.begin import blank
from training.loop.fit import fit, new_learner
from training.loop.windows import Windows, lanes_of, lay, updates_of
from training.recipe.recipe import Recipe
from training.table.session import Dataset

log = logging.getLogger(__name__)

FEWEST: Final = 3  # epochs
MOST: Final = 500
MOST_UPDATES: Final = 30_000
"""Of a small table more would be learned by heart."""
TRIED: Final = 6  # updates that are timed, after one that is not
FORWARD: Final = 0.4  # of an update's time is what validation of a window takes, about
BESIDES: Final = 1.15  # what checkpoints, logs and the loop itself add
TRIAL: Final = 0.08  # of the minutes is what a rate's trial takes
SHORTEST: Final = 3  # epochs of a trial that tells anything
RATES: Final = (1 / 3, 1.0, 3.0)  # of the recipe's rate
STILL: Final = 0.005  # of the loss, over the last quarter of a run: it is still falling


def within(minutes: float, dataset: Dataset, recipe: Recipe) -> Recipe:
    """The recipe with the epochs that there is time for on this machine, and of a few rates the one
    that does best in a short run each; as it is where the recipe names one. What it comes to is in
    the recipe alone, so that another machine repeats the run.

    It stops before, a third of its epochs after the best one, where there is a validation part.

    Raises:
        TrainingError: several processes are to train: each would come to epochs of its own, and the
            others wait for it.
    """
    if recipe.loop.devices * recipe.loop.machines > 1:
        raise TrainingError("minutes are of one process: for several, set loop.epochs")
    seconds, updates = _epoch(dataset, recipe)
    room, most = 60 * minutes / seconds, min(MOST, MOST_UPDATES // updates + 1)
    trial, rate = int(min(TRIAL * room, most / len(RATES))), recipe.loop.rate
    if trial >= SHORTEST and dataset.validation and "rate" not in recipe.loop.model_fields_set:
        rate = _best_rate(dataset, recipe, trial)
        room -= trial * len(RATES)
    epochs = int(np.clip(room, FEWEST, most))
    patience = max(FEWEST, epochs // 3) if dataset.validation else 0
    log.info("%g minutes: %d epochs of about %.2g s, at a rate of %.2g",
             minutes, epochs, seconds, rate)  # fmt: skip
    return _with(recipe, epochs=epochs, patience=patience, rate=rate)


def advice(curve: Sequence[Mapping[str, float]], epochs: int) -> str | None:
    """A sentence where more training would still have helped, by the validation loss; else None."""
    losses = [line["validation_loss"] for line in curve if "validation_loss" in line]
    if len(losses) < max(2, epochs):  # it stopped by itself
        return None
    last = max(1, len(losses) // 4)
    before, after = min(losses[:-last]), min(losses[-last:])
    if after >= (1 - STILL) * before:
        return None
    fell = 100 * (before - after) / before
    when = "quarter" if len(losses) >= 4 else "epoch"
    return (
        f"the validation loss still fell, by {fell:.1f} % in the last {when}: more training would "
        "help"
    )


def _with(recipe: Recipe, **loop: float) -> Recipe:
    return recipe.model_copy(update={"loop": recipe.loop.model_copy(update=loop)})


def _best_rate(dataset: Dataset, recipe: Recipe, epochs: int) -> float:
    """By the validation loss of a whole run of so many epochs at each."""
    losses = {}
    for share in RATES:
        rate = min(1.0, share * recipe.loop.rate)
        losses[rate] = _loss(dataset, _with(recipe, epochs=epochs, patience=0, rate=rate))
    told = ", ".join(f"{loss:.4g} at {rate:.2g}" for rate, loss in losses.items())
    log.info("after %d epochs the validation loss is %s", epochs, told)
    return min(losses, key=losses.__getitem__)


def _loss(dataset: Dataset, recipe: Recipe) -> float:
    """The lowest; infinite where training came to nothing."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            curve = fit(dataset, recipe, Path(folder), quiet=True).curve
    except TrainingError:
        return math.inf
    return min(line["validation_loss"] for line in curve)


def _epoch(dataset: Dataset, recipe: Recipe) -> tuple[float, int]:
    """Seconds of an epoch, by a few updates of a network of its own, and its updates."""
    loop = recipe.loop
    lanes = lanes_of(loop.batch, dataset.train, loop.window)
    updates = updates_of(dataset.train, lanes, loop.window)
    validated = 0
    if dataset.validation:
        count = lanes_of(loop.batch, dataset.validation, loop.window)
        validated = updates_of(dataset.validation, count, loop.window)
    update = _update(dataset, recipe, lanes)
    return BESIDES * update * (updates + FORWARD * validated), updates


def _update(dataset: Dataset, recipe: Recipe, lanes: int) -> float:
    loop = recipe.loop
    torch.set_num_threads(loop.threads)
    learner = new_learner(dataset, recipe, blank(dataset, recipe))
    optimiser = torch.optim.AdamW(learner.network.parameters(), lr=0.0)
    windows, took = Windows(lay(dataset.train, lanes, loop.window)), []
    for at in range(TRIED + 1):
        started = time.perf_counter()
        torch.autograd.backward(learner.losses(windows[at % len(windows)]).mean())
        optimiser.step()
        optimiser.zero_grad()
        took.append(time.perf_counter() - started)
    return float(np.median(took[1:]))
