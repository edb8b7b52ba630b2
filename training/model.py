"""The LSTM in torch, with the same normalisation and mirroring that the graphs carry."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from training.network import Layer, Mirror, Network

State = tuple[Tensor, Tensor]


class StreamingLstm(nn.Module):
    """x [B, T, I] and a state -> logits [B, T, O] and the state after the last step."""

    mean: Tensor
    std: Tensor
    flip: Tensor

    def __init__(
        self,
        mean: Tensor,
        std: Tensor,
        mirror: Mirror,
        *,
        hidden: int,
        layers: int,
        outputs: int,
        dropout: float = 0.0,
        clip: float = 10.0,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.register_buffer("flip", torch.from_numpy(np.array(mirror.flip, np.float32)))
        self._mirror, self._clip = mirror, clip
        self.lstm = nn.LSTM(
            len(mean), hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, outputs)
        self._open_forget_gates(hidden)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Step through `x`, from zeros where no state is given."""
        by = self._mirror.by
        x = x * (1.0 - 2.0 * x[..., by : by + 1] * self.flip)
        x = ((x - self.mean) / self.std).clamp(-self._clip, self._clip)
        hidden, state = self.lstm(x, state)
        return self.head(self.dropout(hidden)), state

    def weights(self) -> Network:
        """The trained parameters as plain arrays, probabilities out."""
        return Network(
            mean=_array(self.mean),
            std=_array(self.std),
            clip=self._clip,
            layers=tuple(self._layer(k) for k in range(self.lstm.num_layers)),
            head_w=_array(self.head.weight),
            head_b=_array(self.head.bias),
            softmax=True,
            mirror=self._mirror,
        )

    def _layer(self, k: int) -> Layer:
        named = dict(self.lstm.named_parameters())
        bias = named[f"bias_ih_l{k}"] + named[f"bias_hh_l{k}"]
        return Layer(
            _array(named[f"weight_ih_l{k}"]), _array(named[f"weight_hh_l{k}"]), _array(bias)
        )

    def _open_forget_gates(self, hidden: int) -> None:
        """Forget gates start open (Jozefowicz et al. 2015), so that early training remembers."""
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("bias_ih"):
                parameter.data[hidden : 2 * hidden] += 1.0


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(np.float32).copy()
