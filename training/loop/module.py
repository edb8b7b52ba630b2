"""The network in torch, with all that its graphs carry: what the loop trains."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.errors import TrainingError
from training.loop import heads
from training.loop.begin import Start
from training.loop.lags import LagPath
from training.network import EPSILON, Embedding, Fan, Floats, Layer, Linear, Mirror, Network
from training.recipe.recipe import NetworkShape
from training.table.session import Feature, Statistics, Target

State = tuple[Tensor, ...]
"""One entry a layer, in torch's shapes [1, B, width]: h, or for an lstm h and c one behind the
other along the last axis; then one of the linear path, if there is one."""

KINDS: dict[str, type[nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class StreamingNetwork(nn.Module):
    """x [B, T, F] of raw features and a state -> [B, T, O] and the state after the last step.

    What comes out is logits for classes; for values (or quantiles of them) the standardised
    distance from their base (see `base`), so that errors of all outputs weigh alike. With a
    `start` it is what a linear path says of the last steps, and the head adds to that, at first
    nothing: in units of what is left over, `gain` [V], which may be far less than the deviation.
    """

    mean: Tensor
    std: Tensor
    shift: Tensor
    scale: Tensor
    flip: Tensor
    gain: Tensor

    def __init__(
        self,
        features: Sequence[Feature],
        target: Target,
        shape: NetworkShape,
        statistics: Statistics,
        embeddings: Sequence[int],
        start: Start | None = None,
    ) -> None:
        super().__init__()
        self._target, self._shape = target, shape
        self._mirror = mirror_of(shape, features)
        for name in ("mean", "std", "shift", "scale"):
            self.register_buffer(name, torch.from_numpy(getattr(statistics, name).copy()))
        flip = self._mirror.flip if self._mirror else (0.0,) * len(features)
        self.register_buffer("flip", torch.tensor(flip))
        self._categories = [k for k, feature in enumerate(features) if feature.labels]
        self._numbers = [k for k, feature in enumerate(features) if not feature.labels]
        self._missing = [k for k in self._numbers if features[k].missing]
        self.embeddings = nn.ModuleList(
            nn.Embedding(len(features[k].labels) + 1, embeddings[k]) for k in self._categories
        )
        width = len(self._numbers) + len(self._missing)
        width += sum(embeddings[k] for k in self._categories)
        self.layers = nn.ModuleList(_layers(shape, width))
        out = shape.projection or shape.hidden
        normed = shape.layers if shape.norm else 0
        self.norms = nn.ModuleList(nn.LayerNorm(out, eps=EPSILON) for _ in range(normed))
        self.dropout = nn.Dropout(shape.dropout)
        self.head = nn.Linear(out, target.outputs)
        self.temperature = 1.0
        if target.quantiles:
            heads.begin_as_normal(self.head, target.quantiles)
        self.register_buffer("gain", torch.ones(len(statistics.scale)))
        self.linear = None if start is None else self._begin(features, start)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Step through `x`, from zeros where no state is given."""
        scaled = self._scaled(x)
        signal, after = self._encode(x, scaled), []
        for k, layer in enumerate(self.layers):
            given = signal if k == 0 else self.dropout(signal)
            signal, new = layer(given, None if state is None else self._unpack(state[k]))
            after.append(torch.cat(new, dim=-1) if isinstance(new, tuple) else new)
            if self._shape.norm:
                signal = self.norms[k](signal)
            if self._residual(k):
                signal = signal + given
        raw: Tensor = self.head(self.dropout(signal))
        if self._target.quantiles:
            raw = heads.open_fan(raw, self._target.quantiles)
        if self.linear is None:
            return raw, tuple(after)
        said, lags = self.linear(x, scaled, None if state is None else state[-1])
        fans = raw.shape[-1] // said.shape[-1]  # of each value all quantiles are about what is said
        return said.repeat(1, 1, fans) + self.gain.repeat(fans) * raw, (*after, lags)

    def base(self, x: Tensor) -> Tensor:
        """What values add to, [B, T, V] or [V]: the shift, with `add` the features now, if no
        linear path says those."""
        if self._target.add is None or self.linear is not None:
            return self.shift
        columns = list(self._target.add)
        now = x[..., columns]
        return self.shift + torch.where(now.isnan(), self.mean[columns], now)

    def predict(self, x: Tensor) -> Tensor:
        """What the graphs put out, from a fresh state: probabilities, or values in their units."""
        raw, _ = self(x)
        if self._target.classes:
            return torch.softmax(raw / self.temperature, -1)
        return self.in_units(x, raw)

    def in_units(self, x: Tensor, raw: Tensor) -> Tensor:
        """Values, or all their quantiles, [B, T, O], of what comes out."""
        if not self._target.quantiles:
            return self.base(x) + self.scale * raw
        apart = heads.by_level(raw, self._target.quantiles)
        fans: Tensor = self.base(x).unsqueeze(-2) + self.scale * apart
        return fans.flatten(-2)

    def network(self) -> Network:
        """The trained parameters as plain arrays."""
        scale, shift = self._of_scores()
        bias, linear = _array(self.head.bias) * scale + shift, None
        if self.linear is not None:
            own, more = _array(self.scale), len(scale) - len(self.scale)
            w, b = _array(self.linear.w) * own[:, None], _array(self.linear.b) * own
            linear = Linear(np.pad(w, ((0, more), (0, 0))), self.linear.lags)
            bias = bias + np.pad(b, (0, more))
        return Network(
            mean=_array(self.mean),
            std=_array(self.std),
            clip=self._shape.clip,
            layers=tuple(self._plain(k) for k in range(len(self.layers))),
            head_w=_array(self.head.weight) * scale[:, None],
            head_b=bias,
            softmax=self._target.classes,
            mirror=self._mirror,
            embeddings=tuple(
                Embedding(k, _array(table.weight))
                for k, table in zip(self._categories, self._tables(), strict=True)
            ),
            missing=tuple(self._missing),
            add=self._target.add if linear is None else None,
            temperature=self.temperature,
            fan=self._fan(),
            linear=linear,
        )

    def _fan(self) -> Fan | None:
        levels = self._target.quantiles
        return Fan(levels, _array(self.scale * self.gain)) if len(levels) > 1 else None

    def _of_scores(self) -> tuple[Floats, Floats]:
        """The scale and shift [O] of each score; gaps of a fan have theirs outside of softplus."""
        scale, shift = _array(self.scale * self.gain), _array(self.shift)
        gaps = np.ones(self._target.outputs - len(scale), np.float32)
        return np.append(scale, gaps), np.append(shift, 0 * gaps)

    def _begin(self, features: Sequence[Feature], start: Start) -> LagPath:
        """The linear path, in the standardised units that come out."""
        path = LagPath(features, start.lags, len(self.scale))
        w, b, error = (torch.from_numpy(each) for each in (start.w, start.b, start.error))
        path.w.copy_(w / self.scale[:, None])
        path.b.copy_((b - self.shift) / self.scale)
        self.gain.copy_(error / self.scale)
        nn.init.zeros_(self.head.weight)
        self.head.bias.data[: len(self.scale)] = 0.0  # gaps of a fan begin as they do
        return path

    def _tables(self) -> list[nn.Embedding]:
        return [table for table in self.embeddings if isinstance(table, nn.Embedding)]

    def _encode(self, x: Tensor, scaled: Tensor) -> Tensor:
        clipped = scaled.clamp(-self._shape.clip, self._shape.clip)
        parts = [torch.where(scaled.isnan(), 0.0, clipped)[..., self._numbers]]
        if self._missing:
            parts.append(x[..., self._missing].isnan().to(x.dtype))
        for k, table in zip(self._categories, self._tables(), strict=True):
            index = x[..., k].round()
            unknown = table.num_embeddings - 1
            known = (index >= 0) & (index < unknown)
            parts.append(table(torch.where(known, index, unknown).long()))
        return torch.cat(parts, dim=-1)

    def _scaled(self, x: Tensor) -> Tensor:
        """All features after the mirror, normalised; NaN where missing."""
        if self._mirror is not None:
            by = self._mirror.by
            x = x * (1.0 - 2.0 * x[..., by : by + 1] * self.flip)
        return (x - self.mean) / self.std

    def _residual(self, k: int) -> bool:
        return self._shape.residual and k > 0

    def _unpack(self, state: Tensor) -> Any:
        if self._shape.cell != "lstm":
            return state
        width = self._shape.projection or self._shape.hidden
        return state[..., :width].contiguous(), state[..., width:].contiguous()

    def _plain(self, k: int) -> Layer:
        named = {name: _array(each) for name, each in self.layers[k].named_parameters()}
        gru = self._shape.cell == "gru"
        return Layer(
            w=named["weight_ih_l0"],
            r=named["weight_hh_l0"],
            b=named["bias_ih_l0"] if gru else named["bias_ih_l0"] + named["bias_hh_l0"],
            cell=self._shape.cell,
            rb=named["bias_hh_l0"] if gru else None,
            project=named.get("weight_hr_l0"),
            gain=_array(self.norms[k].get_parameter("weight")) if self._shape.norm else None,
            shift=_array(self.norms[k].get_parameter("bias")) if self._shape.norm else None,
            residual=self._residual(k),
        )


