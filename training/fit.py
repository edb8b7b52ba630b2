"""Trains the LSTM by truncated back-propagation through time, with its state carried on.

All recordings step side by side. The gradient goes back one window; the state goes on into the
next, so that training sees what serving does: a state that has come a long way.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from training.augment import Augmentation, vary
from training.data import LABELS, Recording
from training.model import StreamingLstm
from training.network import Mirror

# Seen in a mirror, the other arm's watch: left-right acceleration and two of the turns change sign.
MIRROR = Mirror(by=6, flip=(1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0))


@dataclass(frozen=True)
class FitConfig:
    """How to train."""

    hidden: int = 64
    layers: int = 2
    dropout: float = 0.4
    epochs: int = 60
    window: int = 200
    rate: float = 4e-3
    weight_decay: float = 0.02
    smoothing: float = 0.1
    averaging: float = 0.98
    warm_in: int = 100
    seed: int = 1
    augmentation: Augmentation = field(default_factory=Augmentation)


@dataclass(frozen=True)
class Score:
    """Accuracy over recordings, and what was predicted after each one's last sample."""

    per_step: float
    at_end: float
    ends: list[tuple[int, int]]


def fit(recordings: list[Recording], config: FitConfig, *, quiet: bool = False) -> StreamingLstm:
    """Train on all of `recordings`; returns the averaged model, ready to evaluate."""
    torch.set_num_threads(1)  # sums in one order: the seed repeats the result on any machine
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    model = _new_model(recordings, config)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.averaging))  # type: ignore[no-untyped-call]
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.rate, total_steps=config.epochs, pct_start=0.25
    )
    for _ in (bar := tqdm(range(config.epochs), desc="training", unit="epoch", disable=quiet)):
        x, labels, mask = _batch(recordings, config, rng)
        loss = _epoch(model, averaged, optimiser, x, labels, mask, config)
        schedule.step()
        bar.set_postfix(loss=f"{loss:.3f}")
    trained = averaged.module
    assert isinstance(trained, StreamingLstm)
    return trained.eval()


def evaluate(model: StreamingLstm, recordings: list[Recording]) -> Score:
    """Step through whole recordings as they are."""
    right, steps, ends = 0, 0, []
    with torch.no_grad():
        for recording in recordings:
            logits, _ = model(torch.from_numpy(recording.signal)[None])
            guesses = logits[0].argmax(-1)
            right += int((guesses == recording.label).sum())
            steps += len(guesses)
            ends.append((recording.label, int(guesses[-1])))
    at_end = float(np.mean([label == guess for label, guess in ends]))
    return Score(right / steps, at_end, ends)


def _new_model(recordings: list[Recording], config: FitConfig) -> StreamingLstm:
    flip = np.array(MIRROR.flip, np.float32)
    signals = [
        r.signal * (1 - 2 * r.signal[:, MIRROR.by : MIRROR.by + 1] * flip) for r in recordings
    ]
    every = torch.from_numpy(np.concatenate(signals))
    mean, std = every.mean(0), every.std(0)
    mean[MIRROR.by], std[MIRROR.by] = 0.5, 0.5
    return StreamingLstm(
        mean,
        std,
        MIRROR,
        hidden=config.hidden,
        layers=config.layers,
        outputs=len(LABELS),
        dropout=config.dropout,
    )


def _batch(
    recordings: list[Recording], config: FitConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Every recording varied anew: x [B, T, 7], labels [B], weights [B, T] (0 past the end)."""
    signals = [torch.from_numpy(vary(r.signal, config.augmentation, rng)) for r in recordings]
    x = nn.utils.rnn.pad_sequence(signals, batch_first=True)
    lengths = torch.tensor([len(signal) for signal in signals])
    positions = torch.arange(x.shape[1])
    # The first moments say little about the exercise; their loss counts for less.
    weights = (positions + 1).clamp(max=config.warm_in) / config.warm_in
    mask = (positions < lengths[:, None]) * weights
    return x, torch.tensor([r.label for r in recordings]), mask


def _epoch(
    model: StreamingLstm,
    averaged: AveragedModel,
    optimiser: torch.optim.Optimizer,
    x: Tensor,
    labels: Tensor,
    mask: Tensor,
    config: FitConfig,
) -> float:
    model.train()
    state, losses = None, []
    for start in range(0, x.shape[1], config.window):
        part = slice(start, start + config.window)
        logits, state = model(x[:, part], state)
        state = (state[0].detach(), state[1].detach())
        loss = _loss(logits, labels, mask[:, part], config.smoothing)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        averaged.update_parameters(model)
        losses.append(loss.item())
    return float(np.mean(losses))


def _loss(logits: Tensor, labels: Tensor, mask: Tensor, smoothing: float) -> Tensor:
    targets = labels[:, None].expand(mask.shape)
    each = nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="none", label_smoothing=smoothing
    )
    # Divided by the whole width, not by what is left of it: late windows hold few recordings.
    return (each * mask.flatten()).sum() / mask.numel()
