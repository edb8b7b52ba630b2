"""The shipped model and its examples are what the exercise recipe says."""

from __future__ import annotations

import csv
import hashlib
import json

import numpy as np
import pytest

from tests.harness import ROOT
from training.recipe.recipe import from_mapping, read_recipe
from training.recipes import find_recipe
from training.table.dataset import load
from training.table.session import Dataset

SHIPPED = ROOT / "models" / "exercise" / "1"


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load(read_recipe(find_recipe("exercise")))


def test_the_shipped_bundle_is_whole_and_names_its_held_out_people(dataset: Dataset) -> None:
    manifest = json.loads((SHIPPED / "model.json").read_text())
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((SHIPPED / name).read_bytes()).hexdigest() == digest
    provenance = manifest["training"]
    assert provenance["split"]["test"]["groups"] == ["10", "9"]
    assert set(provenance["split"]["training"]["groups"]) == {str(k) for k in range(1, 9)}
    assert from_mapping(provenance["recipe"]) == read_recipe(find_recipe("exercise"))
    assert provenance["data"] == dataset.source
    assert max(manifest["parity"].values()) <= 1e-5
    assert [each["name"] for each in manifest["features"]] == [f.name for f in dataset.features]
    assert manifest["outputs"][0]["labels"] == list(dataset.target.labels)


def test_the_shipped_features_have_the_training_part_s_distribution(dataset: Dataset) -> None:
    manifest = json.loads((SHIPPED / "model.json").read_text())
    x = np.concatenate([session.x for session in dataset.train])
    for k, feature in enumerate(manifest["features"]):
        told = feature["distribution"]
        bins = np.searchsorted(told["edges"], x[:, k], side="left")
        shares = np.bincount(bins, minlength=len(told["shares"])) / len(x)
        np.testing.assert_allclose(told["shares"], shares, atol=1e-6)


def test_the_examples_are_held_out_sessions_as_recorded(dataset: Dataset) -> None:
    by_name = {session.name: session for session in dataset.test}
    names = [feature.name for feature in dataset.features]
    rows: dict[str, list[list[float]]] = {}
    with (ROOT / "examples" / "watch.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            label = by_name[row["session"]].y[0, 0]
            assert row["label"] == dataset.target.labels[int(label)]
            rows.setdefault(row["session"], []).append([float(row[name]) for name in names])
    assert len(rows) == 8
    for name, signal in rows.items():
        np.testing.assert_allclose(np.array(signal), by_name[name].x, rtol=1e-5, atol=1e-9)
