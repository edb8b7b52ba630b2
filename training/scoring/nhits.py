"""A baseline that others published: NHITS (Challu et al. 2023), as the library neuralforecast has
it, which nothing else here needs.

It is trained on the training part's sessions, each a series. Every step to be predicted is a
series of its own, of that step and the `lags` before it: so it sees what the others on lags see,
nothing later, of a session of any length.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from training.network import Floats
from training.scoring.lags import Lags
from training.scoring.learned import parts
from training.table.session import Dataset, Session

Doubles = NDArray[np.float64]
LIBRARY = "neuralforecast"
PIECE = 500
"""Windows of a series."""
LOGGERS = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric")
"""Lightning's, of both names that it has: the one that was imported last is told of all."""


def missing() -> str:
    """Why there can be none here; nothing where there can."""
    if find_spec(LIBRARY) is None:
        return f"{LIBRARY} is not installed"
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return "it is trained by one process"
    return ""


def predicted(
    dataset: Dataset, lags: Lags, columns: Sequence[int], sessions: Sequence[Session], steps: int
) -> list[Floats]:
    """What it predicts at each step of `sessions`, [T, K], trained for so many steps on the
    training part; value k is the feature of column `columns[k]`, a number.

    Raises:
        ValueError: what it predicts is not finite.
    """
    horizons = dataset.target.horizons
    numbers = [k for k, feature in enumerate(dataset.features) if not feature.labels]
    made = dict[int, Doubles]()
    with _quiet():
        for column in set(columns):
            ahead = max(h for h, each in zip(horizons, columns, strict=True) if each == column)
            model = _trained(dataset, lags, numbers.index(column), ahead, steps)
            found = _ahead(model, lags, numbers.index(column), ahead, sessions)
            made[column] = found * lags.std[column] + lags.mean[column]
    every = [made[column][:, h - 1] for h, column in zip(horizons, columns, strict=True)]
    outputs = np.stack(every, axis=1).astype(np.float32)
    if not np.isfinite(outputs).all():
        raise ValueError("what it predicts is not finite")
    return np.split(outputs, np.cumsum([len(session) for session in sessions])[:-1])


def _trained(dataset: Dataset, lags: Lags, value: int, ahead: int, steps: int) -> Any:
    """Settings are the library's own but for the loss, which is the error that it is judged by."""
    from neuralforecast import NeuralForecast
    from neuralforecast.losses.pytorch import MSE
    from neuralforecast.models import NHITS

    others = [f"x{k}" for k in range(lags.width) if k != value]
    model = NHITS(
        h=ahead, input_size=lags.count + 1, hist_exog_list=others, loss=MSE(), max_steps=steps,
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    whole = NeuralForecast(models=[model], freq=1)
    series = [piece for each in dataset.train for piece in _pieces(lags, each, ahead)]
    whole.fit(_frame(series, value))
    return whole


def _pieces(lags: Lags, session: Session, ahead: int) -> Iterator[Doubles]:
    """[T, W] each, with all windows of a session between them: the library copies all windows of
    whole series to draw some. Before the first step is that step, as for all on lags."""
    seen = lags.scaled(session)[:, : lags.width]
    begun = np.concatenate([np.repeat(seen[:1], lags.count, axis=0), seen])
    for start in range(0, len(seen) - ahead, PIECE):
        yield begun[start : start + lags.count + PIECE + ahead]


def _ahead(model: Any, lags: Lags, value: int, ahead: int, sessions: Sequence[Session]) -> Doubles:
    """[steps of all sessions, ahead], scaled."""
    made = list[Doubles]()
    for part in parts(sessions):
        seen = np.concatenate([lags.scaled(session) for session in part])
        series = list(seen.reshape(-1, lags.count + 1, lags.width)[:, ::-1])
        told = model.predict(_frame(series, value)).sort("unique_id", "ds")
        made.append(told["NHITS"].to_numpy().reshape(len(series), ahead).astype(np.float64))
    return np.concatenate(made)


def _frame(series: Sequence[Doubles], value: int) -> pl.DataFrame:
    """Rows of series [T, W], as the library takes them."""
    lengths = [len(each) for each in series]
    rows = np.concatenate(series).astype(np.float32)
    others = {f"x{k}": rows[:, k] for k in range(rows.shape[1]) if k != value}
    return pl.DataFrame({
        "unique_id": np.repeat(np.arange(len(series)), lengths),
        "ds": np.concatenate([np.arange(length) for length in lengths]),
        "y": rows[:, value],
        **others,
    })  # fmt: skip


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the library warns of and logs, and with chance as it was after it."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        import_module(LIBRARY)  # which sets its loggers' levels
        loggers = [logging.getLogger(name) for name in LOGGERS]
        levels = [each.level for each in loggers]
        for each in loggers:
            each.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)
