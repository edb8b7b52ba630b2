"""Gives Lightning each epoch's windows: sessions varied and shuffled anew, shared by processes."""

from __future__ import annotations

from collections.abc import Callable

import lightning.pytorch as pl
import numpy as np
from torch.utils.data import DataLoader

from training.loop.variation import varier
from training.loop.windows import Window, Windows, lay, share
from training.recipe.recipe import Recipe
from training.table.session import Dataset, Session


class SessionData(pl.LightningDataModule):
    """Windows of the training and validation part; an epoch's are a function of seed and epoch.

    `epoch` tells how many are done: where a run resumes, Lightning asks for the first windows while
    its own count is still one behind.
    """

    def __init__(self, dataset: Dataset, recipe: Recipe, epoch: Callable[[], int]) -> None:
        super().__init__()
        self._epoch = epoch
        self._dataset, self._loop = dataset, recipe.loop
        self._varier = varier(recipe.variation, [feature.name for feature in dataset.features])

    def train_dataloader(self) -> DataLoader[Window]:
        """This epoch's windows."""
        rng = np.random.default_rng([self._loop.seed, self._epoch()])
        train = self._dataset.train
        chosen = [self._varied(train[k], rng) for k in rng.permutation(len(train))]
        return self._loader(chosen, self._loop.warm_in)

    def val_dataloader(self) -> DataLoader[Window] | list[DataLoader[Window]]:
        """The validation part as it is."""
        if not self._dataset.validation:
            return []
        return self._loader(list(self._dataset.validation), 0)

    def _varied(self, session: Session, rng: np.random.Generator) -> Session:
        return self._varier.vary(session, rng) if self._varier.active else session

    def _loader(self, sessions: list[Session], warm_in: int) -> DataLoader[Window]:
        assert self.trainer is not None
        lanes = lay(sessions, self._loop.batch, self._loop.window, warm_in)
        mine = share(lanes, self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(Windows(mine), batch_size=None, shuffle=False)
