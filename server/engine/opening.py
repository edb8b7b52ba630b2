"""The engine that a device needs."""

from __future__ import annotations

from server.bundle.repository import Bundle
from server.engine.device import Device
from server.engine.engine import Engine


def open_engine(bundle: Bundle, device: Device, capacity: int, threads: int = 1) -> Engine:
    """An engine on the CPU, or on CUDA, which is imported only then.

    Raises:
        BadModel: as `Engine` and `CudaEngine`.
    """
    if device.kind == "cpu":
        return Engine(bundle, device, capacity, threads)
    from server.engine.cuda_engine import CudaEngine

    return CudaEngine(bundle, device, capacity, threads)
