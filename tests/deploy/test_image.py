"""What the image's check finds, and what the Dockerfile promises of the image."""

from __future__ import annotations

import json
import os
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.harness import ROOT

sys.path.insert(0, str(ROOT / "deploy"))
import image_check


def test_what_must_not_be_there_is_found(tmp_path: Path) -> None:
    for name in ("bin/su", "lib/site-packages/pip/x.py", "etc/open", "data/mine"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "bin" / "su").chmod(0o4755)
    (tmp_path / "etc" / "open").chmod(0o666)
    other = os.getuid() + 1
    assert sorted(image_check.problems(tmp_path, other)) == [
        f"{tmp_path}/bin/su is setuid or setgid",
        f"{tmp_path}/etc/open can be written by user {other}",
        f"{tmp_path}/lib/site-packages/pip is of pip",
    ]


def test_a_list_of_packages_that_is_not_true_is_found(tmp_path: Path) -> None:
    sbom = tmp_path / "sbom.json"
    installed = [{"name": each.name, "version": each.version} for each in metadata.distributions()]
    sbom.write_text(json.dumps({"components": installed}))
    assert list(image_check.missing(sbom)) == []
    numpy = metadata.version("numpy")
    changed = [each | {"version": "0"} if each["name"] == "numpy" else each for each in installed]
    sbom.write_text(json.dumps({"components": changed}))
    assert list(image_check.missing(sbom)) == [
        f"numpy 0 is either not installed or not in {sbom}",
        f"numpy {numpy} is either not installed or not in {sbom}",
    ]


@pytest.mark.parametrize("lock", ["server", "gpu", "build", "sbom"])
def test_all_that_the_image_installs_is_pinned_by_hash(lock: str) -> None:
    lines = (ROOT / "requirements" / f"{lock}.lock").read_text().splitlines()
    pins = [k for k, line in enumerate(lines) if line[:1].isalnum()]
    assert pins
    for k in pins:
        assert "==" in lines[k]
        assert "--hash=sha256:" in lines[k + 1]
    used = (ROOT / "Dockerfile").read_text()
    assert f"--require-hashes -r requirements/{lock}.lock" in used.replace(" /req", " req")


def test_the_dockerfile_s_last_stage_is_no_root_s() -> None:
    last = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert last.count("\nUSER ") == 1
    assert "\nUSER 10001:10001\n" in last
    assert "RUN" not in last.partition("\nUSER ")[2]
    assert "COPY" not in last.partition("\nUSER ")[2]
