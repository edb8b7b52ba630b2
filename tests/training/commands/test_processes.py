"""Several processes train one network: each on its part, in step; one of them writes."""

from __future__ import annotations

import json
from pathlib import Path

from tests.training.commands.tasks import config_of, start, words
from training.__main__ import main


def test_two_processes_on_gloo_learn_and_write_one_bundle(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    several = ("loop.devices=2", "loop.accelerator='cpu'", "loop.strategy='ddp'")
    task = ("loop.epochs=40", "loop.rate=3e-2", "network.hidden=16", "loop.window=20")
    process = start(words(config, tmp_path, *several, *task))
    assert process.wait(120) == 0
    (bundle,) = (tmp_path / "models" / "devices").iterdir()
    story = json.loads((bundle / "model.json").read_text())["training"]
    losses = [line["validation_loss"] for line in story["curve"]]
    assert len(losses) == 40
    assert min(losses) < 0.5 * losses[0]
    assert story["held_out"]["accuracy_per_step"] > 0.9
    assert main(["verify", str(bundle)]) == 0
