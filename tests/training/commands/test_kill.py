"""Training that is killed with -9 goes on to the very weights it would have reached."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.commands.tasks import await_file, config_of, fit, kill, start, words
from training.__main__ import main

LONG = ("loop.epochs=40", "network.dropout=0.2", "network.layers=2", "loop.averaging=0.9")


def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(words(config, killed, *LONG))
    await_file(killed / "runs" / "devices" / "last.ckpt", process)
    kill(process)
    assert not (killed / "models").exists(), "it was through before it could be killed"
    resumed = fit(config, killed, *LONG, more=("--resume",))
    undisturbed = fit(config, whole, *LONG)
    # The graphs hold the same weights in the form that was faster at each export.
    ours, theirs = (each / "network.npz" for each in (resumed, undisturbed))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_seed_repeats_the_weights_and_another_does_not(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    networks = [
        (fit(config, tmp_path / str(k), f"loop.seed={seed}") / "network.npz").read_bytes()
        for k, seed in enumerate((1, 1, 2))
    ]
    assert networks[0] == networks[1] != networks[2]


def test_nothing_is_resumed_without_a_checkpoint_or_with_another_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path)
    assert main([*words(config, tmp_path), "--resume"]) == 2
    assert "nothing to resume" in capsys.readouterr().err
    fit(config, tmp_path)
    capsys.readouterr()
    assert main([*words(config, tmp_path, "network.hidden=7"), "--resume"]) == 2
    assert "is of another recipe" in capsys.readouterr().err
    (tmp_path / "runs" / "devices" / "last.ckpt").write_bytes(b"rubbish")
    assert main([*words(config, tmp_path), "--resume"]) == 2
    assert "is no checkpoint" in capsys.readouterr().err
