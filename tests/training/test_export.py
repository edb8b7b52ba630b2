"""An export is proven, measured, and written whole or not at all, and its manifest is true."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.harness import running_server
from tests.training.graphs.networks import NETWORKS, OUTPUTS, ROUNDING, WIDTH, drawn
from tidegate import SyncClient
from training.errors import TrainingError
from training.export import ParityError, export
from training.graphs.whole import PRECISIONS
from training.network import Floats, Network
from training.reference import NumpyNetwork
from training.table.session import Session, Target


def sessions_of(network: Network) -> list[Session]:
    """Held-out sessions whose targets are the classes that the network itself finds likeliest."""
    reference = NumpyNetwork(network, np.float64)
    made = []
    for k, x in enumerate(drawn(network, [30, 45, 12], 5)):
        outputs = reference.run(x, reference.initial())[0]
        y = outputs.argmax(-1)[:, None] if network.softmax else outputs
        made.append(
            Session(f"s{k}", f"s{k}", x, y.astype(np.float32), np.arange(len(x), dtype=float))
        )
    return made


def target_of(network: Network) -> Target:
    names = ("kind",) if network.softmax else tuple(f"y{k}" for k in range(OUTPUTS))
    labels = tuple("abc") if network.softmax else ()
    return Target(names, ("",) * len(names), labels, add=network.add)


def told(network: Network) -> dict[str, Any]:
    features: list[dict[str, Any]] = [{"name": f"x{k}", "unit": ""} for k in range(WIDTH)]
    for k in network.missing:
        features[k]["missing"] = True
    for embedding in network.embeddings:
        features[embedding.feature] |= {"missing": True, "labels": list("abcd")}
    kind = "probability" if network.softmax else "value"
    return {"features": features, "outputs": [{"name": "y", "size": OUTPUTS, "kind": kind}]}


def zeros(x: Floats) -> Floats:
    return np.zeros((len(x), OUTPUTS), np.float32)


def exported(
    folder: Path,
    network: Network,
    precision: str = "float32",
    torch_outputs: Callable[[Floats], Floats] | None = None,
) -> dict[str, Any]:
    """Its manifest."""
    export(folder, network, **told(network), sessions=sessions_of(network),
           target=target_of(network), torch_outputs=torch_outputs, precision=precision,
           description="drawn", provenance={"data": {}})  # fmt: skip
    manifest: dict[str, Any] = json.loads((folder / "model.json").read_text())
    return manifest


@pytest.mark.parametrize("name", ["lstm", "projected", "gappy lstm", "gru"])
def test_an_export_tells_what_was_proven_and_measured(tmp_path: Path, name: str) -> None:
    manifest = exported(tmp_path / "drawn" / "1", NETWORKS[name])
    assert set(manifest["parity"]) == {"single_steps", "ragged_chunks", "cuda_single_steps"}
    assert all(0 < each < 1e-5 for each in manifest["parity"].values())
    compared = {(each["compared"], each["graph"], each["form"], each["opset"])
                for each in manifest["export"]["measured"]}  # fmt: skip
    assert {opset for kind, _, _, opset in compared if kind == "opset"} == {18, 21, 23}
    steps = {form for kind, graph, form, _ in compared if (kind, graph) == ("form", "step")}
    assert steps == ({"scan"} if name == "projected" else {"operator", "scan"})
    for precision in PRECISIONS:
        cost = manifest["precisions"][precision]
        assert cost["neighbours"] <= (1e-5 if precision == "float32" else ROUNDING)
        assert all(speed > 0 for speed in cost["steps_per_second"].values())
    differences = [manifest["precisions"][each]["difference"]["max"] for each in PRECISIONS]
    assert differences == sorted(differences)
    assert differences[0] < 1e-6 < differences[1]


def test_the_accuracy_of_a_network_that_is_always_right_is_one(tmp_path: Path) -> None:
    manifest = exported(tmp_path / "drawn" / "1", NETWORKS["lstm"])
    assert manifest["precisions"]["float32"]["accuracy_per_step"] == 1.0
    assert 0.8 < manifest["precisions"]["int8"]["accuracy_per_step"] <= 1.0


def test_errors_of_values_are_told_by_name(tmp_path: Path) -> None:
    manifest = exported(tmp_path / "drawn" / "1", NETWORKS["gappy lstm"])
    exact, coarse = (manifest["precisions"][each] for each in ("float32", "int8"))
    for k in range(OUTPUTS):
        assert exact[f"rmse_y{k}"] < 1e-5 < coarse[f"rmse_y{k}"] < 0.1


def test_a_network_that_differs_from_torch_is_not_exported(tmp_path: Path) -> None:
    network = NETWORKS["lstm"]
    reference = NumpyNetwork(network)

    def wrong(x: Floats) -> Floats:
        outputs = reference.run(x, reference.initial())[0].astype(np.float32)
        outputs[-1, 0] += 1e-4
        return outputs

    with pytest.raises(ParityError, match=r"torch differs from the reference by 1\.00e-04"):
        exported(tmp_path / "drawn" / "1", network, torch_outputs=wrong)
    assert list(tmp_path.iterdir()) == []


def test_an_older_bundle_stays_where_the_new_one_fails(tmp_path: Path) -> None:
    folder = tmp_path / "drawn" / "1"
    before = exported(folder, NETWORKS["lstm"])
    with pytest.raises(ParityError):
        exported(folder, NETWORKS["lstm"], torch_outputs=zeros)
    assert json.loads((folder / "model.json").read_text()) == before
    assert [each.name for each in folder.parent.iterdir()] == ["1"]


def test_a_precision_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="precision must be one of float32, float16, int8"):
        exported(tmp_path / "drawn" / "1", NETWORKS["lstm"], precision="int4")


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_a_bundle_of_fewer_bits_is_served_as_measured(tmp_path: Path, precision: str) -> None:
    network = NETWORKS["lstm"]
    manifest = exported(tmp_path / "drawn" / "1", network, precision)
    assert manifest["export"]["form"]["precision"] == precision
    allowed = manifest["precisions"][precision]["difference"]["max"]
    reference = NumpyNetwork(network, np.float64)
    with running_server(tmp_path) as server, SyncClient(server.address) as client:
        for known in sessions_of(network):
            expected = reference.run(known.x, reference.initial())[0]
            with client.session("drawn", known.name) as session:
                found = np.stack([session.step(row) for row in known.x])
            assert np.abs(found - expected).max() <= allowed + ROUNDING
