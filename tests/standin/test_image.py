"""The GPU's image has the libraries that onnxruntime's CUDA provider loads, and no others.

What it opens while it runs is what the dynamic loader was asked for, over the stand-ins.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from server.bundle.soundness import MICROSOFT
from tests.harness import ROOT
from tests.standin.libraries import run
from tests.standin.test_libraries import PROVIDER

HOLDS = {
    "nvidia-cublas": {"libcublas.so.13", "libcublasLt.so.13"},
    "nvidia-cuda-nvrtc": {"libnvrtc.so.13"},
    "nvidia-cuda-runtime": {"libcudart.so.13"},
    "nvidia-cudnn-cu13": {"libcudnn.so.9"},
    "nvidia-curand": {"libcurand.so.10"},
}
"""The packages, and which of their libraries are opened by name. NVRTC is cuBLAS's and cuDNN's."""
DRIVER = {"libcuda.so.1"}  # the host's
# onnxruntime's preload asks for these once each, and goes on without; nobody else does.
PRELOADED = {"libnvrtc.so.13", "libcufft.so.12"}
STEPS = """
import numpy as np
from server.engine.device import choose
from tests.standin.runs import SHAPES
from training.graphs.stepping import rows, serve
from training.graphs.whole import Form
engine = serve(SHAPES["1x64"], Form(), 10, choose("cuda"))
for chunk in (1, 4):
    engine.run(rows(range(8), np.ones((8, chunk, 16), np.float32), np.zeros(8, bool)))
engine.write(np.arange(3), engine.read(np.arange(3)))
"""
FOURIER = """
import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from server.engine.device import CUDA_PROVIDER, choose
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 64, 1]), ("y", None)))
lengths = [helper.make_tensor(name, TensorProto.INT64, [], [16]) for name in ("step", "length")]
graph = helper.make_graph([helper.make_node({node}, outputs=["y"])], "fourier", [x], [y], lengths)
domains = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
model = helper.make_model(graph, opset_imports=domains, ir_version=10)
choose("cuda")
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[CUDA_PROVIDER])
try:
    session.run(None, {{"x": np.ones((1, 64, 1), np.float32)}})
except Exception as error:
    print(error)
"""


def needed(library: Path) -> set[str]:
    """NVIDIA's libraries that one links to."""
    command = ["readelf", "--dynamic", "--wide", str(library)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name for name in re.findall(r"\(NEEDED\).*\[(.*)\]", told) if name.startswith("libcu")}


def packages(lock: str) -> set[str]:
    lines = (ROOT / "requirements" / lock).read_text().splitlines()
    names = (re.match(r"(nvidia-[a-z0-9-]+)", line) for line in lines)
    return {name[1] for name in names if name}


def asked_for(libraries: Path, folder: Path, program: str) -> tuple[Counter[str], str]:
    """How often the dynamic loader was asked for each of NVIDIA's libraries by name; and what the
    program printed."""
    _, printed = run(libraries, folder, "-c", program)
    told = "".join(each.read_text() for each in folder.glob("loader.*"))
    return Counter(re.findall(r"find library=(lib(?:cu|nv)\S+)", told)), printed


@pytest.fixture
def loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where the dynamic loader of processes started from here says what it is asked."""
    monkeypatch.setenv("LD_DEBUG", "libs")
    monkeypatch.setenv("LD_DEBUG_OUTPUT", str(tmp_path / "loader"))
    return tmp_path


@pytest.mark.usefixtures("libraries")  # gcc comes with what reads the provider
def test_each_library_that_the_provider_links_to_has_a_package_that_is_named_for_it() -> None:
    links = needed(PROVIDER)
    assert {"libcublas.so.13", "libcudart.so.13"} <= links
    assert links - DRIVER <= set().union(*HOLDS.values())
    assert packages("gpu.in") == packages("gpu.lock") == set(HOLDS)


def test_a_model_s_runs_open_no_library_that_the_image_has_not(
    libraries: Path, loader: Path
) -> None:
    asked, _ = asked_for(libraries, loader, STEPS)
    assert asked["libcudnn.so.9"], "opened by the LSTM operator, not linked to"
    assert set(asked) <= DRIVER | PRELOADED | set().union(*HOLDS.values())
    assert {name: asked[name] for name in PRELOADED} == dict.fromkeys(PRELOADED, 1)


@pytest.mark.parametrize(
    ("node", "asks"),
    [
        ('"DFT", ["x"], axis=1', False),
        ('"STFT", ["x", "step", "", "length"]', False),
        ('"Rfft", ["x"], domain="com.microsoft", signal_ndim=1', True),
    ],
)
def test_cufft_is_for_operators_that_no_bundle_may_have(
    libraries: Path, loader: Path, node: str, asks: bool
) -> None:
    """ONNX's own transforms run on the CPU."""
    asked, failed = asked_for(libraries, loader, FOURIER.format(node=node))
    assert asked["libcufft.so.12"] == 1 + asks
    assert bool(failed) == asks
    assert "Rfft" not in MICROSOFT and "Irfft" not in MICROSOFT


def test_cuda_s_cache_lies_where_the_image_may_write_and_a_pod_has_room() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    (gpu,) = re.findall(r"\nFROM base AS settings-gpu\n(ENV (?:.*\\\n)*.*\n)", dockerfile)
    told = dict(re.findall(r"(CUDA_CACHE_\w+)=(\S+)", gpu))
    assert Path(told["CUDA_CACHE_PATH"]).is_relative_to("/tmp")
    pod = (ROOT / "deploy" / "kubernetes" / "components" / "pod" / "pod.yaml").read_text()
    (room,) = re.findall(r"name: tmp\n\s+emptyDir: \{sizeLimit: (\d+)Mi\}", pod)
    assert int(told["CUDA_CACHE_MAXSIZE"]) <= int(room) * 2**20 // 2
