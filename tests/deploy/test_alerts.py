"""The alerts fire when they should, and each says what is to be done."""

from __future__ import annotations

import re
import subprocess

from tests.harness import ROOT

FOLDER = ROOT / "deploy" / "prometheus"
ALERTS = re.findall(r"^ +- alert: (\w+)$", (FOLDER / "alerts.yml").read_text(), re.MULTILINE)


def test_every_alert_fires_on_its_fault_alone() -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yml"],
        cwd=FOLDER, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def test_every_alert_is_tested_by_one_that_fires() -> None:
    text = (FOLDER / "alerts_test.yml").read_text()
    blocks = re.split(r"- alertname: ", text)[1:]
    assert {each.split("\n")[0] for each in blocks if "exp_alerts" in each} == set(ALERTS)


def test_the_runbook_has_every_alert_and_no_other() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    entries = re.split(r"^### ", runbook, flags=re.MULTILINE)[1:]
    assert sorted(each.split("\n")[0] for each in entries) == sorted(ALERTS)
    assert all(len(each.split()) > 15 for each in entries)
