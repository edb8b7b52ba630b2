"""The notebook, run from its first cell to its last in a process of its own, serves a session."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.harness import ROOT

NOTEBOOK = ROOT / "examples" / "dataframe.ipynb"


def cells() -> list[str]:
    found = json.loads(NOTEBOOK.read_text())["cells"]
    return ["".join(each["source"]) for each in found if each["cell_type"] == "code"]


def test_twenty_lines_take_a_frame_to_a_served_session(tmp_path: Path) -> None:
    code = "\n".join(cells())
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout.splitlines()
    assert said[0].startswith("The network ") and "its best baseline, " in said[0]
    assert said[1].startswith("models/pumps/1 {'accuracy_per_step': 0.9")
    steps = [re.fullmatch(r"\S+ \{'cold': '([\d.]+)', 'hot': '([\d.]+)'\}", line)
             for line in said[2:]]  # fmt: skip
    assert len(steps) == 4
    cold, hot = zip(*(map(float, step.groups()) for step in steps if step), strict=True)
    assert all(abs(a + b - 1) < 0.002 for a, b in zip(cold, hot, strict=True))
    assert hot[1] < 0.5 < hot[2], "a strong load makes it hot"
    assert (tmp_path / "models" / "pumps" / "1" / "model.json").is_file()


def test_its_outputs_are_of_a_run_and_name_no_machine() -> None:
    text = NOTEBOOK.read_text()
    assert "its best baseline" in text
    assert "/tmp/" not in text and "/home/" not in text
