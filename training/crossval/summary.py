"""What all folds say together: means, how far they are apart, intervals by groups drawn again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from training.crossval.fold import Doubles, Fold, added
from training.scoring.comparison import judge
from training.scoring.intervals import intervals
from training.scoring.scorer import Scorer, known_figures
from training.scoring.scores import known_intervals, plain
from training.table.session import Target


def summary(done: Sequence[Fold], scorer: Scorer, target: Target) -> dict[str, Any]:
    """The figures of all folds, for the JSON file."""
    by_group = added(item for fold in done for item in fold.by_group.items())
    found = intervals(scorer, np.stack(list(by_group.values())))
    seeds = dict.fromkeys(fold.seed for fold in done)
    told = {
        "mean": _of_each(done, np.mean),
        "intervals": {name: each.plain() for name, each in found.items()},
        "spread": {name: _spread(values) for name, values in _values(done).items()},
        "seeds": [
            {"seed": seed, "figures": _of_each([f for f in done if f.seed == seed], np.mean)}
            for seed in seeds
        ],
        "by_group": {group: known_figures(scorer.figures(row)) for group, row in by_group.items()},
        "folds": [fold.plain() for fold in done],
    }
    if target.classes:
        told |= {
            "labels": list(target.labels),
            "confusion_at_session_end": _confusion(done, target),
        }
    return told


def beside(done: Sequence[Fold], scorer: Scorer, weighted: bool) -> dict[str, Any]:
    """The network beside the baselines of the same folds, by groups drawn again; nothing where
    there are none."""
    by_name = [{each.name: sums for each, sums in fold.baselines} for fold in done]
    by_name = [each for each in by_name if each]  # of each fold the first seed's alone
    if not by_name:
        return {}
    ours = added(item for fold in done for item in fold.by_group.items())
    simple = [each for each, _ in done[0].baselines if all(each.name in fold for fold in by_name)]
    theirs = {each.name: _in_order(ours, [fold[each.name] for fold in by_name]) for each in simple}
    rows = np.stack(list(ours.values()))
    found = judge(scorer, weighted, rows, theirs, simple, "group")
    return {
        "baselines": {name: plain(known_intervals(scorer, each)) for name, each in theirs.items()},
        "best": found.best,
        "difference": found.difference.plain(),
        "sentence": found.sentence,
    }


def _in_order(groups: Iterable[str], folds: Sequence[Mapping[str, Doubles]]) -> Doubles:
    """The sums of each of the groups, which are each in one fold."""
    found = added(item for fold in folds for item in fold.items())
    return np.stack([found[group] for group in groups])


def _values(done: Sequence[Fold]) -> dict[str, list[float]]:
    return {name: [fold.figures[name] for fold in done] for name in done[0].figures}


def _of_each(done: Sequence[Fold], of: Callable[[list[float]], Any]) -> dict[str, float]:
    return {name: float(of(values)) for name, values in _values(done).items()}


def _spread(values: list[float]) -> dict[str, float]:
    """The deviation is that of a sample (n - 1)."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"deviation": deviation, "lowest": min(values), "highest": max(values)}


def _confusion(done: Sequence[Fold], target: Target) -> list[list[int]]:
    found = np.zeros((len(target.labels), len(target.labels)), int)
    for fold in done:
        for label, guess in fold.ends:
            found[label, guess] += 1
    counts: list[list[int]] = found.tolist()
    return counts
