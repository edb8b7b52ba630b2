"""Memory and time: what a model would take is told before, and what it takes is bounded."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import server.engine.probe as probing
from server.bundle.repository import Bundle, Entry, find, load
from server.config import Config
from server.engine.device import Device
from server.engine.engine import Engine
from server.engine.memory import at_most, free_on_host
from server.engine.probe import probe
from server.errors import BadModel
from server.metrics import Metrics
from server.serving.footprint import Memory
from server.serving.loader import Loader
from server.serving.model import ServedModel
from server.serving.registry import Registry
from tests.server.bundle.malicious import graph
from tests.server.core.parts import CPU, make_bundle

GB = 1 << 30


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "models")


def change(repository: Path, **fields: object) -> Entry:
    file = repository / "small" / "1" / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    (entry,) = find(repository)
    return entry


def settings(repository: Path, **given: int) -> Config:
    return Config(model_repository=repository, store="none").model_copy(update=given)


def opened(repository: Path, entry: Entry, **given: int) -> tuple[Engine, Config]:
    """As a server with these settings opens it."""
    metrics, config = Metrics(), settings(repository, **given)
    return Loader(config, CPU, metrics, Registry(metrics), lambda: None).open(entry, config)


def test_a_state_of_a_billion_units_is_refused_with_the_figures(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    states = [{"name": "h0", "shape": [10**9], "dtype": "float32"}]
    says = (
        r"small/1: no room for 10,000 sessions: 40,004,\d+,\d+,?\d* bytes, 40,004,000,000,000 of "
        r"them for state 'h0'; [0-9,]+ are free"
    )
    with pytest.raises(BadModel, match=says):
        opened(tmp_path, change(tmp_path, states=states))


def test_a_billion_sessions_are_refused_with_the_figures(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    (entry,) = find(tmp_path)
    says = r"small/1: no room for 1,000,000,000 sessions: .* for the outputs remembered for retries"
    with pytest.raises(BadModel, match=says):
        opened(tmp_path, entry, max_sessions=10**9)


def test_outputs_of_a_billion_values_are_refused_with_the_figures(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    entry = change(tmp_path, outputs=[{"name": "y", "size": 10**9, "kind": "value"}])
    with pytest.raises(BadModel, match=r"no room for 10,000 sessions: .* remembered for retries"):
        opened(tmp_path, entry)


def test_the_setting_is_the_limit_where_it_is_set(tmp_path: Path) -> None:
    make_bundle(tmp_path)
    (entry,) = find(tmp_path)
    with pytest.raises(BadModel, match="5,000,000 max_model_bytes allows"):
        opened(tmp_path, entry, max_model_bytes=5_000_000, max_sessions=10_000)
    opened(tmp_path, entry, max_model_bytes=5_000_000, max_sessions=100)
    with pytest.raises(BadModel, match=r"no room for 10,000 sessions: .* max_model_bytes allows"):
        opened(tmp_path, entry, max_model_bytes=50_000)


@pytest.mark.parametrize("given", [{}, {"max_resident": 9_000}, {"kept_inputs": 7}])
def test_where_no_number_is_set_a_model_is_served_to_as_many_sessions_as_memory_has_room_for(
    tmp_path: Path, given: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    make_bundle(tmp_path)
    (entry,) = find(tmp_path)
    engine, sized = opened(tmp_path, entry, max_model_bytes=5_000_000, **given)
    most = sized.max_sessions
    assert 100 < most < 10_000
    assert engine.capacity == sized.slots
    assert f"memory has room for {most:,} sessions, not for 10,000" in caplog.text
    one_more = {"max_sessions": most + 1, "max_model_bytes": 5_000_000, **given}
    with pytest.raises(BadModel, match="max_model_bytes allows"):
        opened(tmp_path, entry, **one_more)


def test_of_free_memory_that_is_not_enough_a_model_takes_half(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.serving.footprint.touched", lambda: 0)
    config = settings(tmp_path / "models")
    memory, engine = Memory(config, CPU), Engine(bundle, CPU, 4)
    memory.promise(engine, config)
    whole = memory._promised[engine]
    monkeypatch.setattr("server.serving.footprint.free_on_host", lambda: 2 * whole)
    assert memory.sized(bundle.manifest, 0, config) is config, "it has room"
    monkeypatch.setattr("server.serving.footprint.free_on_host", lambda: 2 * whole - 1)
    assert 4_900 < memory.sized(bundle.manifest, 0, config).max_sessions < 5_000
    assert memory.sized(bundle.manifest, 0, config, least=9_000).max_sessions == 9_000
    with pytest.raises(BadModel, match="no room for 10,000 sessions"):
        memory.sized(bundle.manifest, 0, config, least=10_000)


def test_a_version_beside_another_is_served_to_no_fewer_sessions_or_not_at_all(
    tmp_path: Path,
) -> None:
    """Those of the other may be to move over."""
    make_bundle(tmp_path)
    (entry,) = find(tmp_path)
    metrics = Metrics()
    registry = Registry(metrics)

    def load_with(max_model_bytes: int) -> ServedModel:
        config = settings(tmp_path, max_model_bytes=max_model_bytes)
        return Loader(config, CPU, metrics, registry, lambda: None).serve(entry)

    first = load_with(5_000_000)
    registry.add(first)
    with pytest.raises(BadModel, match="4,000,000 max_model_bytes allows"):
        load_with(4_000_000)
    second = load_with(6_000_000)
    assert second.capacity > first.capacity
    for model in (first, second):
        model.stop()


def test_what_sessions_may_take_is_said_when_a_model_is_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_bundle(tmp_path)
    (entry,) = find(tmp_path)
    caplog.set_level("INFO")
    opened(tmp_path, entry, max_sessions=99, kept_inputs=0)
    manifest = load(entry, tmp_path).manifest
    states = [100 * 4 * int(np.prod(state.shape)) for state in manifest.states]
    outputs = 112 * 64 * (4 * manifest.outputs_width + 8)  # of whole blocks, here of 16 slots
    said = (
        f"small/1: 99 sessions may take {sum(states) + outputs:,} bytes, {outputs:,} of them for "
    )
    assert f"{said}the outputs remembered for retries (max_sessions, max_resident)" in caplog.text


def test_what_other_models_were_promised_is_not_free(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their arrays are not touched yet, so the kernel calls that memory available."""
    monkeypatch.setattr("server.serving.footprint.free_on_host", lambda: 50_000_000)
    monkeypatch.setattr("server.serving.footprint.touched", lambda: 0)
    config = settings(tmp_path / "models", max_sessions=10_000)
    memory = Memory(config, CPU)
    engines = [Engine(bundle, CPU, 4) for _ in range(3)]
    for engine in engines[:2]:  # 15 MB each, for 10,000 sessions
        memory.sized(bundle.manifest, 0, config)
        memory.promise(engine, config)
    memory.promise(engines[2], config)
    with pytest.raises(BadModel, match="are free and promised to no other model"):
        memory.sized(bundle.manifest, 0, config)
    del engine, engines[0]
    memory.sized(bundle.manifest, 0, config)


