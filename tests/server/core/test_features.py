"""What a manifest may say of a feature, and how it is told what is wrong with that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.bundle.feature import Distribution, Feature
from server.bundle.manifest import Manifest, parse
from server.errors import BadModel
from tests.server.core.parts import make_bundle

EVEN = {"edges": [0.0, 1.0], "shares": [0.25, 0.5, 0.125], "missing": 0.125}


def parsed(tmp_path: Path, **fields: Any) -> Manifest:
    """A manifest whose first feature has these fields."""
    make_bundle(tmp_path)
    raw = json.loads((tmp_path / "small/1/model.json").read_text())
    raw["features"][0] |= fields
    return parse(json.dumps(raw).encode(), "small/1")


def test_a_feature_is_all_that_the_manifest_says_of_it(tmp_path: Path) -> None:
    fields = {"unit": "m", "missing": True, "labels": ["a", "b"], "distribution": EVEN}
    manifest = parsed(tmp_path, **fields)
    lay = Distribution((0.0, 1.0), (0.25, 0.5, 0.125), 0.125)
    assert manifest.features[0] == Feature("x0", "m", True, ("a", "b"), lay)
    assert manifest.features[1] == Feature("x1", "")
    assert manifest.may_miss.tolist() == [True, False, False, False, False]


def test_edges_are_what_float32_can_say(tmp_path: Path) -> None:
    found = parsed(tmp_path, distribution=EVEN | {"edges": [0.1, 0.2]}).features[0].distribution
    assert found is not None
    assert found.edges == (0.10000000149011612, 0.20000000298023224)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "missing as a number": ({"missing": 1}, "feature 'x0': missing must be true or false, not 1"),
    "labels in one text": ({"labels": "ab"}, "feature 'x0': labels must be a list of texts"),
    "labels that are numbers": ({"labels": [0, 1]}, "feature 'x0': labels must be a list of texts"),
    "a label twice": ({"labels": ["a", "b", "a"]}, "feature 'x0': a label occurs twice"),
    "a list for a distribution": ({"distribution": []}, "must have edges, shares and m"),
    "no edges": ({"distribution": {"shares": [1.0], "missing": 0.0}}, "must have edges"),
    "edges in disorder": ({"distribution": EVEN | {"edges": [1.0, 0.0]}}, "must be finite and asc"),
    "the same edge twice": ({"distribution": EVEN | {"edges": [1.0, 1.0]}}, "ascend in float32"),
    "edges one in float32": ({"distribution": EVEN | {"edges": [1.0, 1.0 + 1e-12]}}, "in float32"),
    "an infinite edge": ({"distribution": EVEN | {"edges": [0.0, 1e39]}}, "must be finite and asc"),
    "nested edges": ({"distribution": EVEN | {"edges": [[0.0, 1.0]]}}, "must be finite and ascend"),
    "a share too few": ({"distribution": EVEN | {"shares": [0.5, 0.375]}}, "2 edges need 3 shares"),
    "a negative share": (
        {"distribution": EVEN | {"shares": [-0.125, 0.5, 0.5]}},
        "must not be below 0",
    ),
    "a share of NaN": ({"distribution": EVEN | {"missing": float("nan")}}, "must not be below 0"),
    "shares over 1": (
        {"distribution": EVEN | {"missing": 0.25}},
        "feature 'x0': distribution: shares and missing sum to 1.125, not to 1",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_feature_is_refused_by_name(tmp_path: Path, name: str) -> None:
    fields, says = BAD[name]
    with pytest.raises(BadModel, match=rf"^small/1/model\.json is malformed: .*{says}"):
        parsed(tmp_path, **fields)
