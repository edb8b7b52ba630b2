"""Bundles that somebody wrote to do harm come into a live server's repository: it serves on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from tests.harness import ROOT, small_model, start
from tests.server.bundle.malicious import UNSOUND, outside, rewrite
from tests.server.bundle.test_signature import make_key
from tests.server.serving.operating import (
    Operated,
    assert_close,
    eventually,
    observations,
    operated,
)
from tests.server.serving.test_watching import reasons_not_served
from tests.server.transports import NATIVE, over
from training.__main__ import main

pytestmark = over(NATIVE)


def _unsound(case: str) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, "step.onnx", UNSOUND[case][0]().SerializeToString())


def _reads_the_host(folder: Path) -> None:
    """A whole model that answers with the beginning of a file that lies in the server's working
    directory: onnxruntime itself would serve it."""
    model = onnx.load_from_string((folder / "single.onnx").read_bytes())
    assert (ROOT / "README.md").exists()
    secret = outside("README.md")
    secret.data_type, secret.external_data[2].value = onnx.TensorProto.FLOAT, "768"
    secret.dims[:] = [64, 3]
    model.graph.initializer.append(secret)
    (last,) = [node for node in model.graph.node if "output" in node.output]
    last.output[0] = "before"
    model.graph.node.extend(
        [
            onnx.helper.make_node("Sub", ["slots", "slots"], ["at"]),
            onnx.helper.make_node("Gather", ["secret", "at"], ["picked"]),
            onnx.helper.make_node("Add", ["before", "picked"], ["output"]),
        ]
    )
    rewrite(folder, "single.onnx", model.SerializeToString())


def _pipe(name: str) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return put


def _states(**fields: object) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        file = folder / "model.json"
        manifest = json.loads(file.read_text())
        manifest["states"][0] |= fields
        file.write_text(json.dumps(manifest))

    return put


def _huge(folder: Path) -> None:
    os.truncate(folder / "network.npz", 1 << 42)


HARM: dict[str, tuple[Callable[[Path], None], str]] = {
    "reads the host": (_reads_the_host, "'secret' from another file"),
    **{
        case: (_unsound(case), UNSOUND[case][1])
        for case in ("a compiled context", "functions that double", "too many turns", "a huge copy")
    },
    "a pipe for a manifest": (_pipe("model.json"), "model.json cannot be read: it is no plain"),
    "a pipe for a graph": (_pipe("step.onnx"), "step.onnx cannot be read: it is no plain file"),
    "a billion units": (_states(shape=[10**9]), "no room for 10,000 sessions"),
    "another type": (_states(dtype="float64"), "model.json says float64"),
    "a huge file": (_huge, "network.npz has 4,398,046,511,104 bytes, more than"),
}


def refused(running: Operated) -> dict[str, str]:
    """Why each of the bad versions is not served; version 1 is the good one."""
    found = reasons_not_served(running)
    return {case: found.get(str(number), "") for number, case in enumerate(HARM, start=2)}


def test_a_live_server_refuses_each_by_name_and_serves_on(tmp_path: Path) -> None:
    xs = observations(1, 400)
    with operated(tmp_path, 1) as running:
        running.open("s")
        got = [running.step("s", 0, xs[:1])]
        for number, case in enumerate(HARM, start=2):
            folder = tmp_path / "apart" / "small" / str(number)
            small_model(tmp_path / "apart", version=number)
            HARM[case][0](folder)
            shutil.move(folder, running.repository / "small" / str(number))
            got.append(running.step("s", len(got), xs[len(got) : len(got) + 1]))
        eventually(lambda: all(refused(running).values()))
        for case, reason in refused(running).items():
            assert HARM[case][1] in reason, case
            assert reason.startswith("small/"), case
        while len(got) < 40:
            got.append(running.step("s", len(got), xs[len(got) : len(got) + 1]))
        assert_close(np.concatenate(got), running.expected(1, xs[: len(got)]))
        assert running.versions() == [1]
        assert running.server.metric("tidegate_models_broken") == len(HARM)
        assert running.server.terminate() == 0


def test_a_server_with_trusted_keys_serves_what_they_signed_alone(tmp_path: Path) -> None:
    private, public = make_key(tmp_path, "ours")
    stranger, _ = make_key(tmp_path, "stranger")
    repository = tmp_path / "models"
    for version in (1, 2, 3):
        small_model(repository, version=version, seed=version)
    main(["sign", str(repository / "small" / "1"), "--key", str(private)])
    main(["sign", str(repository / "small" / "2"), "--key", str(stranger)])
    with operated(tmp_path, trusted_keys=public) as running:
        assert running.versions() == [1]
        reasons = reasons_not_served(running)
        assert "model.json.sig is not model.json's signature by any trusted key" in reasons["2"]
        assert "small/3 is not signed" in reasons["3"]
        assert "not served: small/3 is not signed" in running.server.log()
        main(["sign", str(repository / "small" / "3"), "--key", str(private)])
        eventually(lambda: running.versions() == [1, 3])
        assert running.server.metric("tidegate_models_broken") == 1


def test_a_server_does_not_start_without_its_trusted_keys(tmp_path: Path) -> None:
    keys = tmp_path / "keys.pem"
    keys.write_text("no key\n")
    process, log = start(tmp_path, "--trusted-keys", str(keys))
    try:
        assert process.wait(30) == 2
        assert f"{keys} must hold public keys (PEM) and nothing else" in log.read_text()
    finally:
        log.unlink()


def test_the_digests_of_the_harmful_are_right(tmp_path: Path) -> None:
    """So nothing is refused for a digest that was meant to be refused for what it holds."""
    small_model(tmp_path)
    folder = tmp_path / "small" / "1"
    _reads_the_host(folder)
    files = json.loads((folder / "model.json").read_text())["files"]
    for name, digest in files.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