def test_the_host_s_memory_is_what_the_kernel_and_all_groups_leave(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    assert free_on_host(proc, groups) is None
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:  9 kB\nMemAvailable:    8388608 kB\n")
    assert free_on_host(proc, groups) == 8 * GB
    (proc / "self" / "cgroup").write_text("0::/a/b\n")
    inner = groups / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (inner / "memory.current").write_text(f"{GB}\n")
    assert free_on_host(proc, groups) == 8 * GB
    (groups / "a" / "memory.max").write_text(f"{4 * GB}\n")
    (groups / "a" / "memory.current").write_text(f"{3 * GB}\n")
    (groups / "a" / "memory.stat").write_text(f"anon 5\ninactive_file {GB}\nactive_file 7\n")
    assert free_on_host(proc, groups) == 2 * GB
    (proc / "self" / "cgroup").write_text("4:cpu,memory:/c\n1:cpu:/\n")
    old = groups / "memory"
    old.mkdir()  # as a container sees it: the root is its own group
    (old / "memory.limit_in_bytes").write_text(f"{GB}\n")
    (old / "memory.usage_in_bytes").write_text(f"{GB // 2}\n")
    assert free_on_host(proc, groups) == GB // 2


def test_a_device_that_nobody_can_ask_has_no_limit() -> None:
    from server.engine.memory import free_on

    assert free_on(Device("cuda", 99)) is None


def test_memory_above_the_limit_is_refused_by_the_kernel_and_later_given_again() -> None:
    with at_most(64 << 20), pytest.raises(MemoryError):
        np.ones(256 << 20, np.uint8)
    assert np.ones(256 << 20, np.uint8).nbytes == 256 << 20


def spoiled(bundle: Bundle, nodes: str, weight: int) -> Bundle:
    """The bundle whose single steps do `nodes` besides, from x [b, 1] and w [1, weight] to y."""
    model = onnx.load_from_string(bundle.graphs["single.onnx"])
    extra = graph(nodes)
    weights = np.ones((1, weight), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "first"))
    (last,) = [node for node in model.graph.node if "output" in node.output]
    last.output[0] = "before"
    model.graph.node.append(helper.make_node("Gather", ["input", "first"], ["x"], axis=1))
    model.graph.node.extend(extra.graph.node)
    model.graph.node.append(helper.make_node("Add", ["before", "y"], ["output"]))
    return replace(bundle, graphs=bundle.graphs | {"single.onnx": model.SerializeToString()})


