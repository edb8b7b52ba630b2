"""The linear path in torch: what is linear in the last steps, beside the layers; not trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.network import FAR
from training.table.session import Feature


class LagPath(nn.Module):
    """What `training.network.Linear` says, w [O, (lags + 1) W] and b [O]: zeros, until `begin`.

    It stays as it was fitted: what training does can only be added to it. In single precision
    whatever the layers are trained in, for it says most of what there is to say.
    """

    w: Tensor
    b: Tensor

    def __init__(self, features: Sequence[Feature], lags: int, outputs: int) -> None:
        super().__init__()
        self.lags = lags
        self._numbers = [k for k, feature in enumerate(features) if not feature.labels]
        self._labels = [(k, len(each.labels)) for k, each in enumerate(features) if each.labels]
        self._gaps = any(features[k].missing for k in self._numbers)
        self._width = len(self._numbers) + sum(count for _, count in self._labels)
        self.register_buffer("w", torch.zeros(outputs, (lags + 1) * self._width))
        self.register_buffer("b", torch.zeros(outputs))

    @torch.no_grad()
    def forward(self, x: Tensor, scaled: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """What is said at each step [B, T, O] of raw features and normalised ones [B, T, F].

        The state [1, B, lags W + 1] is the lags, the oldest first, and a 1: zeros before the first
        step of a session.
        """
        if state is None:
            state = x.new_zeros(1, len(x), self.lags * self._width + 1)
        with torch.autocast(x.device.type, enabled=False):
            lags = state[0, :, :-1].reshape(len(x), self.lags, self._width)
            seen = self._seen(x, scaled, lags[:, -1])
            begun = state[0, :, -1:, None] > 0
            steps = torch.cat([torch.where(begun, lags, seen[:, :1]), seen], dim=1)
            windows = steps.unfold(1, self.lags + 1, 1).transpose(2, 3).flatten(2)
            said = windows @ self.w.T + self.b
        after = steps[:, -self.lags :].flatten(1)
        return said, torch.cat([after, torch.ones_like(after[:, :1])], dim=1)[None]

    def _seen(self, x: Tensor, scaled: Tensor, last: Tensor) -> Tensor:
        """[B, T, W] of each step; `last` [B, W] is what was seen before."""
        numbers = scaled[..., self._numbers].clamp(-FAR, FAR)
        if self._gaps:
            numbers = _filled(numbers, last[:, : len(self._numbers)])
        ones = [x[..., k, None].round() == torch.arange(count, device=x.device)
                for k, count in self._labels]  # fmt: skip
        return torch.cat([numbers, *(each.to(numbers.dtype) for each in ones)], dim=-1)


def _filled(values: Tensor, before: Tensor) -> Tensor:
    """values [B, T, N] with the last one known where one is NaN, `before` [B, N] there is any."""
    steps = torch.arange(values.shape[1], device=values.device)[None, :, None]
    last = torch.where(values.isnan(), -1, steps).cummax(dim=1).values
    found = values.gather(1, last.clamp(min=0))
    return torch.where(last < 0, before[:, None], found)
