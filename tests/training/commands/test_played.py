"""From a table to a bundle, to a file of held-out sessions, through a real server: what `tidegate
stream` measures is what `fit` measured, categories, gaps and what training never saw included."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import tidegate
from tests.harness import running_server
from tests.training.commands.tasks import config_of, delayed, fit
from training.__main__ import main

TASK = ("loop.epochs=15", "loop.rate=3e-2", "network.hidden=12", "loop.window=20",
        "split.test=['d0', 'd3', 'd7']", "split.validation=['d1']")  # fmt: skip
HELD_OUT = ("d0", "d3", "d7")
SIGNS = {"2": 1.0, "10": -1.0, " odd": 3.0, "new": 0.0}


def by_category(*gaps: int) -> list[list[Any]]:
    """What is wanted is the load, times what the category says: numbers, a text with a space in
    front, and one that is in held-out sessions alone."""
    table = []
    for k, (device, second, load, mode, _) in enumerate(delayed()):
        kind = ("2", "10", " odd")["abc".index(mode)]
        kind = "new" if device == "d3" and second % 9 == 0 else kind
        wanted = round(load * SIGNS[kind], 3)
        table.append([device, second, "" if k in gaps else load, kind, wanted])
    return table


def played(folder: Path, column: str, *more: str) -> tuple[dict[str, float], str]:
    """The figures that `fit` wrote, and what `stream` said of its examples."""
    manifest = json.loads((folder / "models" / "devices" / "1" / "model.json").read_text())

    with running_server(folder / "models") as server:
        done = tidegate(
            "stream",
            folder / "e.csv",
            "--session-column",
            "session",
            *more,
            "--label-column",
            column,
            "--model",
            "devices",
            "--address",
            server.address,
        )
    assert (done.returncode, done.stderr) == (0, "")
    return manifest["training"]["held_out"], done.stdout


def examples(config: Path, folder: Path, *overrides: str) -> list[dict[str, str]]:
    """The held-out sessions, as the command writes them."""
    sets = [word for each in overrides for word in ("--set", each)]
    assert main(["examples", str(config), *sets, "--out", str(folder / "e.csv")]) == 0
    with (folder / "e.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_forecast_by_categories_errs_when_served_as_it_did_when_measured(tmp_path: Path) -> None:
    table = by_category(3, 4, 50, 51)
    config = config_of(tmp_path, table)
    given = (*TASK, "features.load.missing=true", "target={kind='value', columns=['state']}")
    fit(config, tmp_path, *given)
    written = examples(config, tmp_path, *given)
    told = [row[3] if row[3] != "new" else "unknown" for row in table if row[0] in HELD_OUT]
    assert sorted(row["mode"] for row in written) == sorted(told)
    assert sum(not row["load"] for row in written) == 2
    figures, said = played(tmp_path, "true_state")
    found = re.search(r"^RMSE       state ([\d.]+)$", said, re.MULTILINE)
    assert found and float(found[1]) == pytest.approx(figures["rmse_state"], rel=1e-4)
    assert "cells of 'mode' are unknown to the model, which knows  odd, 10, 2\n" in said


def test_classes_by_categories_are_named_right_as_often_as_measured(tmp_path: Path) -> None:
    table = [[*row[:4], "up" if row[4] > 0 else "down"] for row in by_category()]
    config = config_of(tmp_path, table)
    given = (*TASK, "target={kind='class', columns=['state'], horizon=1}")
    fit(config, tmp_path, *given)
    examples(config, tmp_path, *given)
    figures, said = played(tmp_path, "label")
    found = re.search(r"^accuracy   ([\d.]+) per step, ([\d.]+) at session end", said, re.MULTILINE)
    assert found and float(found[1]) == pytest.approx(figures["accuracy_per_step"], abs=6e-4)
    assert float(found[2]) == pytest.approx(figures["accuracy_at_session_end"], abs=6e-4)


def test_a_forecast_is_measured_by_the_rows_to_come_of_a_table_of_one_s_own(
    tmp_path: Path,
) -> None:
    config = config_of(tmp_path, delayed())
    given = (*TASK, "features={load={}}", "target={kind='next', columns=['load'], horizon=2}")
    fit(config, tmp_path, *given)
    rows = [row for row in delayed() if row[0] in HELD_OUT]
    with (tmp_path / "e.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("session", "second", "load", "mode", "state"), *rows])
    figures, said = played(tmp_path, "load", "--horizon", "2")
    found = re.search(r"^RMSE       load ([\d.]+)$", said, re.MULTILINE)
    assert found and float(found[1]) == pytest.approx(figures["rmse_load"], rel=1e-4)


def test_examples_that_cannot_be_written_are_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["examples", str(config_of(tmp_path)), "--out", str(tmp_path / "no" / "e.csv")]) == 2
    )
    assert "e.csv cannot be written: No such file or directory" in capsys.readouterr().err
