"""The learning curves: loss and validation figure of each epoch, and which epoch was kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from training.insight.drawing import BLUE, GREY, ORANGE, axes, name
from training.insight.picture import Picture, picture

Curve = Sequence[Mapping[str, float]]
LOSSES = {"train_loss": ("training", BLUE), "validation_loss": ("validation", ORANGE)}
FIGURES = {
    "validation_accuracy": "accuracy per step",
    "validation_rmse": "RMSE of the first value",
}


def kept(curve: Curve) -> int:
    """The epoch, from 1, whose weights `fit` keeps: the best by validation loss, else the last."""
    judged = [k for k, line in enumerate(curve) if "validation_loss" in line]
    if not judged:
        return len(curve)
    return 1 + min(judged, key=lambda k: curve[k]["validation_loss"])


def draw_curves(curve: Curve) -> Picture:
    """Both losses, and beside them the validation part's figure, where there is such a part."""
    shown = [key for key in FIGURES if any(key in line for line in curve)]
    figure, panels = axes(2.9, 1 + len(shown))
    for key, (label, colour) in LOSSES.items():
        _line(panels[0], curve, key, label, colour)
    name(panels[0], "epoch", "loss per step", "Loss")
    for panel, key in zip(panels[1:], shown, strict=True):
        _line(panel, curve, key, "validation", ORANGE)
        name(panel, "epoch", FIGURES[key], "Validation part")
    for panel in panels:
        panel.axvline(kept(curve), color=GREY, linestyle="--", linewidth=1, label="epoch kept")
        panel.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        panel.legend(fontsize=8, frameon=False)
    return picture("curves", "Learning curves", _caption(curve), figure)


def _line(panel: Axes, curve: Curve, key: str, label: str, colour: str) -> None:
    points = [(k, line[key]) for k, line in enumerate(curve, 1) if key in line]
    marker = "." if len(curve) <= 40 else ""
    if points:
        panel.plot(*zip(*points, strict=True), color=colour, marker=marker, lw=1.4, label=label)


def _caption(curve: Curve) -> str:
    judged = any("validation_loss" in line for line in curve)
    why = "the lowest validation loss" if judged else "the last: there is no validation part"
    return (
        f"{len(curve)} epoch(s); the dashed line is the one whose weights were kept, {kept(curve)} "
        f"({why}). The training loss is a mean over the epoch while the weights still moved, with "
        "dropout, variation and label smoothing where the recipe has them; the validation loss "
        "has none of these."
    )
