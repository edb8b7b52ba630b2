"""`fit` as processes: killed with -9 it goes on to the very weights that it would have reached, and
several train one network, each on its part, in step."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.training.commands.tasks import await_file, config_of, fit, kill, start, words
from training.__main__ import main

LONG = ("loop.epochs=6", "network.dropout=0.2", "network.layers=2", "loop.averaging=0.9")


def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And as long as it lives, no other one trains in its folder."""
    config = config_of(tmp_path)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(words(config, killed, *LONG))
    await_file(killed / "runs" / "devices" / "last.ckpt", process)
    process.send_signal(signal.SIGSTOP)
    assert main(words(config, killed)) == 2
    assert "another run trains in" in capsys.readouterr().err
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


def test_two_processes_on_gloo_learn_and_write_one_bundle(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    several = ("loop.devices=2", "loop.accelerator='cpu'", "loop.strategy='ddp'")
    task = ("loop.epochs=15", "loop.rate=3e-2", "network.hidden=16", "loop.window=20",
            "network.linear=false")  # fmt: skip
    process = start(words(config, tmp_path, *several, *task))
    assert process.wait(120) == 0
    (bundle,) = (tmp_path / "models" / "devices").iterdir()
    provenance = json.loads((bundle / "model.json").read_text())["training"]
    losses = [line["validation_loss"] for line in provenance["curve"]]
    assert len(losses) == 15
    assert min(losses) < 0.5 * losses[0]
    assert provenance["held_out"]["accuracy_per_step"] > 0.9
    assert main(["verify", str(bundle)]) == 0
