"""`upgrade` gives an older bundle CUDA's graph, proven, and leaves all else as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from server.bundle.manifest import SINGLE, SINGLE_CUDA, Manifest
from server.bundle.repository import Entry, load
from server.engine.engine import Engine
from tests.server.core.parts import CPU
from tests.server.engine.double import double_engine
from tests.training.graphs.networks import NETWORKS
from training.__main__ import main
from training.bundle import random_bundle, write_files
from training.graphs.stepping import rows
from training.graphs.whole import SCAN, Form, graphs
from training.network import FILE, Network, network_from_bytes, network_to_bytes

SHIPPED = Path(__file__).parents[2] / "models" / "exercise" / "1"
NETWORK = NETWORKS["gappy lstm"]


Files = dict[str, bytes | None]


def older(folder: Path, network: Network = NETWORK, files: Files | None = None) -> Path:
    """A bundle from before there was CUDA's graph; `files` in place of others, None: without."""
    random_bundle(folder, network)
    raw = json.loads((folder / "model.json").read_text())
    held = {name: (folder / name).read_bytes() for name in raw["files"] if name != SINGLE_CUDA}
    kept = {name: each for name, each in {**held, **(files or {})}.items() if each is not None}
    write_files(folder, raw, kept)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def manifest(folder: Path) -> Manifest:
    entry = Entry(folder.parent.name, int(folder.name), folder)
    return load(entry, folder.parent.parent).manifest


@pytest.mark.parametrize("name", ["gappy lstm", "projected", "gru"])
def test_an_older_bundle_gets_the_graph_that_an_export_would_write_and_no_other_byte_changes(
    tmp_path: Path, name: str
) -> None:
    network = NETWORKS[name]
    folder = older(tmp_path / "small" / "1", network)
    before, digest = contents(folder), manifest(folder).digest
    assert main(["upgrade", str(folder)]) == 0
    after = contents(folder)
    assert after.pop(SINGLE_CUDA) == graphs(network, Form(step=SCAN))[SINGLE_CUDA]
    told, tells = (json.loads(each.pop("model.json")) for each in (before, after))
    assert after == before
    assert tells["files"].keys() - told["files"].keys() == {SINGLE_CUDA}
    assert {**tells, "files": {}} == {**told, "files": {}}
    assert manifest(folder).digest == digest, "sessions at rest would be another bundle's"
    assert main(["verify", str(folder)]) == 0


def test_a_gpu_steps_by_it_what_the_cpu_steps(tmp_path: Path) -> None:
    folder = older(tmp_path / "small" / "1")
    assert main(["upgrade", str(folder)]) == 0
    bundle = load(Entry("small", 1, folder), tmp_path)
    ours, theirs = double_engine(bundle, 8), Engine(bundle, CPU, 8)
    ours.begin()
    assert ours.captured and ours._single_file == SINGLE_CUDA
    given = rows(range(5), np.ones((5, 1, 5), np.float32), np.zeros(5, np.bool_))
    for _ in range(3):
        np.testing.assert_allclose(ours.run(given), theirs.run(given), rtol=0, atol=1e-5)


def test_a_bundle_that_has_it_stays_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "small" / "1"
    random_bundle(folder, NETWORK)
    before = contents(folder)
    with caplog.at_level("INFO"):
        assert main(["upgrade", str(folder)]) == 0
    assert contents(folder) == before
    assert "has all that this version writes" in caplog.text


def test_what_an_upgrade_left_that_was_killed_is_in_nobody_s_way(tmp_path: Path) -> None:
    """The graph is there before the manifest names it."""
    folder = older(tmp_path / "small" / "1")
    (folder / SINGLE_CUDA).write_bytes(b"half of it")
    (folder / ".model.json.writing").write_bytes(b"{")
    assert SINGLE_CUDA not in manifest(folder).files
    assert main(["upgrade", str(folder)]) == 0
    assert SINGLE_CUDA in manifest(folder).files
    assert main(["verify", str(folder)]) == 0


def other_network() -> bytes:
    layers = (NETWORK.layers[0], replace(NETWORK.layers[1], b=NETWORK.layers[1].b + 1e-2))
    return network_to_bytes(replace(NETWORK, layers=layers))


REFUSED: list[tuple[str, Callable[[], Files]]] = [
    ("has no network.npz, of which graphs are made", lambda: {FILE: None}),
    ("has no single.onnx to prove the new graph by", lambda: {SINGLE: None}),
    ("outputs differ from single.onnx by", lambda: {FILE: other_network()}),
    ("network.npz does not hold a network", lambda: {FILE: b"PK"}),
]


@pytest.mark.parametrize(("says", "files"), REFUSED, ids=[says for says, _ in REFUSED])
def test_what_cannot_be_made_or_is_not_the_same_is_refused_and_nothing_changes(
    tmp_path: Path,
    says: str,
    files: Callable[[], Files],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = older(tmp_path / "small" / "1", files=files())
    before = contents(folder)
    assert main(["upgrade", str(folder)]) == 2
    assert says in capsys.readouterr().err
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"export": {"form": {"precision": "int8"}}}, "is in int8, which is for the CPU alone"),
        ({"export": {"form": {"precision": "fp4"}}}, "in fp4, opset 18, not in float32, float16"),
        ({"opset": "new"}, "in float32, opset new, not in float32, float16, int8; opset 18, 21"),
    ],
)
def test_a_bundle_of_another_make_is_left_alone(
    tmp_path: Path, told: dict[str, object], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = older(tmp_path / "small" / "1")
    (folder / "model.json").write_text(json.dumps(json.loads(
        (folder / "model.json").read_text()) | told))  # fmt: skip
    before = contents(folder)
    assert main(["upgrade", str(folder)]) == 2
    assert says in capsys.readouterr().err
    assert contents(folder) == before


def test_a_signed_bundle_is_signed_anew_or_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, key = older(tmp_path / "models" / "small" / "1"), Ed25519PrivateKey.generate()
    private, trusted = tmp_path / "signing.pem", tmp_path / "trusted.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = key.public_key()
    trusted.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert main(["sign", str(folder), "--key", str(private)]) == 0
    before = contents(folder)
    for more in ([], ["--key", str(trusted)], ["--key", str(tmp_path / "nowhere")]):
        assert main(["upgrade", str(folder), *more]) == 2
        assert contents(folder) == before
    assert "is signed, and would not be what was signed: name --key" in capsys.readouterr().err
    assert main(["upgrade", str(folder), "--key", str(private)]) == 0
    assert main(["verify", str(folder), "--trusted-keys", str(trusted)]) == 0
    assert SINGLE_CUDA in manifest(folder).files


def test_the_shipped_bundle_has_the_graph_of_its_own_network() -> None:
    network = network_from_bytes((SHIPPED / FILE).read_bytes())
    form = Form(**json.loads((SHIPPED / "model.json").read_text())["export"]["form"])
    assert (SHIPPED / SINGLE_CUDA).read_bytes() == graphs(network, form)[SINGLE_CUDA]
