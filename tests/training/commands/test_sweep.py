"""`sweep` finds the better settings."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tests.training.commands.tasks import config_of
from training.__main__ import main
from training.commands import sweep


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


def test_a_grid_of_what_is_no_setting_is_refused_before_anything_is_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", str(config_of(tmp_path)), "--runs", str(tmp_path)]
    assert main([*words, "--grid", "network.hiden=4,8"]) == 2
    said = capsys.readouterr().err
    assert "network.hiden is no setting" in said
    assert "Trace" not in said
    assert main([*words, "--grid", "loop.rate=1e-2,many"]) == 2
    assert not (tmp_path / "devices-sweep").exists()


def test_a_sweep_needs_something_to_measure_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", str(config_of(tmp_path)), "--grid", "network.hidden=4,8"]
    assert main([*words, "--set", "split.validation=0.0"]) == 2
    assert "a sweep needs a validation part" in capsys.readouterr().err
