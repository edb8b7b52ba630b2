"""The program that is traced: every form of many networks' graphs in the server's own engine.

`python -m tests.standin.runs FILE`, over the stand-ins; what the log does not say (what ran where,
which rows were named, the outputs' shapes) goes into FILE as JSON. Runs that are looked at come
after others of their size, so that what happens at first alone lies behind them.
"""

from __future__ import annotations

import ctypes
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from benchmarks.gpu.sharing import in_another_thread
from server.bundle.manifest import SINGLE
from server.engine.device import CUDA_PROVIDER, Device, choose
from server.engine.engine import Engine, EngineRows
from server.errors import BadModel
from tests.standin.trace import RUNTIME, part
from tests.standin.watching import EAGER, Run, watched
from tests.training.graphs.networks import NETWORKS
from training.graphs.arenas import may_pack
from training.graphs.stepping import rows, serve, with_single
from training.graphs.whole import GEMM, JOINED, OPERATOR, SCAN, Form, graphs, rows_of, usual_form
from training.network import Network, random_network

SESSIONS, CHUNK, WARM = 10_000, 4, 2
BATCHES = (1, 5, 8)  # of single steps; of other runs the last
KINDS = (*(f"single {batch}" for batch in BATCHES), "step", "read", "write")
LOAD, BEHIND, ELSEWHERE = "load", "behind", "elsewhere"
SHAPES = {
    f"{layers}x{hidden}": random_network(16, hidden, layers, 32, seed=layers, softmax=False)
    for layers, hidden in ((1, 64), (2, 128), (3, 256))
}
FORMS = (
    *(Form(cuda=how) for how in (JOINED, GEMM)),
    Form(packed=False),
    Form(SCAN, cuda=JOINED),
    Form(cuda=OPERATOR),
    *(Form(step, precision="float16") for step in (OPERATOR, SCAN)),
    Form(SCAN, precision="int8"),
)


@dataclass(frozen=True)
class Case:
    """A network in one of its forms, or in a bundle from before there was a graph for CUDA."""

    network_name: str
    network: Network
    form: Form
    older: bool = False

    @property
    def single(self) -> str:
        """How the graph of single steps is written that CUDA is given."""
        return self.form.single if self.older else self.form.cuda

    @property
    def name(self) -> str:
        """As in marks and tests' names."""
        written = f"{self.single}-{self.form.step}-{self.form.precision}"
        more = "-older" if self.older else "-apart" * (not self.form.packed)
        return f"{self.network_name} {written}{more}".replace(" ", "-")

    @property
    def stride(self) -> int:
        """Rows of a state's arena from one session's to the next one's."""
        states = rows_of(self.network)
        packed = self.form.packed and not self.older and may_pack(states)
        return len(states) if packed else 1

    def files(self) -> dict[str, bytes]:
        """The bundle's graphs."""
        whole = graphs(self.network, self.form)
        return with_single(whole, SINGLE) if self.older else whole


CASES = [
    *(Case("2x128", SHAPES["2x128"], form) for form in FORMS),
    Case("2x128", SHAPES["2x128"], Form(single=GEMM), older=True),
    *(
        Case(name, network, form)
        for name, network in {**SHAPES, **NETWORKS}.items()
        for form in (usual_form(network), usual_form(network, "float16"))
        if name != "2x128"
    ),
]
NOT_IN_PLACE, OVER_ALL = "not in place", "over all"
"""Parts of what must not be: a run whose arena is not bound as its output, and one that computes
over an arena's every row."""


@dataclass
class Told:
    """What a case says of itself beside the log."""

    refused: str = ""
    """Why it is not served on CUDA."""
    arenas: list[int] = field(default_factory=list)
    """Bytes of each."""
    shapes: dict[str, list[int]] = field(default_factory=dict)
    placed: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """By graph: each node that ran, by its operator, and on what."""
    named_first: dict[int, list[int]] = field(default_factory=dict)
    """The rows of the arenas that the first run of each of CUDA's graphs named."""
    named: dict[str, list[int]] = field(default_factory=dict)
    """The rows that each run which is looked at named."""
    behind: list[list[int]] = field(default_factory=list)
    """The outputs' shapes of two runs, the second asked for while the first is under way."""
    elsewhere: str = ""
    """What a run from another thread ended with."""
    kept: int = 0
    """Bytes of the device's memory that are not given back at the end."""


