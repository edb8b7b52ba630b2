"""What to try next, of what `diagnose` measured: `diagnose` ends with it, and the report has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.insight.positions import History

Curve = Sequence[Mapping[str, float]]
Linear = Mapping[str, Any] | None
"""What training began with, where that was a linear model; as the manifest has it."""
POINTS, SHARE = 0.02, 0.02
"""Accuracies so near, and errors so near in shares, count as the same."""
FALLING = 2.5
"""Times that, the last quarter is worse than the second in earnest."""


@dataclass(frozen=True)
class Measured:
    """The history, the figures of the sessions' second and last quarter, the recipe's window and
    the learning curve; accuracies if `classes`, else errors."""

    history: History
    quarters: tuple[float, float]
    window: int
    curve: Curve
    classes: bool
    linear: Linear = None

    def worse(self, figure: float, than: float, times: float = 1.0) -> bool:
        """Whether one figure is worse than another by more than chance."""
        if self.classes:
            return figure < than - POINTS * times
        return figure > than * (1 + SHARE * times)


def advice(measured: Measured) -> list[str]:
    """A sentence for each thing that stands out."""
    found = [*_on_history(measured), *_on_quarters(measured), *_on_epochs(measured)]
    return found or ["Nothing stands out: memory is used, within the window, to the sessions' end."]


def kept(curve: Curve, linear: Linear = None) -> int:
    """The epoch, from 1, whose weights `fit` keeps: the best by validation loss, else the last; 0
    is the linear model that training began with."""
    if linear and linear["kept"]:
        return 0
    validated = [k for k, line in enumerate(curve) if "validation_loss" in line]
    if not validated:
        return len(curve)
    return 1 + min(validated, key=lambda k: curve[k]["validation_loss"])


def _on_history(measured: Measured) -> Iterator[str]:
    history, window = measured.history, measured.window
    pairs = zip(history.lengths, history.figures, strict=True)
    enough = next(((n, value) for n, value in pairs if not measured.worse(value, history.whole)),
                  None)  # fmt: skip
    if enough is None:
        if history.lengths[-1] >= window:
            yield (f"History counts for more than {history.lengths[-1]} steps, and the gradient "
                   f"goes back {window}: try a longer loop.window.")  # fmt: skip
        return
    steps, figure = enough
    as_good = f"({figure:.3g}, with all that came before {history.whole:.3g})"
    if steps == 1:
        yield (f"Memory is unused: the present step alone is as good {as_good}. A model without "
               "state would do; or the network has not learned to remember yet.")  # fmt: skip
    elif steps > window:
        yield (f"{steps} steps of history are needed {as_good}, and the gradient goes back "
               f"{window}: try a longer loop.window.")  # fmt: skip
    elif 4 * steps <= window:
        yield (f"A shorter window does: {steps} steps of history are as good {as_good}. "
               f"loop.window = {2 * steps} would train faster than {window}.")  # fmt: skip


def _on_quarters(measured: Measured) -> Iterator[str]:
    second, last = measured.quarters
    if measured.worse(last, second, FALLING):
        yield (f"It gets worse along sessions ({second:.3g} in the second quarter, {last:.3g} in "
               "the last): states come further than training saw. Try longer sessions in "
               "training, or begin a session anew more often.")  # fmt: skip


def _on_epochs(measured: Measured) -> Iterator[str]:
    curve = measured.curve
    if not any("validation_loss" in line for line in curve):
        return
    best = kept(curve, measured.linear)
    if best == 0:
        yield ("No epoch was better than the linear model that training began with: a linear model "
               "does, or the layers need more sessions, or a lower loop.rate.")  # fmt: skip
    elif best == len(curve):
        yield f"The last of {len(curve)} epochs was the best: more loop.epochs may help."
    elif len(curve) >= 6 and 3 * best <= len(curve):
        yield (f"Validation was best at epoch {best} of {len(curve)}; the others learned by heart: "
               "try more network.dropout, fewer units, or a lower loop.rate.")  # fmt: skip
