"""`sweep` finds the better settings, `crossval` holds every group out once."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.training.commands.tasks import config_of
from training.__main__ import main
from training.commands import crossval, sweep
from training.table.segments import folds


def test_a_sweep_tries_every_combination_and_ranks_them(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    config, runs = config_of(tmp_path), tmp_path / "runs"
    words = ["sweep", str(config), "--set", "loop.epochs=5", "--runs", str(runs),
             "--grid", "loop.rate=1e-7,3e-2", "--grid", "network.hidden=4,8",
             "--jobs", "2"]  # fmt: skip
    caplog.set_level("INFO")
    assert main(words) == 0
    trials = pl.read_csv(runs / "devices-sweep" / "trials.csv")
    tried = set(trials.select("loop.rate", "network.hidden").iter_rows())
    assert tried == {(rate, hidden) for rate in (1e-7, 3e-2) for hidden in (4, 8)}
    assert trials["validation_loss"].is_sorted()
    assert trials["loop.rate"].to_list() == [3e-2, 3e-2, 1e-7, 1e-7]
    assert "best: --set loop.rate=3e-2" in caplog.text
    assert set(trials["state"]) == {"complete"}, "four are run to their end whatever comes"
    before = (runs / "devices-sweep" / "trials.db").stat().st_mtime_ns
    assert main(words) == 0, "a sweep that is through has nothing to do"
    assert (runs / "devices-sweep" / "trials.db").stat().st_mtime_ns == before


def test_a_trial_that_lags_behind_the_others_is_left(tmp_path: Path) -> None:
    rates = "3e-2,2e-2,4e-2,5e-2,1e-7"
    words = ["sweep", str(config_of(tmp_path)), "--runs", str(tmp_path), "--set", "loop.epochs=3",
             "--set", "network.hidden=4", "--grid", f"loop.rate={rates}"]  # fmt: skip
    assert main(words) == 0
    trials = pl.read_csv(tmp_path / "devices-sweep" / "trials.csv")
    assert sorted(trials["loop.rate"]) == sorted(map(float, rates.split(",")))
    left = trials.filter(pl.col("state") == "pruned")
    assert left["loop.rate"].to_list() == [1e-7], "four are run to their end"
    assert trials["state"][-1] == "pruned"
    for more in (["--whole"], []):  # the one that was left is run to its end, and stays so
        assert main([*words, *more]) == 0
        trials = pl.read_csv(tmp_path / "devices-sweep" / "trials.csv")
        assert trials["state"].to_list() == ["complete"] * 5


def test_a_sweep_of_which_trials_failed_tries_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["sweep", str(config_of(tmp_path)), "--runs", str(tmp_path), "--set", "loop.epochs=1",
             "--grid", "network.hidden=4,5,6"]  # fmt: skip

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    for _ in range(2):
        with monkeypatch.context() as patched, pytest.raises(OSError, match="no space left"):
            patched.setattr(sweep, "fit", full)
            main(words)
    assert main(words) == 0
    trials = pl.read_csv(tmp_path / "devices-sweep" / "trials.csv")
    assert sorted(trials["network.hidden"]) == [4, 5, 6]


def test_a_sweep_needs_something_to_measure_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", str(config_of(tmp_path)), "--grid", "network.hidden=4,8"]
    assert main([*words, "--set", "split.validation=0.0"]) == 2
    assert "a sweep needs a validation part" in capsys.readouterr().err


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What `crossval` of two folds by two seeds writes, and says."""
    folder = tmp_path_factory.mktemp("crossval")
    out, said = folder / "folds.json", io.StringIO()
    words = ["crossval", str(config_of(folder)), "--folds", "2", "--seeds", "2"]
    told = logging.StreamHandler(said)
    crossval.log.addHandler(told)
    crossval.log.setLevel("INFO")
    assert main([*words, "--set", "loop.epochs=2", "--out", str(out)]) == 0
    crossval.log.removeHandler(told)
    return json.loads(out.read_text()), said.getvalue()


def test_cross_validation_holds_every_group_out_once_by_each_seed(
    crossed: tuple[dict[str, Any], str],
) -> None:
    found, said = crossed
    first = found["recipe"]["loop"]["seed"]
    assert [fold["seed"] for fold in found["folds"]] == [first] * 2 + [first + 1] * 2
    for of in (found["folds"][:2], found["folds"][2:]):
        names = [name for fold in of for name in fold["held_out"]]
        assert sorted(names) == sorted(f"d{k}" for k in range(12))
        assert [len(fold["held_out"]) for fold in of] == [6, 6]
        assert names not in (sorted(names), sorted(names, key=lambda name: int(name[1:]))), "drawn"
    assert sum(map(sum, found["confusion_at_session_end"])) == 2 * 12
    values = [fold["figures"]["accuracy_per_step"] for fold in found["folds"]]
    assert values[:2] != values[2:]
    assert found["mean"]["accuracy_per_step"] == pytest.approx(np.mean(values))
    spread = found["spread"]["accuracy_per_step"]
    assert (spread["lowest"], spread["highest"]) == (min(values), max(values))
    assert "accuracy_per_step: mean of the folds" in said
    assert f"seed {first + 1}, mean of the folds:" in said
    assert len(said) < 4000


def test_cross_validation_tells_how_sure_its_figures_are(
    crossed: tuple[dict[str, Any], str],
) -> None:
    """Groups are drawn again, each with all its sessions and by all seeds."""
    found, said = crossed
    name = "accuracy_at_session_end"  # of which each group has as many, so that means are alike
    known = found["intervals"][name]
    means = [seed["figures"][name] for seed in found["seeds"]]
    groups = [figures[name] for figures in found["by_group"].values()]
    assert len(groups) == 12
    assert known["value"] == pytest.approx(np.mean(means)) == pytest.approx(np.mean(groups))
    deviation = np.std(groups) / np.sqrt(12)
    assert deviation > 0
    assert known["value"] - known["low"] == pytest.approx(1.96 * deviation, rel=0.4)
    assert known["high"] - known["value"] == pytest.approx(1.96 * deviation, rel=0.4)
    assert "(12 groups drawn again)" in said


def test_cross_validation_by_no_seed_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["crossval", str(config_of(tmp_path)), "--seeds", "0"]) == 2
    assert "--seeds 0" in capsys.readouterr().err


def test_folds_are_drawn_by_the_seed_and_hold_every_group_once() -> None:
    names = [f"d{k:03d}" for k in range(200)]
    drawn = folds(names, 5, seed=1)
    assert drawn == folds(names, 5, seed=1) != folds(names, 5, seed=2)
    assert sorted(name for fold in drawn for name in fold) == names
    firsts = set(names[:100])
    assert all(5 < len(firsts & set(fold)) < 35 for fold in drawn)
    assert folds(names, 5, seed=None)[0] == tuple(names[:40])
