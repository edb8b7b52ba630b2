"""Runs the loop: Lightning steps the learner over windows, keeps checkpoints and logs, and stops.

All lies in the run's folder: last.ckpt and best.ckpt, and each attempt's CSV and TensorBoard logs.
"""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from filelock import FileLock, Timeout
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from numpy.typing import NDArray
from torch import Tensor

from training.errors import TrainingError
from training.loop.begin import Start, fitted
from training.loop.data import SessionData
from training.loop.learner import Learner
from training.loop.module import StreamingNetwork, mirror_of
from training.loop.temperature import calibrate
from training.loop.trackers import tracker as track
from training.loop.windows import Windows, lanes_of, lay
from training.recipe.recipe import Recipe, to_mapping
from training.table.session import Dataset, measure

log = logging.getLogger(__name__)
FULL = "32-true"


@dataclass(frozen=True)
class Beginning:
    """The linear model that training began with: its lags, how strongly it was held back, its
    figures on the validation part, if there is one, and whether no epoch was better."""

    lags: int
    strength: float
    figures: dict[str, float]
    kept: bool

    def plain(self) -> dict[str, Any]:
        """For the manifest."""
        told = {"lags": self.lags, "strength": self.strength, "kept": self.kept}
        return {**told, **self.figures}


@dataclass(frozen=True)
class Fitted:
    """A trained network in torch, its learning curve, whether this process is the first, and what
    it began with, where that was a linear model."""

    network: StreamingNetwork
    curve: list[dict[str, float]]
    first: bool
    beginning: Beginning | None = None


def fit(
    dataset: Dataset,
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    quiet: bool = False,
    tracker: str | None = None,
    watch: Callback | None = None,
) -> Fitted:
    """Train on the training part; the best epoch by validation loss, or else the last, is kept.

    Epoch zero, the linear model that it begins with, is one of those.

    Args:
        tracker: whom the run is told to besides (see `trackers`).
        watch: is called back too.

    Raises:
        TrainingError: the tracker cannot be used; `resume` without a checkpoint, or with one of
            another recipe; Lightning cannot have the devices, strategy or precision asked for; the
            processor cannot compute in the precision; another run writes to `folder`; or the loss
            diverges.
    """
    torch.set_num_threads(recipe.loop.threads)  # sums in one order: a seed repeats the result
    pl.seed_everything(recipe.loop.seed, verbose=False)
    start = linear_start(dataset, recipe)
    learner = new_learner(dataset, recipe, start)
    zero = {} if start is None else _figures(learner, dataset, recipe)
    before = {name: each.clone() for name, each in learner.state_dict().items()}
    checkpoint = _checkpoint(folder, recipe) if resume else None
    with warnings.catch_warnings():
        _silence()
        trainer = _trainer(dataset, recipe, folder, quiet)
        if tracker is not None:
            trainer.loggers = [*trainer.loggers, track(tracker, recipe, folder)]
        if watch is not None:
            trainer.callbacks.append(watch)  # type: ignore[attr-defined]
        _try_precision(trainer, learner, dataset, recipe)
        data = SessionData(dataset, recipe, lambda: len(learner.curve))
        with _alone(folder) if trainer.is_global_zero else nullcontext():
            trainer.fit(learner, data, ckpt_path=checkpoint)
            kept = _take_best(trainer, learner, before, zero.get("validation_loss"))
    beginning = None if start is None else Beginning(start.lags, start.strength, zero, kept)
    network = learner.network.eval().cpu().float()
    calibrate(network, dataset, recipe)
    return Fitted(network, learner.curve, trainer.is_global_zero, beginning)


def new_network(dataset: Dataset, recipe: Recipe, start: Start | None = None) -> StreamingNetwork:
    """The network before training, on a linear `start` if there is one."""
    mirror = mirror_of(recipe.network, dataset.features)
    statistics = measure(dataset.train, dataset.features, dataset.target, mirror)
    embeddings = [column.embedding for column in recipe.features.values()]
    try:
        return StreamingNetwork(
            dataset.features, dataset.target, recipe.network, statistics, embeddings, start
        )
    except RuntimeError as error:  # of torch, where memory is short; what it says is of C++
        raise TrainingError(f"network: {recipe.network.hidden:,} units in {recipe.network.layers} "
                            f"layers cannot be had: {_reason(error)}") from error  # fmt: skip


def linear_start(dataset: Dataset, recipe: Recipe) -> Start | None:
    """The linear model that the network adds to; None where the recipe wants none, or there is
    none to be had."""
    mirror = mirror_of(recipe.network, dataset.features)
    statistics = measure(dataset.train, dataset.features, dataset.target, mirror)
    return fitted(dataset, recipe, statistics, mirror, plain_weights(dataset, recipe))


def new_learner(dataset: Dataset, recipe: Recipe, start: Start | None = None) -> Learner:
    """What Lightning drives, before training."""
    network = new_network(dataset, recipe, start)
    weights, focal = class_weights(dataset, recipe), recipe.target.focal or 0.0
    return Learner(network, dataset.target, recipe.loop, weights, focal)


def _figures(learner: Learner, dataset: Dataset, recipe: Recipe) -> dict[str, float]:
    """Of the learner as it is, on the validation part; none where there is no such part."""
    if not dataset.validation:
        return {}
    count = lanes_of(recipe.loop.batch, dataset.validation, recipe.loop.window)
    windows = Windows(lay(dataset.validation, count, recipe.loop.window))
    return learner.figures_on(windows[k] for k in range(len(windows)))


