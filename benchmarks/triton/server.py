"""tritonserver in processes of its own, on one core: its sequence batcher over `model/`."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.machine import cpu_seconds, pinned
from benchmarks.models import H64

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent.parent / ".venv-triton"
START_SECONDS = 60.0


@dataclass(frozen=True)
class TritonServer:
    """A tritonserver that is ready, with its backend's process."""

    pid: int
    address: str

    def cpu_seconds(self) -> float:
        """CPU time that it and its backend's process have used so far."""
        return sum(map(cpu_seconds, [self.pid, *_children(self.pid)]))


@contextmanager
def serving(core: int) -> Iterator[TritonServer]:
    """tritonserver on a free port of the loopback address.

    Raises:
        RuntimeError: it does not start; the message holds its log.
    """
    with tempfile.TemporaryDirectory() as folder, pinned(core):
        package = _package()
        port, log = _free_port(), Path(folder, "log")
        command = [str(package / "tritonserver/bin/tritonserver"), *_flags(Path(folder), port)]
        _repository(Path(folder, "models"))
        _backend(package, Path(folder, "backends"))
        with log.open("w") as sink:
            process = subprocess.Popen(
                command, env=_environment(package), stdout=sink, stderr=subprocess.STDOUT
            )
        try:
            _await_ready(process, log)
            yield TritonServer(process.pid, f"127.0.0.1:{port}")
        finally:
            process.kill()
            process.wait()


def _flags(folder: Path, port: int) -> list[str]:
    return [
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={folder / 'backends'}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={port}",
        "--allow-http=false",
        "--allow-metrics=false",
        # With its default, 64 or more streamed sequences crash this version.
        "--grpc-infer-allocation-pool-size=8192",
        "--cuda-memory-pool-byte-size=0:0",
        "--pinned-memory-pool-byte-size=0",
        "--log-verbose=0",
    ]


def _package() -> Path:
    (found,) = ENVIRONMENT.glob("lib/python3.*/site-packages/pytriton")
    return found


def _environment(package: Path) -> dict[str, str]:
    return os.environ | {
        "LD_LIBRARY_PATH": str(package.parent / "nvidia_pytriton.libs"),
        "PATH": f"{ENVIRONMENT / 'bin'}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _backend(package: Path, folder: Path) -> None:
    """The Python backend with the stub of the environment's Python."""
    shutil.copytree(package / "tritonserver/backends", folder)
    version = package.parent.parent.name.removeprefix("python")
    stub = package / "tritonserver/python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, folder / "python")


def _repository(folder: Path) -> None:
    version = folder / H64.name / "1"
    version.mkdir(parents=True)
    shutil.copy(HERE / "model/config.pbtxt", version.parent)
    shutil.copy(HERE / "model/model.py", version)
    weights = H64.weights()
    (layer,) = weights.layers
    np.savez(
        version / "weights.npz", mean=weights.mean, std=weights.std, clip=weights.clip,
        w=layer.w, r=layer.r, b=layer.b, head_w=weights.head_w, head_b=weights.head_b,
    )  # fmt: skip


def _await_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if "Started GRPCInferenceService" in log.read_text():
            return
        time.sleep(0.05)
    raise RuntimeError(f"tritonserver did not start:\n{log.read_text()}")


def _children(pid: int) -> list[int]:
    direct = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    direct += [
        int(each)
        for task in Path(f"/proc/{pid}/task").iterdir()
        if task.name != str(pid)
        for each in (task / "children").read_text().split()
    ]
    return direct + [each for child in direct for each in _children(child)]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