def mirror_of(shape: NetworkShape, features: Sequence[Feature]) -> Mirror | None:
    """The recipe's mirror by the features' places.

    Raises:
        TrainingError: it names a feature that is none.
    """
    if shape.mirror is None:
        return None
    names = [feature.name for feature in features]
    for name in (shape.mirror.by, *shape.mirror.flip):
        if name not in names:
            raise TrainingError(f"network.mirror: {name!r} is no feature")
    flip = tuple(float(name in shape.mirror.flip) for name in names)
    return Mirror(names.index(shape.mirror.by), flip)


def _layers(shape: NetworkShape, width: int) -> list[nn.RNNBase]:
    layers = []
    if shape.projection:  # torch says at the first step that its faster kernels have none
        warnings.filterwarnings("ignore", message="LSTM with projections is not supported")
    for k in range(shape.layers):
        inputs = width if k == 0 else shape.projection or shape.hidden
        more = {"proj_size": shape.projection} if shape.projection else {}
        layer = KINDS[shape.cell](inputs, shape.hidden, batch_first=True, **more)  # type: ignore[arg-type]
        if shape.cell == "lstm":
            # Forget gates start open (Jozefowicz et al. 2015), so that early training remembers.
            bias = layer.get_parameter("bias_ih_l0")
            bias.data[shape.hidden : 2 * shape.hidden] += 1.0
        layers.append(layer)
    return layers


def _array(tensor: Tensor) -> Floats:
    return tensor.detach().cpu().numpy().astype(np.float32).copy()