def traced(case: Case, device: Device) -> Told:
    """Run all graphs, the last time as a part of the trace each."""
    told, before = Told(), free_memory()
    try:
        _serve(case, device, told)
    except BadModel as error:
        told.refused = str(error)
    told.kept = before - free_memory()
    return told


def _serve(case: Case, device: Device, told: Told) -> None:
    with watched() as sessions:
        with part(f"{case.name} {LOAD}"):
            engine = serve(case.network, case.form, SESSIONS, device, case.files())
        told.arenas = [arena.nbytes for arena in engine.arenas]
        told.named_first = _first(sessions.runs)
        for kind in KINDS:
            for _ in range(WARM):
                _run(engine, kind, case.network.inputs)
            with part(f"{case.name} {kind}"):
                shape = _run(engine, kind, case.network.inputs)
            told.shapes[kind], told.named[kind] = list(shape), sessions.runs[-1].slots
        batches = [_steps(BATCHES[-1], 1, case.network.inputs) for _ in range(2)]
        with part(f"{case.name} {BEHIND}"):
            asked = [engine.ask(each) for each in batches]
            told.behind = [list(each.outputs().shape) for each in asked]
        with part(f"{case.name} {ELSEWHERE}"):
            told.elsewhere = in_another_thread(lambda: _run(engine, KINDS[0], case.network.inputs))
        for name, nodes in ((each.name, each.nodes()) for each in sessions.opened):
            told.placed.setdefault(name, []).extend(nodes)
    engine.release()


def free_memory() -> int:
    """Bytes of the device's."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    ctypes.CDLL(RUNTIME).cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
    return free.value


def _first(runs: list[Run]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for run in runs:
        if run.graph_id != EAGER:
            found.setdefault(run.graph_id, sorted(set(run.slots)))
    return found


def _run(engine: Engine, kind: str, inputs: int) -> tuple[int, ...]:
    slots = np.arange(1, BATCHES[-1] + 1)
    if kind == "read":
        return engine.read(slots)[0].shape
    if kind == "write":
        shapes = [(len(slots), *state.shape) for state in engine.manifest.states]
        engine.write(slots, [np.zeros(shape, np.float32) for shape in shapes])
        return ()
    what, _, batch = kind.partition(" ")
    count, chunk = int(batch or len(slots)), CHUNK if what == "step" else 1
    return engine.run(_steps(count, chunk, inputs)).shape


def _steps(count: int, chunk: int, inputs: int) -> EngineRows:
    features = np.ones((count, chunk, inputs), np.float32)
    return rows(range(count), features, np.zeros(count, np.bool_))


def spoil(device: Device) -> None:
    """Runs that a trace must tell from sound ones."""
    graph = onnx.load_from_string(graphs(SHAPES["1x64"], Form())["single.onnx"])
    _run_bound(graph, device, NOT_IN_PLACE, elsewhere=True)
    last = next(node for node in graph.graph.node if "state.h0.next" in node.output)
    at = list(graph.graph.node).index(last)
    graph.graph.node.insert(at, helper.make_node("Neg", ["state.h0"], ["negative"]))
    graph.graph.node.insert(at + 1, helper.make_node("Neg", ["negative"], ["again"]))
    last.input[0] = "again"
    _run_bound(graph, device, OVER_ALL, elsewhere=False)


def _run_bound(graph: onnx.ModelProto, device: Device, name: str, elsewhere: bool) -> None:
    content = graph.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=[CUDA_PROVIDER])
    binding = session.io_binding()
    for each in ("h0", "c0"):
        zeros = np.zeros((SESSIONS, 64), np.float32)
        arena, other = (
            onnxruntime.OrtValue.ortvalue_from_numpy(zeros, device.kind, 0) for _ in range(2)
        )
        binding.bind_ortvalue_input(f"state.{each}", arena)
        binding.bind_ortvalue_output(f"state.{each}.next", other if elsewhere else arena)
    binding.bind_cpu_input("slots", np.arange(1, BATCHES[-1] + 1))
    binding.bind_cpu_input("fresh", np.zeros(BATCHES[-1], np.bool_))
    binding.bind_cpu_input("input", np.ones((BATCHES[-1], 16), np.float32))
    binding.bind_output("output", "cpu")
    session.run_with_iobinding(binding)
    with part(name):
        session.run_with_iobinding(binding)


def main(to: Path) -> None:
    """Every case, in this process."""
    device = choose("cuda")
    spoil(device)
    told = {case.name: asdict(traced(case, device)) for case in CASES}
    to.write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
