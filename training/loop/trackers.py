"""Where a run is told besides its folder: others' trackers, through Lightning's loggers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from training.errors import TrainingError
from training.recipe.recipe import Recipe, to_mapping

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

Make = Callable[[Recipe, Path], "Logger"]


def _mlflow(recipe: Recipe, folder: Path) -> Logger:
    """At MLFLOW_TRACKING_URI, or else in the run's folder."""
    from lightning.pytorch.loggers import MLFlowLogger  # with torch, which takes seconds

    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / 'mlflow.db').resolve()}"
    return MLFlowLogger(recipe.name, tracking_uri=uri)


def _wandb(recipe: Recipe, folder: Path) -> Logger:
    """As WANDB_MODE, WANDB_API_KEY and others of its variables say."""
    from lightning.pytorch.loggers import WandbLogger

    return WandbLogger(project=recipe.name, save_dir=folder)


TRACKERS: Final[Mapping[str, Make]] = MappingProxyType({"mlflow": _mlflow, "wandb": _wandb})
"""By name; each needs the package of its name."""


def tracker(name: str, recipe: Recipe, folder: Path) -> Logger:
    """What a run is told to, its recipe first.

    Raises:
        TrainingError: there is none of that name, its package is not installed, or it cannot be
            reached.
    """
    make = TRACKERS.get(name)
    if make is None:
        raise TrainingError(f"{name!r} is no tracker; there are {', '.join(TRACKERS)}")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        logger = make(recipe, folder)
        logger.log_hyperparams(to_mapping(recipe))
    except ModuleNotFoundError as error:
        raise TrainingError(f"the tracker {name!r} needs `pip install {name}`") from error
    except Exception as error:  # each has errors of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrainingError(f"the tracker {name!r} cannot be used: {reason}") from error
    return logger
