"""`crossval` holds every group out once, chooses within folds, and goes on after a kill."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness import ROOT
from tests.training.commands.tasks import config_of
from training.__main__ import main
from training.commands import crossval
from training.crossval.choosing import chosen
from training.crossval.fold import Fit, Fold, without
from training.recipe.grid import settings
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


Crossed = tuple[dict[str, Any], str, list[str]]


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> Crossed:
    """What `crossval` of three folds by two seeds writes and says, the rate chosen within them;
    and the words that it was told."""
    folder = tmp_path_factory.mktemp("crossval")
    said = io.StringIO()
    words = _words(config_of(folder), folder)
    told = logging.StreamHandler(said)
    crossval.log.addHandler(told)
    crossval.log.setLevel("INFO")
    assert main(words) == 0
    crossval.log.removeHandler(told)
    return _written(folder), said.getvalue(), words


def _words(config: Path, folder: Path) -> list[str]:
    return ["crossval", str(config), "--folds", "3", "--seeds", "2", "--baselines",
            "--set", "loop.epochs=2", "--choose", "loop.rate=1e-7,3e-2",
            "--runs", str(folder), "--out", str(folder / "out.json")]  # fmt: skip


def _written(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return found


def test_cross_validation_holds_every_group_out_once_by_each_seed(
    crossed: Crossed,
) -> None:
    found, said, _ = crossed
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
    crossed: Crossed,
) -> None:
    found, said, _ = crossed
    folds = [fold["held_out"] for fold in found["folds"][:3]]
    assert [choice["held_out"] for choice in found["choices"]] == folds
    for choice in found["choices"]:
        slow, quick = choice["measured"]
        assert choice["setting"] == quick["setting"] == {"loop.rate": "3e-2"}
        assert quick["accuracy_per_step"] > slow["accuracy_per_step"]
    assert all(fold["chosen"] == {"loop.rate": "3e-2"} for fold in found["folds"])
    assert said.count("by the others' accuracy_per_step: loop.rate=3e-2 (of") == 3


def test_the_network_is_compared_with_baselines_of_the_same_folds(
    crossed: Crossed,
) -> None:
    found, said, _ = crossed
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


def test_what_is_through_is_not_done_again_and_what_is_spoilt_is(crossed: Crossed) -> None:
    found, _, words = crossed
    folder = Path(words[words.index("--runs") + 1])
    kept = sorted((folder / "devices-crossval").iterdir())
    assert len(kept) == 6 + 6, "of each setting each two folds, then each fold by each seed"
    before = [file.stat().st_mtime_ns for file in kept]
    kept[0].unlink()
    kept[1].write_text('{"held_out": ["d1"]}')
    assert main(words) == 0
    assert _without_seconds(_written(folder)) == _without_seconds(found)
    after = [file.stat().st_mtime_ns for file in sorted((folder / "devices-crossval").iterdir())]
    assert after[2:] == before[2:]
    assert after[0] > before[0]
    assert after[1] > before[1]


def test_a_cross_validation_whose_processes_are_killed_says_so_and_goes_on(
    crossed: Crossed, tmp_path: Path
) -> None:
    found, _, _ = crossed
    words = ["crossval", str(config_of(tmp_path)), "--folds", "3", "--processes", "1",
             "--set", "loop.epochs=2", "--set", "loop.rate=3e-2",
             "--runs", str(tmp_path), "--out", str(tmp_path / "out.json")]  # fmt: skip
    command = [sys.executable, "-m", "training", *words]
    with subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert "held out" in process.stderr.readline()
        for each in _others(process.pid):
            os.kill(each, signal.SIGKILL)
        said = process.stderr.read()
        assert process.wait(60) == 2
    assert "a process that trained was killed" in said
    assert len(list((tmp_path / "devices-crossval").glob("[!.]*"))) < 3, "it was through"
    assert main(words) == 0
    ours = [fold["figures"] for fold in _written(tmp_path)["folds"]]
    assert ours == [fold["figures"] for fold in found["folds"][:3]]


def _others(session: int) -> Iterator[int]:
    """The processes of a session but for its first."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        pid, rest = int(stat.parent.name), stat.read_text().rpartition(")")[2].split()
        if int(rest[3]) == session != pid:
            yield pid


def _without_seconds(found: dict[str, Any]) -> dict[str, Any]:
    folds = [{k: v for k, v in fold.items() if k != "seconds"} for fold in found["folds"]]
    return {**found, "folds": folds}


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
        right = shares[int(dict(wanted.chosen)["network.hidden"])][k]
        right = int(anew.integers(0, 10)) if k == blind else right
        for group in fold:
            sums[group] = np.array([0.0] * 6 + ([right, 10] if group == fold[0] else [0, 0]))
    assert wanted.recipe.split.test == wanted.held_out
    return Fold(wanted.held_out, 1, {}, sums, (), 0, wanted.chosen)


def test_cross_validation_tells_how_sure_its_figures_are(
    crossed: Crossed,
) -> None:
    """Groups are drawn again, each with all its sessions and by all seeds."""
    found, said, _ = crossed
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
        (["--out", "nowhere/out.json"], "there is no folder nowhere"),
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
    monkeypatch.setattr(crossval, "_each", None)
    assert main(["crossval", str(config_of(tmp_path)), "--runs", str(tmp_path), *words]) == 2
    assert why in capsys.readouterr().err


def test_folds_are_drawn_by_the_seed_and_hold_every_group_once() -> None:
    names = [f"d{k:03d}" for k in range(200)]
    drawn = folds(names, 5, seed=1)
    assert drawn == folds(names, 5, seed=1) != folds(names, 5, seed=2)
    assert sorted(name for fold in drawn for name in fold) == names
    firsts = set(names[:100])
    assert all(5 < len(firsts & set(fold)) < 35 for fold in drawn)
    assert folds(names, 5, seed=None)[0] == tuple(names[:40])
