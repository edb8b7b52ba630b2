"""What `benchmarks.gpu --prepare` puts in place of a GPU: its double, right and wrong; or a machine
on which packages are missing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.machinery import ModuleSpec
from threading import Event
from types import ModuleType
from unittest import mock

from server.bundle.repository import Bundle
from server.engine import device as devices
from server.engine import memory, opening
from server.engine.cuda_engine import CudaEngine
from server.engine.device import Device
from server.engine.engine import Engine
from tests.server.engine.double import DoubleGpu, DoubleStream
from tests.server.engine.wrong import padded_with_the_scratch_row

MEMORY = 1 << 30
_streams: list[DoubleStream] = []
_for_good = ExitStack()


def double() -> None:
    """A GPU's double where CUDA would be; the CPU is itself."""
    mock.patch.object(devices, "_cuda_problem", lambda: None).start()
    mock.patch.object(opening, "open_engine", opened).start()
    mock.patch.object(memory, "free_on", free_on).start()


def opened(bundle: Bundle, device: Device, capacity: int, threads: int = 1) -> Engine:
    """As `open_engine`."""
    if device.kind == "cpu":
        return Engine(bundle, device, capacity, threads)
    gpu = DoubleGpu(MEMORY, device)
    _streams.append(gpu.stream)
    return CudaEngine(bundle, device, capacity, threads, gpu)


def free_on(device: Device) -> int:
    """As `memory.free_on`, of what all engines have taken."""
    return MEMORY - sum(MEMORY - stream.free_bytes() for stream in _streams)


def wrong() -> None:
    """A double that pads with forecasts' row."""
    double()
    _for_good.enter_context(padded_with_the_scratch_row())


def hanging() -> None:
    """A proof that never ends."""
    mock.patch("benchmarks.gpu.proofs.check_rows", lambda *_: iter(Event().wait, None)).start()


class _Missing:
    """Finds nothing of some packages."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] in self._names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def bare() -> None:
    """Nothing but onnxruntime, onnx and numpy."""
    sys.meta_path.insert(
        0, _Missing("grpc", "torch", "pydantic", "pydantic_settings", "prometheus_client", "hpack")
    )
