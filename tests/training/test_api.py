"""`tidegate_train`: from a DataFrame to a bundle in Python, with the weights of the command."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from tests.training.commands.tasks import config_of, delayed
from tests.training.commands.tasks import fit as fit_by_command
from tests.training.conftest import Bundles
from tests.training.tables import HEADER
from tidegate_train import Recipe, Trained, TrainingError, evaluate, export, fit, read_recipe
from training.network import network_to_bytes

SETTINGS: dict[str, Any] = {
    "name": "devices",
    "table": {"session": "device", "order": "second"},
    "features": {"load": {"unit": "V"}, "mode": {"embedding": 2}},
    "target": {"kind": "class", "columns": ["state"]},
    "split": {"test": ["d0"], "validation": ["d1"]},
    "network": {"hidden": 6, "linear": False},
    "loop": {"epochs": 2, "batch": 4, "window": 5},
    "baselines": {"trees": 5},
}


def frame() -> pl.DataFrame:
    return pl.DataFrame(delayed(), schema=HEADER.strip().split(","), orient="row")


def trained(table: Any, folder: Path, settings: Any = None) -> Trained:
    return fit(settings or SETTINGS, table, runs=folder / "runs")


def test_frames_files_and_the_command_make_the_same_bundle_that_can_be_measured_later(
    tmp_path: Path,
) -> None:
    whole = frame()
    found = trained(whole, tmp_path)
    assert found.comparison is not None and found.comparison.best is not None
    bundle = export(found, tmp_path / "models" / "devices" / "1")
    of_pandas = trained(pd.DataFrame(whole.to_dict(as_series=False)), tmp_path / "pandas")
    command = fit_by_command(config_of(tmp_path), tmp_path / "command", "baselines.trees=5")
    ours, theirs = ((each / "network.npz").read_bytes() for each in (bundle, command))
    assert ours == theirs == network_to_bytes(of_pandas.fitted.network.network())
    told = [json.loads((each / "model.json").read_text()) for each in (bundle, command)]
    assert told[0]["training"]["comparison"] == told[1]["training"]["comparison"]
    assert told[0]["training"]["comparison"]["sentence"] == found.comparison.sentence
    (kept,) = (tmp_path / "runs" / "devices").glob("table-*.parquet")
    assert pl.read_parquet(kept).equals(whole)
    assert evaluate(bundle).values == pytest.approx(found.comparison.scores.values)


def test_a_bundle_is_evaluated_on_sessions_of_another_frame(bundles: Bundles) -> None:
    names = HEADER.strip().split(",")
    later = pl.DataFrame(delayed(sessions=40, seed=9), schema=names, orient="row")
    poor, good = (evaluate(each, later) for each in (bundles.poor, bundles.good))
    assert poor.sessions == good.sessions == 28
    assert good.figures["accuracy_per_step"].low > 0.9 > poor.figures["accuracy_per_step"].high
    assert {each.label for each in good.classes} == {"up", "down"}
    known = later.filter(pl.col("device").is_in(["d0", "d4"]))
    with pytest.raises(TrainingError, match="was trained on every session"):
        evaluate(bundles.good, known)


def test_pandas_types_and_gaps_come_through(tmp_path: Path) -> None:
    """Times, whole numbers with gaps, categories and truths: as a notebook has them."""
    rows, start = frame(), datetime.datetime(2026, 1, 1)
    load = [None if k % 11 == 3 else value for k, value in enumerate(rows["load"].to_list())]
    table = pd.DataFrame(
        {
            "device": pd.array(rows["device"].to_list(), dtype="string"),
            "second": [start + datetime.timedelta(seconds=t) for t in rows["second"]],
            "load": pd.array(load, dtype="Float64"),
            "mode": pd.Categorical(rows["mode"].to_list()),
            "count": pd.array([None if k % 7 == 1 else k % 5 for k in range(len(rows))], "Int64"),
            "state": pd.array([state == "up" for state in rows["state"]], dtype="boolean"),
        },
        index=np.arange(len(rows)) + 1000,
    )
    features = {"load": {"missing": True}, "mode": {"embedding": 2}, "count": {"missing": True}}
    found = trained(table, tmp_path, SETTINGS | {"features": features})
    (session,) = found.dataset.test
    assert np.isnan(session.x[:, 0]).sum() == sum(
        value is None for value, name in zip(load, rows["device"], strict=True) if name == "d0"
    )
    assert np.diff(session.order).tolist() == [1.0] * (len(session) - 1)
    assert found.dataset.target.labels == ("false", "true")


def test_recipes_may_be_objects_mappings_or_files(tmp_path: Path) -> None:
    whole = read_recipe(config_of(tmp_path))
    assert isinstance(whole, Recipe)
    quick = whole.model_copy(
        update={
            "loop": whole.loop.model_copy(update={"epochs": 1}),
            "baselines": whole.baselines.model_copy(update={"trees": 0}),
        }
    )
    of_file = trained(None, tmp_path, quick)
    bare = Recipe(**{name: getattr(quick, name) for name in quick.model_fields_set - {"source"}})
    of_frame = trained(frame(), tmp_path, bare)
    for ours, theirs in zip(of_file.dataset.train, of_frame.dataset.train, strict=True):
        np.testing.assert_array_equal(ours.x, theirs.x)


@pytest.mark.parametrize(
    ("table", "settings", "said"),
    [
        ([1, 2], SETTINGS, "a table must be a polars or pandas DataFrame, not builtins.list"),
        (pl.DataFrame({"a": [1]}), SETTINGS, "has no column 'device'"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), SETTINGS, "two columns of one name"),
        (pl.DataFrame({"a": [object()]}), SETTINGS, "cannot be kept as Parquet"),
        (None, SETTINGS, "source.file is missing"),
        (frame(), SETTINGS | {"lop": {}}, "lop is no setting"),
        (frame(), SETTINGS | {"loop": {"epochs": 0}}, "loop.epochs must be at least 1"),
    ],
    ids=range(7),
)
def test_what_is_wrong_is_one_sentence(
    tmp_path: Path, table: Any, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(TrainingError, match=said) as error:
        trained(table, tmp_path, settings)
    assert "\n" not in str(error.value)
