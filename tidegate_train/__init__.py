"""Tidegate's training in Python: what the command `tidegate-train` does, from a table to a bundle.

    from tidegate_train import Recipe, fit, evaluate, export

    trained = fit({"name": "pumps", "table": {...}, "features": {...}, "target": {...}}, frame)
    print(trained.comparison.sentence)      # does it beat its best baseline, and by how much?
    bundle = export(trained)                # proven, and written to models/pumps/1
    print(evaluate(bundle, other_frame).values)

docs/training.md says what a recipe may say. What is wrong with a recipe, a table or a bundle is a
`TrainingError`, one sentence that names it.
"""

from training.api import Trained, evaluate, export, fit
from training.errors import TrainingError
from training.recipe.recipe import (
    Baselines,
    FeatureColumn,
    Loop,
    NetworkShape,
    Recipe,
    Source,
    Split,
    Table,
    TargetColumns,
    read_recipe,
)
from training.scoring.balance import Balance
from training.scoring.calibration import Calibration
from training.scoring.comparison import Comparison
from training.scoring.fans import Coverage, FanScores
from training.scoring.intervals import Interval
from training.scoring.scores import ClassLine, Scores

__all__ = [
    "Balance",
    "Baselines",
    "Calibration",
    "ClassLine",
    "Comparison",
    "Coverage",
    "FanScores",
    "FeatureColumn",
    "Interval",
    "Loop",
    "NetworkShape",
    "Recipe",
    "Scores",
    "Source",
    "Split",
    "Table",
    "TargetColumns",
    "Trained",
    "TrainingError",
    "evaluate",
    "export",
    "fit",
    "read_recipe",
]
