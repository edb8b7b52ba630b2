"""Chooses where a model runs: CUDA when there is a working one, the CPU otherwise."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnxruntime

log = logging.getLogger(__name__)

CUDA_PROVIDER = "CUDAExecutionProvider"
FRUGAL = {"arena_extend_strategy": "kSameAsRequested"}  # its default doubles what it has
# The smallest model there is (y = x, opset 18), to see whether a provider starts.
IDENTITY = bytes.fromhex(
    "08093a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801"
    "620f0a0179120a0a08080112040a02080142040a001012"
)


class DeviceError(RuntimeError):
    """The device asked for cannot be used here; the message says why."""


@dataclass(frozen=True)
class Device:
    """An onnxruntime device: `kind` is "cpu" or "cuda"; `captures` whether single steps are
    captured as CUDA graphs."""

    kind: str
    index: int = 0
    captures: bool = True

    @property
    def name(self) -> str:
        """ "cpu" or "cuda:0"."""
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"

    @property
    def spare_rows(self) -> int:
        """Rows of an arena that are no session's: row 0, which is scratch, and on CUDA the last,
        which is padding's."""
        return 1 if self.kind == "cpu" else 2

    def providers_with(self, more: Mapping[str, str]) -> list[Any]:
        """onnxruntime's providers; full float32 on CUDA, so that both devices agree. `more` are
        further options of CUDA's."""
        if self.kind == "cpu":
            return ["CPUExecutionProvider"]
        options = {"device_id": str(self.index), "use_tf32": "0", **more}
        return [(CUDA_PROVIDER, options), "CPUExecutionProvider"]


def choose(requested: str, captures: bool = True) -> Device:
    """The device for "auto", "cpu" or "cuda", and whether it is to capture single steps.

    Raises:
        DeviceError: "cuda" was asked for and cannot be used.
    """
    if requested == "cpu":
        return Device("cpu")
    problem = _cuda_problem()
    if problem is None:
        return Device("cuda", captures=captures)
    if requested == "cuda":
        raise DeviceError(f"device cuda cannot be used: {problem}")
    log.info("running on the CPU: %s", problem)
    return Device("cpu")


def _cuda_problem() -> str | None:
    """Why CUDA cannot be used, or None; onnxruntime alone would use the CPU in silence."""
    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        return "this onnxruntime was built without CUDA"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver (libcuda.so.1) is installed"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return "the NVIDIA driver does not start"
    if count.value == 0:
        return "the NVIDIA driver finds no GPU"
    # CUDA and cuDNN may come from pip packages, which no loader path names.
    onnxruntime.preload_dlls()
    return start_problem(Device("cuda"))


def start_problem(device: Device) -> str | None:
    """Why onnxruntime cannot run on `device`, found by trying, or None."""
    # A few bytes at a time: what onnxruntime's arena takes here it would keep for good.
    session = onnxruntime.InferenceSession(IDENTITY, providers=device.providers_with(FRUGAL))
    if device.kind == "cpu" or CUDA_PROVIDER in session.get_providers():
        return None
    return "onnxruntime's CUDA provider does not start; its message above names what it misses"
