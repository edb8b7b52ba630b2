"""Two bundles on the same steps, of sessions that neither was trained on.

Each may have features of its own; what they predict must be the same, and so must be how their
recipes cut the table into sessions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from training.errors import TrainingError
from training.insight.evaluation import Evaluation, evaluate
from training.network import Floats
from training.scoring.held_out import HeldOut
from training.scoring.scorer import Doubles, Scorer, scorer_of, targets_of
from training.table.session import Dataset, Session, Target

MOST_VALUES = 12
"""Different values of a column, each a segment; numbers of more are cut into quarters."""
Masks = dict[str, list[NDArray[np.bool_]]]


@dataclass(frozen=True)
class Pair:
    """Sessions, and what both bundles put out on each, [T, O]."""

    names: tuple[str, str]
    part: str
    sessions: tuple[Session, ...]
    outputs: tuple[Sequence[Floats], Sequence[Floats]]
    scorer: Scorer
    weighted: bool
    """Whether either was trained with classes weighed unlike."""

    @property
    def target(self) -> Target:
        """What both predict."""
        return self.scorer.target

    def sums(self, among: Sequence[NDArray[np.bool_]] | None = None) -> tuple[Doubles, Doubles]:
        """Both bundles' sums [S, M], of sessions that have a step `among` them."""
        targets = targets_of(self.sessions)
        first, second = (self.scorer.sums(each, targets, among) for each in self.outputs)
        if among is None:
            return first, second
        known = [bool((~np.isnan(y).all(axis=1) & steps).any())
                 for y, steps in zip(targets, among, strict=True)]  # fmt: skip
        return first[known], second[known]


def pair(first: HeldOut, second: HeldOut) -> Pair:
    """Step both through the sessions that both have held out.

    Raises:
        TrainingError: they predict different things, no session was held out by both, or their
            recipes cut it otherwise.
    """
    names = first.subject.name, second.subject.name
    shared = _shared(first, second, names)
    targets = [held.subject.dataset.target for held in (first, second)]
    _check_targets(targets, names)
    found = [_on(held, shared) for held in (first, second)]
    ours, theirs = (evaluate(held.subject) for held in found)
    for one, other in zip(ours.sessions, theirs.sessions, strict=True):
        if not np.array_equal(one.y, other.y, equal_nan=True):
            raise TrainingError(f"{names[0]} and {names[1]} read other targets in session "
                                f"{one.name!r}")  # fmt: skip
    return Pair(
        names=names,
        part=first.part if first.part == second.part else f"{first.part}; {second.part}",
        sessions=ours.sessions,
        outputs=(_singles(ours), _singles(theirs)),
        scorer=scorer_of(_common(targets), targets_of(ours.sessions)),
        weighted=any(held.subject.recipe.target.weights != "equal" for held in found),
    )


def _singles(evaluation: Evaluation) -> list[Floats]:
    """Probabilities, or a number for each value: of quantiles the median."""
    return [evaluation.target.single(each) for each in evaluation.outputs]


def _common(targets: Sequence[Target]) -> Target:
    """With quantiles only if both have some: then by how far medians are off as well."""
    first, second = targets
    return first if second.quantiles else replace(first, quantiles=())


def _shared(first: HeldOut, second: HeldOut, names: tuple[str, str]) -> list[str]:
    """By name, of the same steps."""
    theirs = {session.name: session for session in second.sessions}
    common = [session for session in first.sessions if session.name in theirs]
    if not common:
        raise TrainingError(f"no session was held out by both {names[0]} and {names[1]}")
    same = [each.name for each in common if np.array_equal(each.order, theirs[each.name].order)]
    if not same:
        raise TrainingError(f"the recipes of {names[0]} and {names[1]} cut session "
                            f"{common[0].name!r} otherwise")  # fmt: skip
    return same


def _check_targets(targets: Sequence[Target], names: tuple[str, str]) -> None:
    ours, theirs = ((each.names, each.labels, each.horizons) for each in targets)
    if ours != theirs:
        raise TrainingError(f"{names[0]} predicts {_told(targets[0])}, and {names[1]} "
                            f"{_told(targets[1])}")  # fmt: skip


def _told(target: Target) -> str:
    labels = f" ({', '.join(target.labels)})" if target.labels else ""
    steps = ", ".join(map(str, sorted(set(target.horizons))))
    return f"{', '.join(target.names)}{labels} {steps} steps ahead"


def _on(held: HeldOut, names: Sequence[str]) -> HeldOut:
    """The bundle, with those sessions held out alone, in that order."""
    by_name = {session.name: session for session in held.sessions}
    old = held.subject.dataset
    chosen = tuple(by_name[name] for name in names)
    dataset = Dataset(old.features, old.target, (), (), chosen, old.source)
    return replace(held, subject=replace(held.subject, dataset=dataset))


def segments_by(column: str, values: Mapping[str, pl.Series], sessions: Sequence[Session]) -> Masks:
    """The steps [T] of each value of a column, session by session; of its quarters, where it holds
    many numbers."""
    series = [values[session.name] for session in sessions]
    whole = pl.concat(series)
    if whole.dtype == pl.String and whole.n_unique() > MOST_VALUES:
        as_numbers = whole.cast(pl.Float64, strict=False)
        if as_numbers.null_count() > whole.null_count():
            raise TrainingError(f"--by {column}: it has {whole.n_unique()} different texts; "
                                f"segments are told of up to {MOST_VALUES}")  # fmt: skip
        whole = as_numbers
    masks = _quarters(column, whole) if whole.n_unique() > MOST_VALUES else _each(column, whole)
    ends = np.cumsum([len(each) for each in series])[:-1]
    return {name: np.split(mask, ends) for name, mask in masks.items()}


def _each(column: str, whole: pl.Series) -> dict[str, NDArray[np.bool_]]:
    found = whole.drop_nulls().unique().sort().to_list()
    masks = {f"{column} = {value}": (whole == value).fill_null(False) for value in found}
    return {name: mask.to_numpy() for name, mask in masks.items()}


def _quarters(column: str, whole: pl.Series) -> dict[str, NDArray[np.bool_]]:
    try:
        values = whole.cast(pl.Float64).to_numpy()
    except pl.exceptions.PolarsError:
        raise TrainingError(f"--by {column}: {whole.dtype} makes no segments") from None
    edges = np.unique(np.nanquantile(values, [0, 0.25, 0.5, 0.75, 1]))
    masks = {}
    for k, (low, high) in enumerate(pairwise(edges)):
        last = k == len(edges) - 2
        inside = (values >= low) & ((values <= high) if last else (values < high))
        masks[f"{column} {low:.4g} to {high:.4g}"] = inside
    return masks
