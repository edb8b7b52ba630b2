"""One command measures all, as users run it, and leaves tables and plots."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.harness import ROOT

PLOTS = {
    "cost-by-sessions.svg", "cpu-by-in-flight.svg", "latency-by-load.svg", "rate-by-batch.svg",
    "rate-by-in-flight.svg",
}  # fmt: skip


def test_every_table_and_plot_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    command = [sys.executable, "-m", "benchmarks.everything", "--quick", "--out", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told = (folder / "MEASURED.md").read_text()
    for section in (
        "Ways in",
        "Single steps",
        "Calls at random",
        "Sessions that are",
        "Whole lives",
    ):
        table = told.partition(f"\n## {section}")[2].partition("\n## ")[0]
        assert table.count("\n| ") >= 2, section
    assert {file.name for file in (folder / "plots").iterdir()} == PLOTS
    assert all(f"plots/{name}" in told for name in PLOTS)
