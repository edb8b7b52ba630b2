"""The machine of a run: device, driver, versions; and whether the device can be used at all."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version

from benchmarks import machine
from benchmarks.gpu.options import Options, Say, Unusable
from server.engine.device import Device, DeviceError, choose

PACKAGES = ("onnxruntime-gpu", "onnxruntime", "onnx", "numpy", "torch", "grpcio", "protobuf")
FIGURES = ("name", "driver_version", "memory.total", "power.limit", "clocks.max.sm")


def run(options: Options, say: Say) -> None:
    """Say what there is.

    Raises:
        Unusable: the device cannot be used; nothing is to be measured.
    """
    device = the_device(options)
    say(
        "machine",
        device=device.name,
        gpu=_gpu() if device.kind == "cuda" else "",
        host=machine.description(),
        cores=len(os.sched_getaffinity(0)),
        system=platform.platform(),
        python=platform.python_version(),
        versions=_versions(),
        commit=_answer("git", "describe", "--always", "--dirty"),
    )


def the_device(options: Options, captures: bool = True) -> Device:
    """The one that is asked for. Raises Unusable."""
    try:
        return choose(options.device, captures)
    except DeviceError as error:
        raise Unusable(str(error)) from error


def _gpu() -> str:
    query = f"--query-gpu={','.join(FIGURES)}"
    lines = _answer("nvidia-smi", query, "--format=csv,noheader").splitlines()
    cuda = [each for each in _answer("nvidia-smi").splitlines() if "CUDA Version" in each]
    told = dict(zip(FIGURES, lines[0].split(", "), strict=False)) if lines else {}
    more = [f"{name} {value}" for name, value in told.items() if name != "name"]
    more += [f"CUDA {cuda[0].split('CUDA Version:')[1].split()[0]}"] if cuda else []
    return ", ".join([told.get("name", "unknown"), *more])


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _answer(tool: str, *arguments: str) -> str:
    """What a tool prints; nothing where there is none or it fails."""
    where = shutil.which(tool)
    if where is None:
        return ""
    try:
        done = subprocess.run(
            [where, *arguments], cwd=machine.ROOT, capture_output=True, text=True, timeout=20
        )
    except subprocess.TimeoutExpired:
        return ""
    return "" if done.returncode else done.stdout.strip()
