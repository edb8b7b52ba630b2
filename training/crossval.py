"""Cross-validation over people: five times, train on eight and look at the two left out."""

from __future__ import annotations

import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.data import LABELS, read_recordings, source
from training.fit import FitConfig, evaluate, fit
from training.split import FOLDS, by_person


def cross_validate(config: FitConfig, report: Path, processes: int = 2) -> dict[str, Any]:
    """Run all folds, `processes` at a time, and write the figures to `report`."""
    with ProcessPoolExecutor(processes) as pool:
        folds = list(pool.map(_fold, FOLDS, [config] * len(FOLDS)))
    result = _summary(folds) | {"config": asdict(config), "data": source()}
    report.write_text(json.dumps(result, indent=1) + "\n")
    return result


def _fold(people: tuple[int, int], config: FitConfig) -> dict[str, Any]:
    started = time.monotonic()
    train, held_out = by_person(read_recordings(), people)
    score = evaluate(fit(train, config, quiet=True), held_out)
    return {
        "held_out": list(people),
        "per_step": score.per_step,
        "at_end": score.at_end,
        "ends": score.ends,
        "seconds": round(time.monotonic() - started),
    }


def _summary(folds: list[dict[str, Any]]) -> dict[str, Any]:
    confusion = [[0] * len(LABELS) for _ in LABELS]
    for fold in folds:
        for label, guess in fold.pop("ends"):
            confusion[label][guess] += 1
    return {
        "per_step": sum(fold["per_step"] for fold in folds) / len(folds),
        "at_end": sum(fold["at_end"] for fold in folds) / len(folds),
        "folds": folds,
        "labels": list(LABELS),
        "confusion_at_end": confusion,
    }
