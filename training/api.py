"""From a table to a proven bundle, in Python: what `tidegate-train` does, and what users import as
`tidegate_train`.

`fit` trains and compares with baselines, `export` proves and writes, `evaluate` measures a bundle
that was written. A table is the file that the recipe names, or a DataFrame.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from training.bundle import bundle_folder
from training.errors import TrainingError
from training.export import export as prove_and_write
from training.figures import predict
from training.loop.budget import advice, within
from training.loop.fit import Fitted, plain_weights
from training.loop.fit import fit as run_loop
from training.loop.learned import check_learned
from training.provenance import feature_entries, output_entries, provenance
from training.recipe.recipe import Recipe, from_mapping
from training.scoring.baselines import baselines
from training.scoring.comparison import Comparison, compared
from training.scoring.held_out import scored, subject_on
from training.scoring.rolled import rolled
from training.scoring.scores import Scores
from training.table.dataset import load
from training.table.frame import kept_as_file
from training.table.session import Dataset

Folder = Path | str


@dataclass(frozen=True)
class Trained:
    """A trained network, and how it compares on the sessions held out.

    `first` is whether this process is the one to write, where several trained together;
    `comparison` is None in the others.
    """

    recipe: Recipe
    dataset: Dataset
    fitted: Fitted
    comparison: Comparison | None
    seconds: float

    @property
    def advice(self) -> str | None:
        """A sentence where more training would still have helped."""
        return advice(self.fitted.curve, self.recipe.loop.epochs)

    @property
    def first(self) -> bool:
        """Whether this process is the one to export."""
        return self.fitted.first


def recipe_over(settings: Recipe | Mapping[str, Any], frame: Any, runs: Folder) -> Recipe:
    """The recipe, and if there is a `frame` its table: kept as a Parquet file in the run's folder,
    so that a report or another evaluation can read it again.

    Raises:
        TrainingError: a setting does not fit, or the frame is none.
    """
    if frame is None:
        return settings if isinstance(settings, Recipe) else from_mapping(settings)
    given = settings if isinstance(settings, Recipe) else from_mapping(settings)
    file = kept_as_file(frame, Path(runs, given.name))
    source = given.source.model_copy(update={"file": str(file)})
    return given.model_copy(update={"source": source})


def fit(
    recipe: Recipe | Mapping[str, Any],
    frame: Any = None,
    *,
    runs: Folder = "runs",
    minutes: float | None = None,
    resume: bool = False,
    quiet: bool = True,
    tracker: str | None = None,
) -> Trained:
    """Train by a recipe (or a mapping of its settings), and compare with baselines.

    Args:
        frame: a polars or pandas DataFrame in place of the file that the recipe names.
        runs: the folder of checkpoints and logs, one a recipe's name.
        minutes: for which to train, in place of the recipe's `loop.epochs` and `loop.patience`.
        resume: go on from the last checkpoint.
        tracker: "mlflow" or "wandb", whose package is installed; what it needs to know is in its
            own variables.

    Raises:
        TrainingError: what is wrong with the recipe, the table or the run, in a sentence.
    """
    whole = recipe_over(recipe, frame, runs)
    dataset = load(whole)
    if minutes is not None:
        whole = within(minutes, dataset, whole)
    folder = Path(runs, whole.name)
    return fit_dataset(whole, dataset, folder, resume=resume, quiet=quiet, tracker=tracker)


def fit_dataset(
    recipe: Recipe,
    dataset: Dataset,
    folder: Path,
    *,
    resume: bool,
    quiet: bool,
    tracker: str | None = None,
) -> Trained:
    """`fit` of a table that was read."""
    started = time.monotonic()
    fitted = run_loop(dataset, recipe, folder, resume=resume, quiet=quiet, tracker=tracker)
    check_learned(dataset, recipe, fitted)
    seconds = time.monotonic() - started
    comparison = _compared(recipe, dataset, fitted) if fitted.first else None
    return Trained(recipe, dataset, fitted, comparison, seconds)


def _compared(recipe: Recipe, dataset: Dataset, fitted: Fitted) -> Comparison:
    """On a part that was trained on, baselines would tell nothing."""
    part, sessions = dataset.held_out
    outputs = [predict(fitted.network, session.x) for session in sessions]
    weights = plain_weights(dataset, recipe)
    simple = []
    if part != "training":
        simple = baselines(dataset, recipe.baselines, sessions, weights, recipe.loop.threads)
    temperature = fitted.network.temperature
    found = compared(recipe, dataset.target, part, sessions, outputs, simple, temperature, weights)
    return replace(found, rolled=rolled(fitted.network, dataset, sessions))


def export(trained: Trained, folder: Folder | None = None) -> Path:
    """Prove the export on the held-out sessions and write the bundle; returns its folder,
    .../NAME/VERSION: `folder`, or the next free version in models/NAME.

    Raises:
        TrainingError: the folder's name is no version, the network does not export, or an
            implementation differs from another; nothing is written then.
    """
    out = bundle_folder(None if folder is None else Path(folder), trained.recipe.name)
    write(trained, out)
    return out


def write(trained: Trained, out: Path) -> dict[str, float]:
    """Write the bundle; returns the largest differences from the reference."""
    dataset, recipe, fitted = trained.dataset, trained.recipe, trained.fitted
    if trained.comparison is None:
        raise TrainingError("another process of the run has the comparison, and is to export")
    return prove_and_write(
        out,
        fitted.network.network(),
        features=feature_entries(dataset),
        outputs=output_entries(dataset.target),
        sessions=dataset.held_out[1],
        target=dataset.target,
        torch_outputs=partial(predict, fitted.network),
        precision=recipe.export.precision,
        description=recipe.description,
        provenance=provenance(
            dataset,
            recipe,
            trained.comparison,
            fitted.curve,
            trained.seconds,
            None if fitted.beginning is None else fitted.beginning.plain(),
        ),
    )


def evaluate(bundle: Folder, table: Any = None) -> Scores:
    """Figures of a written bundle, stepped by its own graphs, on sessions that it was not trained
    on: those of its own table, or of another one (a file, or a DataFrame).

    Raises:
        TrainingError: it is no bundle that `fit` wrote, the table cannot be read, or nothing of it
            was held out.
    """
    return scored(subject_on(Path(bundle), table))
