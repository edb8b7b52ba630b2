"""Checks raw features before they are queued: their number, and that each value may be stepped."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from server.arrays import every, finite
from server.bundle.manifest import Manifest
from server.errors import BadInput
from server.scheduler.submission import Submission

Floats = NDArray[np.float32]


def check_size(values: int, steps: int, manifest: Manifest) -> None:
    """Refuse a number of values that is not steps * features, before they are looked at.

    Raises:
        BadInput: naming both.
    """
    width = manifest.inputs_width
    if values != steps * width:
        raise BadInput(
            f"features has {values} values; {steps} step(s) of model {manifest.name!r} "
            f"take {steps} x {width} = {steps * width}",
            field="features",
        )


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
    return finite(features) or every(_good(features, manifest))


def fail_unacceptable(submission: Submission, manifest: Manifest) -> None:
    """Fail the rows with a value that is not `acceptable`, but for those that name no session,
    which have failed already."""
    if acceptable(submission.features, manifest):
        return
    for rows, error in problems(submission.features, submission.lengths, manifest):
        named = rows[submission.handles[rows] != 0]
        if len(named):
            submission.fail(named, error)


def problem(features: Floats, manifest: Manifest) -> BadInput | None:
    """The error for the first value of `features` [T, I] that is not `acceptable`, or None."""
    if acceptable(features, manifest):
        return None
    step, column = (int(k) for k in np.argwhere(~_good(features, manifest))[0])
    return _error(float(features[step, column]), step, column, manifest)


def problems(
    features: Floats, lengths: NDArray[np.int32], manifest: Manifest
) -> list[tuple[NDArray[np.int64], BadInput]]:
    """The errors of rows with a value that is not `acceptable`: features [sum(lengths), I]. Rows
    whose first such value is the same one, at the same place, share an error."""
    bad_steps = np.flatnonzero(~_good(features, manifest).all(axis=1))
    if not len(bad_steps):
        return []
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    rows, first = np.unique(np.searchsorted(starts, bad_steps, "right") - 1, return_index=True)
    steps = bad_steps[first]
    columns = (~_good(features[steps], manifest)).argmax(axis=1)
    values = features[steps, columns]
    kinds = np.where(np.isnan(values), 0, np.sign(values)).astype(np.int64) + 1
    at = steps - starts[rows]
    _, which, of = np.unique(
        (at * manifest.inputs_width + columns) * 3 + kinds, return_index=True, return_inverse=True
    )
    alike = np.split(rows[np.argsort(of, kind="stable")], np.cumsum(np.bincount(of))[:-1])
    return [
        (same, _error(float(values[k]), int(at[k]), int(columns[k]), manifest))
        for same, k in zip(alike, which.tolist(), strict=True)
    ]


def _good(features: Floats, manifest: Manifest) -> NDArray[np.bool_]:
    good: NDArray[np.bool_] = np.isfinite(features) | (np.isnan(features) & manifest.may_miss)
    return good


def _error(value: float, step: int, column: int, manifest: Manifest) -> BadInput:
    feature = manifest.features[column]
    must = "finite, or NaN where nothing was observed" if feature.missing else "finite"
    return BadInput(
        f"feature {feature.name!r} of step {step} in the row is {value}; values must be {must}",
        field="features",
        feature=feature.name,
        index=step,
    )
