"""Whether a run has made a model at all, before anything is written of it."""

from __future__ import annotations

import math
from statistics import NormalDist, fmean

import numpy as np

from training.errors import TrainingError
from training.figures import predict
from training.loop.fit import Fitted, class_weights
from training.recipe.recipe import Recipe
from training.table.session import Dataset

WORSE = 1.5
NORMAL = NormalDist()


def check_learned(dataset: Dataset, recipe: Recipe, fitted: Fitted) -> None:
    """A network far worse than a guess, or one that says the same whatever it sees, is no model.

    Raises:
        TrainingError: it is either; the setting to change is named.
    """
    if fitted.beginning is not None and fitted.beginning.kept:
        return  # it is the linear model, which no epoch was better than
    kept = min(fitted.curve, key=lambda line: line.get("validation_loss", -line["epoch"]))
    loss, guessing = kept["train_loss"], _guessing(dataset, recipe)
    if loss > WORSE * guessing:
        raise TrainingError(f"loop.rate: the training loss is {loss:.4g}, where guessing has "
                            f"{guessing:.4g}; try a rate below {recipe.loop.rate:g}")  # fmt: skip
    x = dataset.train[0].x
    if len(x) > 1 and np.ptp(predict(fitted.network, x), axis=0).max() == 0:
        raise TrainingError("loop.rate: the network puts out the same at every step, whatever it "
                            f"sees; try a rate below {recipe.loop.rate:g}")  # fmt: skip


def _guessing(dataset: Dataset, recipe: Recipe) -> float:
    """The loss of who says the mean or the fixed quantiles of a normal distribution (values are
    standardised), or all classes to be as likely."""
    target = dataset.target
    if target.quantiles:
        # Twice the pinball loss of a normal distribution's own quantile is twice its density there.
        densities = [NORMAL.pdf(NORMAL.inv_cdf(level)) for level in target.quantiles]
        return 2.0 * fmean(densities)
    if not target.classes:
        return 1.0
    weights, focal = class_weights(dataset, recipe), recipe.target.focal or 0.0
    y = np.concatenate([session.y[:, 0] for session in dataset.train])
    share = 1.0 if weights is None else float(weights.numpy()[y[~np.isnan(y)].astype(int)].mean())
    wrong = 1 - 1 / target.outputs
    return math.log(target.outputs) * share * math.pow(wrong, focal)
