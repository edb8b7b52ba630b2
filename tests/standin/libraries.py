"""Builds the stand-in CUDA libraries of `cuda/` with gcc, once for each state of their sources, and
runs programs over them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.harness import ROOT
from tests.standin.trace import RUNTIME, Trace

SOURCES = Path(__file__).resolve().parent / "cuda"
LIBRARIES = {  # the runtime first: the others call it, as the real ones do
    RUNTIME: ("log.c", "memory.c", "streams.c", "kernels.c", "device.c"),
    "libcuda.so.1": ("driver.c",),
    "libcublasLt.so.13": ("cublaslt.c",),
    "libcublas.so.13": ("cublas.c",),
    "libcudnn.so.9": ("cudnn.c",),
    "libcurand.so.10": ("curand.c",),
}
# A library that does nothing looks at few of its parameters.
FLAGS = (
    *("-shared", "-fPIC", "-O1", "-std=gnu17", "-pthread"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"),
)


def build(within: Path) -> Path:
    """The folder under `within` that holds the libraries, for LD_LIBRARY_PATH.

    Many processes may ask at once: each builds apart, and the first to finish is the one kept.

    Raises:
        RuntimeError: there is no gcc, or it refuses the sources.
    """
    folder = within / f"standin-{_digest()}"
    if not folder.is_dir():
        own = Path(tempfile.mkdtemp(prefix=".building-", dir=within))
        for library, sources in LIBRARIES.items():
            _compile(own, library, sources)
        try:
            own.rename(folder)
        except OSError:  # another was first
            shutil.rmtree(own)
    return folder


def environment(libraries: Path, log: Path, **settings: object) -> dict[str, str]:
    """What a program needs to find the stand-ins and to log to `log`, beside what it has;
    `settings` are theirs: `memory`, the device's bytes; `devices`, how many the driver finds;
    `parts`, to log what is within a part alone; `fails_if`, a file with which the device fails."""
    told = {f"STANDIN_{name.upper()}": str(value) for name, value in settings.items()}
    return {"LD_LIBRARY_PATH": str(libraries), "STANDIN_LOG": str(log)} | told


def run(libraries: Path, folder: Path, *command: str, **settings: object) -> tuple[Trace, str]:
    """Run Python with `command` over the stand-ins; what it did to the device, and what it printed.

    Raises:
        RuntimeError: it failed; the message is what it wrote.
    """
    log = folder / "standin.log"
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env=os.environ | environment(libraries, log, **settings),
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{command[:2]} ended with {done.returncode}:\n{done.stderr[-5000:]}")
    return Trace.read(log), done.stdout


def _compile(folder: Path, library: str, sources: tuple[str, ...]) -> None:
    versions = folder / f"{library}.map"  # the provider asks for each symbol by its library's name
    versions.write_text(f"{library} {{ global: *; }};\n")
    command = ["gcc", *FLAGS, f"-Wl,-soname,{library}", f"-Wl,--version-script={versions}"]
    command += ["-o", str(folder / library), *(str(SOURCES / each) for each in sources)]
    command += [str(folder / RUNTIME)] if library != RUNTIME else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except FileNotFoundError as error:
        raise RuntimeError(
            "the stand-in CUDA libraries need gcc: make tools installs it"
        ) from error
    if done.returncode:
        raise RuntimeError(f"gcc does not build {library}:\n{done.stderr}")


def _digest() -> str:
    files = sorted(SOURCES.iterdir())
    content = b"".join(file.name.encode() + file.read_bytes() for file in files)
    return hashlib.sha256(content + repr((LIBRARIES, FLAGS)).encode()).hexdigest()[:16]
