"""Checks raw features before they are queued: their number, and that each value may be stepped."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from server.bundle.manifest import Manifest
from server.errors import BadInput

Floats = NDArray[np.float32]


def shape(values: Floats, steps: int, manifest: Manifest) -> Floats:
    """`values` as [steps, I].

    Raises:
        BadInput: their number is not steps * features.
    """
    width = manifest.inputs_width
    if len(values) != steps * width:
        raise BadInput(
            f"features has {len(values)} values; {steps} step(s) of model {manifest.name!r} "
            f"take {steps} x {width} = {steps * width}",
            field="features",
        )
    return values.reshape(steps, width)


def check_length(steps: int, manifest: Manifest) -> None:
    """Refuse rows of no steps, or of more than the model's max_chunk.

    Raises:
        BadInput: naming the number and the limit.
    """
    if not 1 <= steps <= manifest.max_chunk:
        raise BadInput(
            f"a row has {steps} steps; model {manifest.name!r} takes 1 to {manifest.max_chunk}",
            field="steps",
        )


def acceptable(features: Floats, manifest: Manifest) -> bool:
    """Whether all of `features` [N, I] are finite, or NaN where that means "not observed"."""
    finite = np.isfinite(features)
    if finite.all():
        return True
    return bool((finite | (np.isnan(features) & manifest.may_miss)).all())


def problem(features: Floats, manifest: Manifest) -> BadInput | None:
    """The error for the first value of `features` [T, I] that is not `acceptable`, or None."""
    if acceptable(features, manifest):
        return None
    good = np.isfinite(features) | (np.isnan(features) & manifest.may_miss)
    step, column = (int(k) for k in np.argwhere(~good)[0])
    feature = manifest.features[column]
    must = "finite, or NaN where nothing was observed" if feature.missing else "finite"
    return BadInput(
        f"feature {feature.name!r} of step {step} in the row is {features[step, column]}; "
        f"values must be {must}",
        field="features",
        feature=feature.name,
        index=step,
    )
