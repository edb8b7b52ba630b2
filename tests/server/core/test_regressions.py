"""Mistakes made once: starving queues, bundles that stopped the start, growing tracebacks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.bundle.repository import find, load
from server.engine.engine import Engine
from server.errors import BadModel
from server.metrics import Metrics
from server.scheduler.queue import StepQueue
from server.scheduler.submission import UNNUMBERED, Submission
from server.serving.registry import Registry
from tests.server.core.parts import CPU, make_bundle


def submission(handles: list[int]) -> Submission:
    count = len(handles)
    return Submission(
        handles=np.array(handles, np.int64),
        first_steps=np.full(count, UNNUMBERED, np.int64),
        lengths=np.ones(count, np.int32),
        features=np.zeros((count, 5), np.float32),
        on_done=lambda _: None,
    )


def test_a_pipelined_stream_never_holds_back_an_older_step() -> None:
    queue, crowd = StepQueue(10_000), list(range(1, 9))
    queue.put(submission(crowd), 1.0)
    picked = queue.take(8)
    assert picked is not None
    queue.put(submission(crowd), 1.0)
    single = submission([50])
    queue.put(single, 1.0)
    for _ in range(10):
        queue.put(submission(crowd), 1.0)
    for _ in range(2):
        queue.finish(picked)
        picked = queue.take(8)
        assert picked is not None
    assert single in [part.submission for part, _, _ in picked]


def overflowing(raw: dict[str, Any]) -> str:
    return json.dumps(raw | {"version": math.inf})


def negative(raw: dict[str, Any]) -> str:
    states = [dict(raw["states"][0], shape=[-3]), *raw["states"][1:]]
    return json.dumps(raw | {"states": states})


@pytest.mark.parametrize("spoil", [overflowing, negative, lambda _: "[" * 100_000])
def test_a_manifest_of_absurd_numbers_or_depth_is_a_bad_model(tmp_path: Path, spoil: Any) -> None:
    make_bundle(tmp_path)
    manifest = tmp_path / "small" / "1" / "model.json"
    manifest.write_text(spoil(json.loads(manifest.read_text())))
    (entry,) = find(tmp_path)
    with pytest.raises(BadModel, match="small/1"):
        Engine(load(entry, tmp_path), CPU, 4)


def test_a_manifest_that_links_to_itself_is_a_bad_model(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    manifest = tmp_path / "small" / "1" / "model.json"
    manifest.unlink()
    manifest.symlink_to(manifest)
    (entry,) = find(tmp_path)
    with pytest.raises(BadModel, match=r"small/1/model\.json cannot be read"):
        load(entry, tmp_path)


def test_asking_for_a_broken_model_again_and_again_keeps_nothing() -> None:
    models = Registry(Metrics())
    models.add_broken("small", 1, "small/1 is corrupt")
    models.ready = True
    depths = []
    for _ in range(3):
        with pytest.raises(BadModel) as caught:
            models.resolve("small")
        depths.append(len(caught.traceback))
    assert len(set(depths)) == 1
