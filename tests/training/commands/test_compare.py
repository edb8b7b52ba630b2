"""`compare`: two bundles on the sessions that both held out, and a sentence to act by."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.training.commands.tasks import config_of, delayed, fit
from tests.training.conftest import Bundles
from tests.training.tables import write_table
from training.__main__ import main


def compare(*words: object) -> int:
    return main(["compare", *map(str, words)])


def test_the_one_that_learned_is_better_overall_by_class_and_in_every_segment(
    bundles: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.json"
    words = (bundles.poor, bundles.good, "--table", bundles.table)
    assert compare(*words, "--by", "mode", "--by", "load", "--by", "state", "--out", out) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("devices/2 is better than devices/1: accuracy per step 0.")
    found = json.loads(out.read_text())
    assert found["sentence"] == last
    assert found["sessions"] == 12
    apart = found["differences"]["accuracy_per_step"]
    assert 0.1 < apart["low"] < apart["value"] < apart["high"]
    assert set(found["classes"]) == {"down", "up"}
    names = list(found["segments"])
    assert names[:3] == ["mode = a", "mode = b", "mode = c"]
    assert [name.split()[0] for name in names[3:7]] == ["load"] * 4
    assert names[7:] == ["state = down", "state = up"]
    assert all(found["segments"][name]["difference"]["low"] > 0 for name in names[:7])
    recalls = {f"state = {label}": each["recall"] for label, each in found["classes"].items()}
    for name in names[7:]:  # within a class, what is right is its recall
        assert found["segments"][name]["difference"] == pytest.approx(recalls[name])


def test_the_other_way_round_it_is_worse_and_beside_itself_not_told_apart(
    bundles: Bundles, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(bundles.good, bundles.poor) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("devices/1 is worse than devices/2")
    assert compare(bundles.good, bundles.good) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "are not told apart: accuracy per step" in last
    assert "a difference of +0.000 (95 % interval +0.000 to +0.000, 12 sessions)" in last


def names_held_out(bundle: Path) -> set[str]:
    split = json.loads((bundle / "model.json").read_text())["training"]["split"]
    return set(split["test"]["groups"])


def test_only_sessions_that_neither_was_trained_on_count(
    bundles: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path, delayed(sessions=24))
    assert (tmp_path / "t.csv").read_bytes() == bundles.table.read_bytes()
    other = fit(config, tmp_path, "split.seed=2", "split.test=0.5", "split.validation=0.1",
                "loop.epochs=1", "baselines.trees=0")  # fmt: skip
    out = tmp_path / "found.json"
    assert compare(bundles.poor, other, "--table", bundles.table, "--out", out) == 0
    assert 0 < json.loads(out.read_text())["sessions"] < 12
    capsys.readouterr()
    mine, others = (names_held_out(each) for each in (bundles.poor, other))
    chosen = (min(mine - others), min(others - mine))
    apart = [row for row in delayed(sessions=24) if row[0] in chosen]
    table = write_table(tmp_path / "apart.csv", apart)
    assert compare(bundles.poor, other, "--table", table) == 2
    err = capsys.readouterr().err
    assert "no session was held out by both devices/1 and devices/1" in err


def test_what_cannot_be_compared_is_one_sentence(
    bundles: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = shutil.copytree(bundles.poor, tmp_path / "later" / "3")
    manifest = json.loads((later / "model.json").read_text())
    manifest["training"]["recipe"]["target"]["horizon"] = 1
    (later / "model.json").write_text(json.dumps(manifest))
    many = write_table(tmp_path / "many.csv", delayed(sessions=60, seed=1))
    wordy = write_table(
        tmp_path / "wordy.csv", [[*row[:3], f"m{k}", row[4]] for k, row in enumerate(delayed(60))]
    )
    for words, said in (
        ((bundles.poor, later), "predicts state (down, up) 0 steps ahead, and devices/1 state"),
        ((bundles.poor, tmp_path), "is no bundle that fit wrote"),
        ((bundles.poor, bundles.good, "--by", "height"), "no column 'height' (--by)"),
        ((bundles.poor, bundles.good, "--table", wordy, "--by", "mode"), "--by mode: it has"),
        ((bundles.poor, bundles.good, "--table", tmp_path / "none.csv"), "cannot be read"),
    ):
        assert compare(*words) == 2
        err = capsys.readouterr().err.splitlines()
        assert len(err) == 1 and said in err[0], err
    assert compare(bundles.poor, bundles.good, "--table", many) == 0
    assert "sessions of many.csv that it was not trained on" in capsys.readouterr().out
