"""What Lightning drives: losses and metrics of windows, the state carried between them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from training.errors import TrainingError
from training.loop import heads
from training.loop.module import State, StreamingNetwork
from training.loop.windows import Window
from training.recipe.recipe import Loop
from training.table.session import Target


class Learner(pl.LightningModule):
    """Truncated back-propagation through time (Williams & Peng 1990) with the state carried on.

    The gradient goes back one window; the state goes on into the next, so that training sees what
    serving does: a state that has come a long way. `curve` holds a line of figures an epoch.
    """

    def __init__(
        self,
        network: StreamingNetwork,
        target: Target,
        loop: Loop,
        class_weights: Tensor | None,
        focal: float = 0.0,
    ) -> None:
        super().__init__()
        self.network = network
        self._target, self._loop, self._focal = target, loop, focal
        self._class_weights: Tensor | None
        self.register_buffer("_class_weights", class_weights)
        self._carried: State | None = None
        self._sums = torch.zeros(4)
        self.curve: list[dict[str, float]] = []

    def on_train_epoch_start(self) -> None:
        """No state is carried over from the epoch before."""
        self._begin()

    def training_step(self, window: Window, index: int) -> Tensor:
        """The loss of one window, over its whole width: one that holds few sessions weighs less."""
        if index == 0:
            self._draw_anew()
        each = self.losses(window)
        # What is left over of a linear start may be little, and its gradient as little.
        gain = self.network.gain if self._target.quantiles else self.network.gain.square()
        loss = each.sum() / each.numel() / gain.mean()
        self._sums[:2] += torch.stack([each.detach().sum(), window["weight"].sum()]).cpu()
        self.log("loss", loss, prog_bar=True, logger=False)
        return loss

    def losses(self, window: Window) -> Tensor:
        """Weighted losses [B, W] of one window; carries the state on."""
        return self._step(window)[0]

    def on_train_epoch_end(self) -> None:
        """One line of the learning curve; validation has run by now, where there is any."""
        total = self._over_all(self._sums)
        line = {"epoch": float(self.current_epoch), "train_loss": float(total[0] / total[1])}
        if not math.isfinite(line["train_loss"]):
            raise TrainingError(f"loop.rate: the loss of epoch {self.current_epoch} is not finite; "
                                f"try a rate below {self._loop.rate:g}")  # fmt: skip
        for name, value in self.trainer.callback_metrics.items():
            if name.startswith("validation_"):
                line[name] = float(value)
        self.curve.append(line)
        self.log("train_loss", line["train_loss"], prog_bar=False, rank_zero_only=True)

    def on_validation_epoch_start(self) -> None:
        """Validation carries its own state."""
        self._train_sums, self._train_carried = self._sums, self._carried
        self._begin()

    def validation_step(self, window: Window, index: int) -> None:
        """Adds to the sums."""
        self._sums += self._measured(window)

    def on_validation_epoch_end(self) -> None:
        """Loss and accuracy, or root mean square error in the first target's unit."""
        for name, value in self._figures(self._over_all(self._sums)).items():
            self.log(name, value, prog_bar=True, rank_zero_only=True)
        self._sums, self._carried = self._train_sums, self._train_carried

    @torch.no_grad()
    def figures_on(self, windows: Iterable[Window]) -> dict[str, float]:
        """The figures of validation, outside of the loop; no state is left carried."""
        training, total = self.training, torch.zeros(4)
        self.eval()
        self._begin()
        for window in windows:
            total += self._measured(window)
        self._begin()
        self.train(training)
        return {name: float(value) for name, value in self._figures(total).items()}

    def configure_optimizers(self) -> Any:
        """AdamW under a one-cycle rate over all epochs."""
        loop = self._loop
        optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=loop.rate, weight_decay=loop.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, loop.rate, total_steps=loop.epochs + 1, pct_start=0.3
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The curve goes along."""
        checkpoint["curve"] = self.curve

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """And comes back."""
        self.curve = checkpoint["curve"]

    def _draw_anew(self) -> None:
        """Each epoch's chance is its own, so that a run resumed with one goes on the same way."""
        drawn = np.random.SeedSequence([self._loop.seed, len(self.curve), self.global_rank])
        torch.manual_seed(int(drawn.generate_state(1)[0]))

    def _measured(self, window: Window) -> Tensor:
        """Sums of loss, weight, and what is right (classes) or squared errors (values), steps."""
        each, raw = self._step(window)
        known = window["weight"] > 0
        good = self._right(raw, window["y"]) if self._target.classes else self._squares(window, raw)
        figures = [each.sum(), window["weight"].sum(), (good * known).sum(), known.sum().float()]
        return torch.stack(figures).cpu()

    def _figures(self, sums: Tensor) -> dict[str, Tensor]:
        loss, weight, good, count = sums
        metric = good / count if self._target.classes else (good / count).sqrt()
        name = "validation_accuracy" if self._target.classes else "validation_rmse"
        return {"validation_loss": loss / weight, name: metric}

    def _begin(self) -> None:
        self._carried, self._sums = None, torch.zeros(4)

    def _step(self, window: Window) -> tuple[Tensor, Tensor]:
        """Weighted losses [B, W] and the raw outputs [B, W, O]; carries the state on."""
        if self._carried is not None:
            kept = ~window["fresh"][None, :, None]
            self._carried = tuple(state * kept for state in self._carried)
        raw, state = self.network(window["x"], self._carried)
        self._carried = tuple(each.detach() for each in state)
        loss = self._class_loss if self._target.classes else self._value_loss
        return loss(window, raw.float()) * window["weight"], raw

    def _class_loss(self, window: Window, raw: Tensor) -> Tensor:
        labels, weights = window["y"][..., 0].long(), self._class_weights
        each = heads.cross_entropy(
            raw.flatten(0, 1),
            labels.flatten(),
            None if weights is None else weights.float(),
            self._loop.smoothing if self.training else 0.0,
            self._focal,
        )
        return each.view(labels.shape)

    def _value_loss(self, window: Window, raw: Tensor) -> Tensor:
        wanted = (window["y"] - self.network.base(window["x"])) / self.network.scale
        if self._target.quantiles:
            return heads.pinball(raw, wanted, self._target.quantiles)
        return nn.functional.mse_loss(raw, wanted, reduction="none").mean(-1)

    def _right(self, raw: Tensor, y: Tensor) -> Tensor:
        return (raw.argmax(-1) == y[..., 0]).float()

    def _squares(self, window: Window, raw: Tensor) -> Tensor:
        values = self.network.in_units(window["x"], raw.float())
        return (values[..., 0] - window["y"][..., 0]).square()

    def _over_all(self, sums: Tensor) -> Tensor:
        """Summed over all processes."""
        total = self.trainer.strategy.reduce(sums.to(self.device), reduce_op="sum")
        return torch.as_tensor(total).cpu()
