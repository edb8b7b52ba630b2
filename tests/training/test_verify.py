"""`verify` finds what is wrong with a bundle, whoever made it, and says which promise is broken."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.training.graphs.networks import NETWORKS
from training.__main__ import main
from training.bundle import random_bundle
from training.graphs.whole import GEMM, SCAN, Form, graphs

SHIPPED = Path(__file__).parents[2] / "models" / "exercise" / "1"
ROOT = Path(__file__).parents[2]


def verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = main(["verify", str(folder)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def swap(folder: Path, name: str, content: bytes) -> None:
    """Put another file into a bundle, with its checksum."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "model.json").read_text())
    manifest["files"][name] = hashlib.sha256(content).hexdigest()
    (folder / "model.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_good_bundle_passes_every_check(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "drawn" / "1"
    random_bundle(folder, NETWORKS[name])
    status, out, err = verify(folder, capsys)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 11
    left_out = [line for line in lines if not line.startswith("ok ")]
    expected = []
    if not NETWORKS[name].missing:
        expected.append("  -  missing features: left out, no feature may be missing")
    if NETWORKS[name].fan is None:
        expected.append("  -  quantiles: left out, no output is a quantile")
    assert left_out == expected


def test_quantiles_that_cross_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "drawn" / "1"
    random_bundle(folder, NETWORKS["fan"])
    manifest = json.loads((folder / "model.json").read_text())
    for output, level in zip(manifest["outputs"], (0.5, 0.9, 0.1), strict=True):
        output["quantile"] = level
    (folder / "model.json").write_text(json.dumps(manifest))
    status, _, err = verify(folder, capsys)
    assert status == 2
    assert "quantiles of 'y0' cross" in err


def test_anybody_can_run_it_on_the_shipped_bundle() -> None:
    command = [sys.executable, "-m", "training", "verify", str(SHIPPED)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "ok   files: exercise/1" in done.stdout
    assert done.stdout.count("of the reference") == 2


def test_a_changed_byte_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "exercise" / "1"
    shutil.copytree(SHIPPED, folder)
    content = bytearray((folder / "step.onnx").read_bytes())
    content[1000] ^= 1
    (folder / "step.onnx").write_bytes(bytes(content))
    status, out, err = verify(folder, capsys)
    assert (status, out) == (2, "")
    assert "exercise/1/step.onnx is corrupt" in err


def other_weights(folder: Path) -> None:
    layers = NETWORKS["lstm"].layers
    changed = replace(layers[1], b=layers[1].b + np.float32(1e-3))
    network = replace(NETWORKS["lstm"], layers=(layers[0], changed))
    swap(folder, "step.onnx", graphs(network, Form(SCAN, GEMM))["step.onnx"])


def other_single(folder: Path) -> None:
    network = replace(
        NETWORKS["lstm"], head_b=NETWORKS["lstm"].head_b + 1e-3 * np.eye(3, dtype=np.float32)[0]
    )
    swap(folder, "single.onnx", graphs(network, Form(SCAN, GEMM))["single.onnx"])


def other_for_cuda(folder: Path) -> None:
    network = replace(
        NETWORKS["lstm"], head_b=NETWORKS["lstm"].head_b + 1e-3 * np.eye(3, dtype=np.float32)[0]
    )
    swap(folder, "single.cuda.onnx", graphs(network, Form())["single.cuda.onnx"])


def rewired(folder: Path, name: str, change: Callable[[onnx.GraphProto], None]) -> None:
    model = onnx.load(folder / name)
    change(model.graph)
    swap(folder, name, model.SerializeToString())


def mixed_batch(folder: Path) -> None:
    """A sum over the whole batch goes into every row, some 1e-3 of it."""

    def change(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            node.input[:] = ["mixed" if each == "input" else each for each in node.input]
        graph.initializer.append(helper.make_tensor("share", 1, [], [1e-3]))
        graph.node.insert(0, helper.make_node("ReduceMean", ["input"], ["middle"], keepdims=1))
        graph.node.insert(1, helper.make_node("Mul", ["middle", "share"], ["part"]))
        graph.node.insert(2, helper.make_node("Add", ["input", "part"], ["mixed"]))

    (folder / "network.npz").unlink()
    manifest = json.loads((folder / "model.json").read_text())
    del manifest["files"]["network.npz"]
    (folder / "model.json").write_text(json.dumps(manifest))
    for name in ("single.onnx", "single.cuda.onnx", "step.onnx"):
        rewired(folder, name, change)


def without_guard(folder: Path) -> None:
    """Rows go back into the arenas whether they are finite or not."""

    def change(graph: onnx.GraphProto) -> None:
        wheres = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "Where"}
        for node in graph.node:
            if node.op_type == "ScatterND":
                node.input[1] = wheres[node.input[1]]

    rewired(folder, "single.onnx", change)


def wrong_rows(folder: Path) -> None:
    """read.onnx gives back a little more than what was written."""

    def change(graph: onnx.GraphProto) -> None:
        graph.initializer.append(helper.make_tensor("more", 1, [], [1.001]))
        rows = graph.output[0].name
        graph.node[0].output[0] = "kept"
        graph.node.append(helper.make_node("Mul", ["kept", "more"], [rows]))

    rewired(folder, "read.onnx", change)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (other_weights, "outputs differ from the reference by"),
        (other_single, "outputs differ from the reference by"),
        (other_for_cuda, "outputs differ from single.onnx by"),
        (mixed_batch, "outputs differ from"),
        (without_guard, "a poisoned row"),
        (wrong_rows, "what write.onnx wrote is not what read.onnx reads"),
    ],
)
def test_a_broken_promise_is_named(
    tmp_path: Path,
    spoil: Callable[[Path], None],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "drawn" / "1"
    random_bundle(folder, NETWORKS["lstm"])
    spoil(folder)
    status, _, err = verify(folder, capsys)
    assert status == 2
    assert err.startswith("tidegate-train: ")
    assert sentence in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["nowhere/1", "nowhere"])
def test_what_is_no_bundle_is_said_in_a_sentence(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = verify(tmp_path / name, capsys)
    assert (status, out) == (2, "")
    assert "nowhere" in err
    assert err.count("\n") == 1


def test_a_graph_that_fails_is_named_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "drawn" / "1"
    random_bundle(folder, NETWORKS["lstm"])

    def change(graph: onnx.GraphProto) -> None:
        graph.initializer.append(helper.make_tensor("far", 7, [1], [1000]))
        graph.node.insert(0, helper.make_node("Add", ["slots", "far"], ["beyond"]))
        graph.node[1].input[1] = "beyond"

    rewired(folder, "read.onnx", change)
    status, _, err = verify(folder, capsys)
    assert status == 2
    assert "out of data bounds" in err
    assert err.count("\n") == 1