def test_a_graph_that_wants_more_memory_than_there_is_is_refused(bundle: Bundle) -> None:
    """Each row would take 4 TB: x [b, 1, 1] + w [1, n, 1] + w [1, 1, n]."""
    nodes = (
        "a = Constant<value = int64[1] {2}>() t = Unsqueeze(x, a) u = Unsqueeze(w, a) "
        "z = Constant<value = int64[1] {1}>() v = Unsqueeze(w, z) p = Add(t, u) q = Add(p, v) "
        "r = ReduceSum<keepdims = 0>(q, a) y = ReduceMax<keepdims = 1>(r, z)"
    )
    harmful = spoiled(bundle, nodes, 1 << 20)
    with at_most(GB), pytest.raises(BadModel, match=r"small/1 does not run: .*allocate memory"):
        probe(Engine(harmful, CPU, 4), Engine(harmful, CPU, 2))
    with at_most(GB):
        probe(Engine(bundle, CPU, 4), Engine(bundle, CPU, 2))


def test_a_run_that_takes_too_long_is_stopped_and_the_model_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "RUN_SECONDS", 0.4)
    nodes = (
        "n = Constant<value = int64 {60000}>() c = Constant<value = bool {1}>() "
        "y, e = Loop(n, c, x, w) <body = a (int64 i, bool k, float[b, 1] p, float[1, m] q) => "
        "(bool k2, float[b, 1] p2, float[1, m] q2) "
        "{ k2 = Identity(k) p2 = Identity(p) q2 = Sin(q) }>"
    )
    harmful = spoiled(bundle, nodes, 1 << 20)
    with pytest.raises(BadModel, match=r"small/1: a run takes more than 0\.4 s"):
        probe(Engine(harmful, CPU, 4), Engine(harmful, CPU, 2))


def test_a_graph_whose_types_are_not_the_manifest_s_is_refused(bundle: Bundle) -> None:
    """Else what it writes would be larger than the arena that it writes to."""
    (first, *others) = bundle.manifest.states
    for dtype in ("bool", "float16", "float64"):
        manifest = replace(bundle.manifest, states=(replace(first, dtype=dtype), *others))
        with pytest.raises(BadModel, match=rf"is tensor\(float\), model.json says {dtype}"):
            Engine(replace(bundle, manifest=manifest), CPU, 4)


def test_constants_that_double_do_not_fill_the_memory_while_a_graph_loads() -> None:
    """4 GB of them, in a process that may have no more than 1 GB."""
    code = """
import resource, numpy as np
from onnx import numpy_helper
from server.engine.device import Device
from server.engine.graph import open_session
from tests.server.bundle.malicious import graph
nodes = " ".join(f"c{k + 1} = Concat<axis = 0>(c{k}, c{k})" for k in range(12))
model = graph(nodes + " s = ReduceSum<keepdims = 0>(c12) y = Mul(x, s)")
model.graph.initializer.append(numpy_helper.from_array(np.ones(1 << 18, np.float32), "c0"))
resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
open_session(model.SerializeToString(), Device("cpu"), 1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
