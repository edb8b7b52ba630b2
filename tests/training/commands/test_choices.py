"""`sweep` finds the better settings, `crossval` holds every group out once."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.commands.tasks import config_of
from training.__main__ import main
from training.commands import crossval, sweep
from training.crossval.choosing import chosen, settings
from training.crossval.fold import Fit, Fold, without
from training.recipe.recipe import from_mapping
from training.scoring.scorer import END, Scorer
from training.table.segments import folds
from training.table.session import Target

PLAIN = {
    "name": "devices",
    "source": {"file": "none.csv"},
    "table": {"session": "device", "order": "second"},
    "features": {"load": {"unit": "V"}},
    "target": {"columns": ["state"]},
}


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
    """What `crossval` of three folds by two seeds writes, and says, the rate chosen within them."""
    folder = tmp_path_factory.mktemp("crossval")
    out, said = folder / "folds.json", io.StringIO()
    words = ["crossval", str(config_of(folder)), "--folds", "3", "--seeds", "2", "--baselines",
             "--set", "loop.epochs=3", "--choose", "loop.rate=1e-7,3e-2"]  # fmt: skip
    told = logging.StreamHandler(said)
    crossval.log.addHandler(told)
    crossval.log.setLevel("INFO")
    assert main([*words, "--out", str(out)]) == 0
    crossval.log.removeHandler(told)
    return json.loads(out.read_text()), said.getvalue()


def test_cross_validation_holds_every_group_out_once_by_each_seed(
    crossed: tuple[dict[str, Any], str],
) -> None:
    found, said = crossed
    first = found["recipe"]["loop"]["seed"]
    assert [fold["seed"] for fold in found["folds"]] == [first] * 3 + [first + 1] * 3
    for of in (found["folds"][:3], found["folds"][3:]):
        names = [name for fold in of for name in fold["held_out"]]
        assert sorted(names) == sorted(f"d{k}" for k in range(12))
        assert [len(fold["held_out"]) for fold in of] == [4, 4, 4]
        assert names not in (sorted(names), sorted(names, key=lambda name: int(name[1:]))), "drawn"
    assert sum(map(sum, found["confusion_at_session_end"])) == 2 * 12
    values = [fold["figures"]["accuracy_per_step"] for fold in found["folds"]]
    assert values[:3] != values[3:]
    assert found["mean"]["accuracy_per_step"] == pytest.approx(np.mean(values))
    spread = found["spread"]["accuracy_per_step"]
    assert (spread["lowest"], spread["highest"]) == (min(values), max(values))
    assert "accuracy_per_step: mean of the folds" in said
    assert f"seed {first + 1}, mean of the folds:" in said
    assert len(said) < 5000


def test_each_fold_is_trained_with_what_was_best_in_the_others(
    crossed: tuple[dict[str, Any], str],
) -> None:
    found, said = crossed
    folds = [fold["held_out"] for fold in found["folds"][:3]]
    assert [choice["held_out"] for choice in found["choices"]] == folds
    for choice in found["choices"]:
        slow, quick = choice["measured"]
        assert choice["setting"] == quick["setting"] == {"loop.rate": "3e-2"}
        assert quick["accuracy_per_step"] > slow["accuracy_per_step"]
    assert all(fold["chosen"] == {"loop.rate": "3e-2"} for fold in found["folds"])
    assert said.count("by the others' accuracy_per_step: loop.rate=3e-2 (of") == 3


def test_the_network_is_compared_with_baselines_of_the_same_folds(
    crossed: tuple[dict[str, Any], str],
) -> None:
    found, said = crossed
    assert set(found["baselines"]) == {"commonest", "logistic_6_lags", "trees_6_lags"}
    name = "accuracy_per_step"
    theirs = {known: each[name]["value"] for known, each in found["baselines"].items()}
    assert found["best"] == max(theirs, key=theirs.__getitem__)
    assert theirs["commonest"] < 0.7 < theirs["trees_6_lags"], "the latter see two steps before"
    apart = found["intervals"][name]["value"] - theirs[found["best"]]
    assert found["difference"]["value"] == pytest.approx(apart)
    assert found["difference"]["low"] < apart < found["difference"]["high"]
    assert found["sentence"] in said
    assert "12 groups)" in found["sentence"]


def test_a_share_for_validation_is_drawn_in_each_fold_and_named_groups_are_not() -> None:
    recipe = from_mapping(PLAIN | {"split": {"validation": 0.25, "test": 0.5}})
    assert without(recipe, ("d1",)).recipe.split.validation == 0.25
    named = from_mapping(PLAIN | {"split": {"validation": ["d1"], "test": ["d2"]}})
    assert without(named, ("d1",)).recipe.split.validation == ()
    assert without(named, ("d1",)).recipe.split.test == ("d1",)


@given(
    shares=st.lists(st.tuples(*[st.integers(0, 9)] * 4), min_size=2, max_size=4),
    own=st.integers(0, 2**32),
)
def test_a_folds_own_groups_have_no_say_in_what_it_is_trained_with(
    shares: list[tuple[int, ...]], own: int
) -> None:
    """Of four folds each setting names so many of 10 sessions right; a fold's own figures, drawn
    anew, change nothing of what is chosen for it."""
    folds = [("a", "b"), ("c",), ("d",), ("e", "f")]
    every = settings({"network.hidden": [str(k) for k in range(len(shares))]})
    recipes = dict.fromkeys(every, from_mapping(PLAIN))
    scorer = Scorer(Target(("state",), labels=("no", "yes")), np.ones(1))
    anew = np.random.default_rng(own)

    def run(fits: Sequence[Fit], blind: int | None) -> list[Fold]:
        return [_told(each, folds, shares, blind, anew) for each in fits]

    plain = chosen(recipes, folds, END, scorer, partial(run, blind=None))
    for k, fold in enumerate(folds):
        others = [sum(share[:k] + share[k + 1 :]) for share in shares]
        assert plain[k].held_out == fold
        assert plain[k].setting == every[others.index(max(others))], "the first of equals"
        again = chosen(recipes, folds, END, scorer, partial(run, blind=k))
        assert again[k] == plain[k]


def _told(
    wanted: Fit,
    folds: Sequence[tuple[str, ...]],
    shares: Sequence[tuple[int, ...]],
    blind: int | None,
    anew: np.random.Generator,
) -> Fold:
    """A fold whose first group has 10 sessions, of which so many are right."""
    sums = {}
    for k, fold in enumerate(folds):
        if not {*fold} <= {*wanted.held_out}:
            continue
        right = shares[int(wanted.chosen["network.hidden"])][k]
        right = int(anew.integers(0, 10)) if k == blind else right
        for group in fold:
            sums[group] = np.array([0.0] * 6 + ([right, 10] if group == fold[0] else [0, 0]))
    assert wanted.recipe.split.test == wanted.held_out
    return Fold(wanted.held_out, 1, {}, sums, (), 0, wanted.chosen)


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


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--seeds", "0"], "--seeds 0"),
        (["--folds", "13"], "12 groups cannot make 13 folds"),
        (["--by", "accuracy_per_step"], "nothing to choose"),
        (["--choose", "network.hidden=4,8", "--by", "rmse"], "there is no such figure"),
        (["--choose", "network.hidden"], "--choose must be KEY=A,B,..."),
        (["--choose", "network.hidden=4,many"], "network.hidden"),
        (["--choose", "network.hidden=4,8", "--folds", "2"], "at least 3 folds"),
    ],
)
def test_what_cannot_be_cross_validated_is_told_before_anything_is_trained(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    why: str,
) -> None:
    monkeypatch.setattr(crossval, "fitted", None)
    assert main(["crossval", str(config_of(tmp_path)), *words]) == 2
    assert why in capsys.readouterr().err


def test_folds_are_drawn_by_the_seed_and_hold_every_group_once() -> None:
    names = [f"d{k:03d}" for k in range(200)]
    drawn = folds(names, 5, seed=1)
    assert drawn == folds(names, 5, seed=1) != folds(names, 5, seed=2)
    assert sorted(name for fold in drawn for name in fold) == names
    firsts = set(names[:100])
    assert all(5 < len(firsts & set(fold)) < 35 for fold in drawn)
    assert folds(names, 5, seed=None)[0] == tuple(names[:40])
