"""Shadows: what the metrics say of them is what NumPy says, and callers never notice."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from server.engine.engine import Engine, EngineRows
from server.errors import BadModel
from server.metrics import Metrics
from server.serving.model import ServedModel
from server.serving.shadow import Shadow
from server.serving.shadow_metrics import ShadowFamilies, ShadowMetrics
from tests.server.core.parts import CPU, Caller, make_bundle, make_model
from tests.server.serving.operating import (
    Floats,
    Operated,
    add_version,
    assert_close,
    eventually,
    observations,
    operated,
)
from tests.server.wire.wire import failing
from tidegate import SyncClient
from tidegate.v1 import admin_pb2
from training.bundle import random_bundle, write_bundle
from training.network import Network, random_network

LABELS = {"model": "small", "version": "1", "shadow": "2"}


def metric(running: Operated, name: str, **labels: str) -> float:
    return running.server.metric(f"tidegate_shadow_{name}", **LABELS | labels)


def differences(running: Operated, *sessions: Floats) -> Floats:
    """|version 1 - version 2| of every step of sessions that saw these inputs: [steps, O]."""
    each = [np.abs(running.expected(1, xs) - running.expected(2, xs)) for xs in sessions]
    return np.concatenate(each)


def test_the_metrics_tell_the_differences_that_numpy_finds(tmp_path: Path) -> None:
    """Single steps, chunks, and two sessions at once."""
    a, b = observations(1, 40), observations(2, 70)
    with operated(tmp_path, 1, 2, shadow="small=2") as running:
        assert running.open("a").version == 1  # the shadow is not the newest
        running.open("b")
        for at in range(len(a)):
            got = running.step("a", at, a[at : at + 1])
            assert_close(got, running.expected(1, a)[at : at + 1])
        running.step("b", 0, b[:33])
        running.step("b", 33, b[33:])
        eventually(lambda: metric(running, "steps_total") == 110)
        wanted = differences(running, a, b)
        got_sum = metric(running, "difference_max_sum"), metric(running, "difference_mean_sum")
        np.testing.assert_allclose(
            got_sum, (wanted.max(axis=1).sum(), wanted.mean(axis=1).sum()), rtol=1e-4
        )
        below = metric(running, "difference_max_bucket", le="0.3")
        assert below == (wanted.max(axis=1) <= 0.3).sum()
        assert metric(running, "dropped_total") == 0
        assert running.server.metric("tidegate_steps_total", version="2") == 0


def test_a_session_is_followed_from_its_beginning_or_not_at_all(tmp_path: Path) -> None:
    xs = observations(3, 12)
    with operated(tmp_path, 1, 2) as running:
        request = admin_pb2.UnloadRequest(model="small", version=2)
        running.admin.Unload(request)  # so that sessions open on version 1
        running.open("early")
        running.step("early", 0, xs[:5])
        running.admin.Load(admin_pb2.LoadRequest(model="small", version=2))
        running.admin.Shadow(admin_pb2.ShadowRequest(model="small", version=2, on=True))
        running.step("early", 5, xs[5:9])  # its beginning was not seen
        running.open("late")
        running.step("late", 0, xs[:7])
        eventually(lambda: metric(running, "steps_total") == 7)
        np.testing.assert_allclose(
            metric(running, "difference_max_sum"),
            differences(running, xs[:7]).max(axis=1).sum(),
            rtol=1e-4,
        )
        running.admin.Shadow(admin_pb2.ShadowRequest(model="small", version=2, on=False))
        assert "tidegate_shadow_steps_total{" not in running.server.metrics()
        assert running.newest() == 2


def test_a_shadow_follows_the_newest_version(tmp_path: Path) -> None:
    xs = observations(4, 6)
    with operated(tmp_path, 1, 2, shadow="small=1") as running:
        add_version(running, 3)
        eventually(lambda: "small/1 is the shadow of 3" in running.server.log())
        running.open("s")
        running.step("s", 0, xs)
        labels = {"model": "small", "version": "3", "shadow": "1"}
        eventually(lambda: running.server.metric("tidegate_shadow_steps_total", **labels) == 6)
        wanted = np.abs(running.expected(3, xs) - running.expected(1, xs)).max(axis=1).sum()
        got = running.server.metric("tidegate_shadow_difference_max_sum", **labels)
        np.testing.assert_allclose(got, wanted, rtol=1e-4)


def test_a_shadow_of_another_width_is_refused(tmp_path: Path) -> None:
    with operated(tmp_path, 1, watch_seconds=0) as running:
        weights = random_network(5, 12, 2, 4, seed=1, softmax=False)
        random_bundle(running.repository / "small" / "2", weights)
        running.admin.Load(admin_pb2.LoadRequest(model="small", version=2))
        with failing("BAD_SNAPSHOT"):
            running.admin.Shadow(admin_pb2.ShadowRequest(model="small", version=2, on=True))
        assert running.newest() == 2
        with failing("UNKNOWN_VERSION"):
            running.admin.Shadow(admin_pb2.ShadowRequest(model="small", version=9, on=True))


class Pair:
    """A model and its shadow of the same bundle, in process: whatever is compared is the same."""

    def __init__(self, folder: Path, most: int = 1000) -> None:
        bundle = make_bundle(folder)
        self.model: ServedModel = make_model(bundle, folder, max_sessions=16)
        self.metrics = Metrics()
        told = ShadowMetrics(ShadowFamilies(self.metrics.registry), "small", 1, 2)
        self.shadow = Shadow(self.model, Engine(bundle, CPU, 16), told, most)
        self.caller = Caller(self.model)
        self.model.start()
        self.shadow.start()

    def value(self, name: str) -> float:
        labels = {"model": "small", "version": "1", "shadow": "2"}
        return self.metrics.registry.get_sample_value(f"tidegate_shadow_{name}", labels) or 0.0

    def step(self, name: str, xs: Floats) -> None:
        self.model.directory.open(name)
        submission = self.caller.step([(name, None, xs)])
        assert not submission.failed

    def seen(self, steps: int) -> None:
        """So many steps were compared, and every one was the same."""
        eventually(lambda: self.value("steps_total") == steps)
        assert self.value("difference_max_sum") < 1e-4

    def stop(self) -> None:
        self.shadow.stop()
        self.model.stop()


def test_a_shadow_whose_device_does_not_get_ready_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin() -> None:
        raise BadModel("small/1 cannot be captured")

    bundle, metrics, released = make_bundle(tmp_path), Metrics(), list[bool]()
    model = make_model(bundle, tmp_path, max_sessions=16)
    told = ShadowMetrics(ShadowFamilies(metrics.registry), "small", 1, 2)
    engine = Engine(bundle, CPU, 16)
    monkeypatch.setattr(engine, "begin", begin)
    monkeypatch.setattr(engine, "release", lambda: released.append(True))
    with pytest.raises(BadModel, match="cannot be captured"):
        Shadow(model, engine, told).start()
    assert released == [True] and model.shadow is None


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def test_a_session_that_becomes_another_at_the_same_step_is_followed_no_more(pair: Pair) -> None:
    """A snapshot of one session takes the other's place, between two of its steps."""
    xs, others = observations(5, 8), observations(6, 8)
    pair.step("a", xs[:4])
    pair.step("b", others[:4])
    pair.seen(8)
    snapshot = pair.model.operations.export("b").result(20)
    pair.model.operations.take_in(snapshot, "a", replace=True).result(20)
    pair.step("a", xs[4:])
    pair.step("b", others[4:])
    eventually(lambda: pair.value("sessions_stopped_total") == 1)
    pair.seen(12)
    pair.model.operations.reset("a").result(20)
    pair.step("a", xs[:3])
    pair.seen(15)
    pair.stop()


