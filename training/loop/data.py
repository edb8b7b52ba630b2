"""Gives Lightning each epoch's windows: sessions varied and shuffled anew, shared by processes.

The variety is for motion sensors: worn askew, faster or larger movements, a later start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import lightning.pytorch as pl
import numpy as np
from torch.utils.data import DataLoader

from training.errors import TrainingError
from training.loop.windows import Window, Windows, lanes_of, lay, share
from training.network import Floats
from training.recipe.recipe import Recipe, Variation
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
        count = lanes_of(self._loop.batch, self._dataset.train, self._loop.window)
        lanes = lay(sessions, count, self._loop.window, warm_in)
        mine = share(lanes, self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(Windows(mine), batch_size=None, shuffle=False)


@dataclass(frozen=True)
class Varier:
    """A `Variation` whose features are places."""

    how: Variation
    triples: tuple[tuple[int, ...], ...]
    rates: tuple[int, ...]

    @property
    def active(self) -> bool:
        """Whether it does anything at all."""
        how = self.how
        return any((how.rotation_degrees, how.scale, how.speed, how.noise, how.late_start))

    def vary(self, session: Session, rng: np.random.Generator) -> Session:
        """A variation of a session: x and y alike are cut and warped in time, x is turned."""
        how = self.how
        start = int(rng.uniform(0, how.late_start) * len(session))
        speed = rng.uniform(1 - how.speed, 1 + how.speed)
        at = np.arange(start, len(session) - 1, speed)
        near = np.round(at).astype(int)
        x = self._turned(self._warped(session.x, at, speed), rng)
        return Session(session.name, session.group, x, session.y[near], session.order[near])

    def _warped(self, x: Floats, at: np.ndarray, speed: float) -> Floats:
        """Played `speed` times as fast; rates grow with it."""
        low = at.astype(int)
        part = (at - low)[:, None]
        warped = x[low] * (1 - part) + x[low + 1] * part
        warped[:, list(self.rates)] *= speed
        return np.asarray(warped, dtype=np.float32)

    def _turned(self, x: Floats, rng: np.random.Generator) -> Floats:
        how, varied = self.how, x.copy()
        angle = np.deg2rad(rng.normal() * how.rotation_degrees)
        turn = rotation(rng.normal(size=3), angle)
        for triple in self.triples:
            varied[:, triple] = x[:, triple] @ turn.T
        varied[:, list(self.rates)] *= rng.uniform(1 - how.scale, 1 + how.scale)
        moving = sorted({axis for triple in self.triples for axis in triple})
        varied[:, moving] += rng.normal(0, how.noise, (len(x), len(moving)))
        return varied


def varier(how: Variation, names: Sequence[str]) -> Varier:
    """The variation over the features of these names.

    Raises:
        TrainingError: it names a feature that is none.
    """
    for name in [*sum(how.rotate, ()), *how.rates]:
        if name not in names:
            raise TrainingError(f"variation: {name!r} is no feature")
    places = {name: k for k, name in enumerate(names)}
    triples = tuple(tuple(places[name] for name in triple) for triple in how.rotate)
    return Varier(how, triples, tuple(places[name] for name in how.rates))


def rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """The matrix of a turn about an axis (Rodrigues)."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn: np.ndarray = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return turn
