"""`report --against` shows which features a real server has seen move, and how much."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from tests.harness import RunningServer, running_server
from tests.training.conftest import Bundles
from tidegate import SyncClient
from training.__main__ import main
from training.insight.moved import movement

MANIFEST = {"name": "devices", "version": 2}


def stream(server: RunningServer, shift: float) -> None:
    """Steps whose load has moved, until the server has seen enough to tell."""
    rng, done = np.random.default_rng(0), 0
    ids = [f"s{k}" for k in range(4)]
    until = time.monotonic() + 30
    with SyncClient(server.address) as client:
        while server.metric("tidegate_feature_samples", version="2") < 1_000:
            assert time.monotonic() < until
            for at in range(done, done + 200):
                x = np.stack([rng.normal(shift, 1, 4), rng.integers(0, 3, 4)], axis=1)
                client.step_many("devices", ids, [at] * 4, x).raise_first()
            done += 200


def test_a_feature_that_moved_is_named_on_the_page_and_in_the_sentence(
    bundles: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.html"
    with running_server(bundles.models, drift_window=20.0) as server:
        found = movement(server.metrics_url, MANIFEST)
        assert {each.words for each in found.features} == {"too few steps yet"}
        assert found.sentence.startswith("Too early to tell whether features moved: ")
        stream(server, shift=2.0)
        words = ["report", str(bundles.good), "--out", str(out)]
        assert main([*words, "--against", server.metrics_url]) == 0
        said = capsys.readouterr().out
    lines = said.splitlines()
    assert lines[0].startswith("load: PSI ") and lines[0].endswith(", much")
    assert float(lines[0].split()[2].rstrip(",")) > 1
    assert lines[1].startswith("mode: PSI 0.0") and lines[1].endswith(", little")
    assert lines[2].startswith("1 of 2 features moved much over 1,")
    assert "load (PSI " in lines[2] and "train again" in lines[2]
    page = out.read_text()
    assert lines[2] in page
    assert "feature, as served" in page
    assert main([*words, "--against", server.metrics_url]) == 2, "the server is gone"
    assert "no answer from" in capsys.readouterr().err.splitlines()[-1]


def page(folder: Path, text: str) -> str:
    (folder / "page").write_text(text)
    return (folder / "page").as_uri()


def test_what_tells_nothing_of_the_bundle_is_one_sentence(
    bundles: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["report", str(bundles.good), "--out", str(tmp_path / "x.html"), "--against"]
    assert main([*words, page(tmp_path, "tidegate_feature_psi 1")]) == 2
    assert "must be a URL of http or https" in capsys.readouterr().err
    with running_server(bundles.models.parent / "models") as server:
        assert main([*words, f"http://{server.address}/metrics"]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "x.html").exists()