def test_what_a_slow_shadow_drops_is_counted_and_never_compared(tmp_path: Path) -> None:
    """The shadow is held in its first run; more than its queue holds comes meanwhile."""
    pair = Pair(tmp_path, most=8)
    xs = observations(7, 40)
    entered, go_on = threading.Event(), threading.Event()
    run = pair.shadow._engine.run

    def held(rows: EngineRows) -> Floats:
        entered.set()
        assert go_on.wait(20)
        return run(rows)

    pair.shadow._engine.run = held  # type: ignore[method-assign]
    pair.step("a", xs[:1])
    assert entered.wait(20)
    pair.step("b", xs[:2])
    pair.step("a", xs[1:20])  # 19 steps: dropped
    pair.step("b", xs[2:4])
    go_on.set()
    eventually(lambda: pair.value("steps_total") == 5)
    assert pair.value("dropped_total") == 19
    pair.step("a", xs[20:24])
    eventually(lambda: pair.value("sessions_stopped_total") == 1)
    pair.step("b", xs[4:6])
    pair.model.operations.reset("a").result(20)
    pair.step("a", xs[:4])
    pair.seen(11)
    pair.stop()


def test_a_restart_that_was_dropped_is_not_taken_for_a_step_that_follows(pair: Pair) -> None:
    """The count fits although the session has begun anew unseen."""
    xs = observations(8, 4)
    pair.step("a", xs[:2])
    pair.seen(2)
    handle = np.array([pair.model.directory.find("a")[0]])
    pair.shadow._most = 0
    pair.model.operations.reset("a").result(20)
    pair.step("a", xs[1:3])
    assert pair.value("dropped_total") == 2
    pair.shadow._most = 1000
    pair.step("a", xs[3:])
    eventually(lambda: pair.value("sessions_stopped_total") == 1)
    assert pair.value("steps_total") == 2
    assert pair.model.directory.counts(handle) == 3
    pair.stop()


def test_a_shadow_holds_no_more_sessions_than_live_ones(pair: Pair) -> None:
    """Twenty sessions one after the other, in sixteen slots."""
    xs = observations(9, 2)
    for k in range(20):
        pair.step(f"s{k}", xs)
        pair.seen(2 * (k + 1))
        pair.model.close(f"s{k}")
    assert pair.value("sessions_stopped_total") == 0
    pair.stop()


def test_steps_whose_likeliest_class_is_another_are_counted(tmp_path: Path) -> None:
    xs = observations(10, 50)
    with operated(tmp_path, 1, 2, make=classifier, shadow="small=2") as running:
        running.open("s")
        running.step("s", 0, xs)
        eventually(lambda: metric(running, "class_steps_total") == 50)
        one, two = (running.expected(version, xs).argmax(axis=1) for version in (1, 2))
        assert (one != two).sum() > 0
        assert metric(running, "class_differs_total") == (one != two).sum()


def classifier(repository: Path, version: int, seed: int) -> Network:
    """Write a version of `small` whose outputs are probabilities of three classes."""
    weights = random_network(5, 12, 2, 3, seed=seed, softmax=True)
    output = {"name": "y", "size": 3, "kind": "probability", "labels": ["a", "b", "c"]}
    features = [
        {"name": f"x{k}", "unit": "", "mean": float(weights.mean[k]), "std": float(weights.std[k])}
        for k in range(5)
    ]
    folder = repository / "small" / str(version)
    write_bundle(folder, weights, features=features, outputs=[output])
    return weights


def test_a_client_s_version_0_is_not_the_shadow(tmp_path: Path) -> None:
    with (
        operated(tmp_path, 1, 2, shadow="small=2") as running,
        SyncClient(running.server.address) as client,
    ):
        assert client.model("small").version == 1
        assert {model.version for model in client.models()} == {1, 2}