def class_weights(dataset: Dataset, recipe: Recipe) -> torch.Tensor | None:
    """The weight of each class, or None where all weigh alike.

    Raises:
        TrainingError: a weight is given for a label that is none.
    """
    given, labels = recipe.target.weights, dataset.target.labels
    if given == "equal" or not labels:
        return None
    if isinstance(given, dict):
        for name in given:
            if name not in labels:
                raise TrainingError(f"target.weights: {name!r} is no label; there are {labels}")
        return torch.tensor([float(given.get(label, 1.0)) for label in labels])
    y = np.concatenate([session.y[:, 0] for session in dataset.train])
    counts = np.bincount(y[~np.isnan(y)].astype(int), minlength=len(labels))
    return torch.tensor(counts.sum() / (len(labels) * np.maximum(counts, 1)), dtype=torch.float32)


def plain_weights(dataset: Dataset, recipe: Recipe) -> NDArray[np.float64] | None:
    """`class_weights` as those take them who are no network."""
    weights = class_weights(dataset, recipe)
    return None if weights is None else weights.double().numpy()


def _trainer(dataset: Dataset, recipe: Recipe, folder: Path, quiet: bool) -> pl.Trainer:
    loop = recipe.loop
    if quiet:
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    try:
        return pl.Trainer(
            default_root_dir=folder,
            max_epochs=loop.epochs,
            accelerator=loop.accelerator,
            devices=loop.devices,
            num_nodes=loop.machines,
            strategy=loop.strategy,
            precision=loop.precision,  # type: ignore[arg-type]
            gradient_clip_val=loop.clip_gradient,
            callbacks=_callbacks(dataset, recipe, folder, quiet),
            logger=[
                CSVLogger(folder, name="csv"),
                TensorBoardLogger(folder, name="tensorboard"),
            ],
            enable_progress_bar=not quiet,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False,
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        raise TrainingError(f"loop: {str(error).splitlines()[0]}") from error


def _try_precision(trainer: pl.Trainer, learner: Learner, dataset: Dataset, recipe: Recipe) -> None:
    """Two windows of a session forth and back, by a copy of the learner, where the run will be.

    Not every processor has every precision, and torch says so at the first step alone: by then a
    run has begun. Full precision runs everywhere and needs no trial. The numbers drawn here do not
    show later: each epoch draws from a seed of its own.
    """
    plugin, device = trainer.precision_plugin, trainer.strategy.root_device
    if plugin.precision == FULL:
        return
    windows = Windows(lay([dataset.train[0].part(0, 4)], batch=1, window=2))
    try:
        trial = copy.deepcopy(learner)
        plugin.convert_module(trial).to(device)
        for k in range(len(windows)):
            given = move_data_to_device(plugin.convert_input(windows[k]), device)
            with plugin.forward_context():
                loss = trial.losses(given).sum()
            torch.autograd.backward(loss)
    except (RuntimeError, TypeError, ValueError) as error:
        raise TrainingError(
            f"loop.precision: a network of cell {recipe.network.cell} cannot be trained in "
            f"{recipe.loop.precision!r} on {device}: {_reason(error)}; use {FULL!r}, which runs "
            "everywhere"
        ) from error


def _reason(error: Exception) -> str:
    """What torch says first, without its advice on what to run again."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return first.split(". ")[0].rstrip(".")


def _callbacks(dataset: Dataset, recipe: Recipe, folder: Path, quiet: bool) -> list[Callback]:
    loop, validated = recipe.loop, bool(dataset.validation)
    callbacks: list[Callback] = [] if quiet else [TQDMProgressBar()]
    if loop.averaging:
        callbacks.append(EMAWeightAveraging(decay=loop.averaging, use_buffers=False))
    if loop.patience and validated:
        callbacks.append(EarlyStopping("validation_loss", patience=loop.patience))
    if validated:
        callbacks.append(
            ModelCheckpoint(folder, "best", "validation_loss", enable_version_counter=False)
        )
    last = ModelCheckpoint(folder, "last", enable_version_counter=False)
    return [*callbacks, last, _Remember(recipe)]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two runs in one folder would each take the other's checkpoints for their own."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "run.lock", timeout=0):
            yield
    except Timeout:
        text = f"another run trains in {folder}; give this one another place (--runs)"
        raise TrainingError(text) from None


class _Remember(Callback):
    """Keeps the recipe in each checkpoint, so that nobody resumes another one."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = to_mapping(recipe)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["recipe"] = self._recipe


def _checkpoint(folder: Path, recipe: Recipe) -> str:
    path = folder / "last.ckpt"
    if not path.is_file():
        raise TrainingError(f"nothing to resume: there is no {path}")
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what unpickling rubbish raises may be anything
        reason = str(error).split("\n")[0]
        raise TrainingError(f"{path} is no checkpoint: {reason}") from None
    if kept.get("recipe") != to_mapping(recipe):
        raise TrainingError(f"{path} is of another recipe; it cannot be resumed with this one")
    return str(path)


def _take_best(
    trainer: pl.Trainer, learner: Learner, before: dict[str, Tensor], loss: float | None
) -> bool:
    """The best epoch's weights, where a validation part says which that is; or those `before`, of
    that `loss`, if none was lower. Returns whether it is the latter."""
    keepers = [each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)]
    best = [each for each in keepers if each.monitor]
    if best and os.path.exists(best[0].best_model_path):  # noqa: PTH110
        score = best[0].best_model_score
        if loss is not None and score is not None and loss <= float(score):
            learner.load_state_dict(before)
            return True
        kept = torch.load(best[0].best_model_path, map_location="cpu", weights_only=True)
        learner.load_state_dict(kept["state_dict"])
    return False


def _silence() -> None:
    """Lightning's advice about workers and logging does not fit windows made in memory."""
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*isinstance.*LeafSpec.*")
