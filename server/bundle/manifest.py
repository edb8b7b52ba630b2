"""`model.json`, parsed and checked: what a bundle says of itself. Engine and sessions read it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.bundle import feature
from server.bundle.feature import Feature as Feature  # callers know it from here
from server.errors import BadModel

FORMAT = 1
MAX_CHUNK, MAX_BATCH = 4096, 65_536
MAX_FILES = 1000
MAX_SIZE = 2**40  # values; whether there is room for them is another question
DTYPES = ("float32", "float16", "float64", "int64", "int32", "bool")
SINGLE, STEP, READ, WRITE = "single.onnx", "step.onnx", "read.onnx", "write.onnx"
SINGLE_CUDA = "single.cuda.onnx"
DIGESTED = (SINGLE, STEP, READ, WRITE)
SERVED = (*DIGESTED, SINGLE_CUDA)
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Output:
    """A group of output values: one probability a label, or plain values in `unit`."""

    name: str
    size: int
    kind: str
    unit: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class State:
    """One state tensor; `shape` is a session's row, without the slot axis."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    initial: float


@dataclass(frozen=True)
class Manifest:
    """What `model.json` promises of its bundle."""

    name: str
    version: int
    description: str
    features: tuple[Feature, ...]
    outputs: tuple[Output, ...]
    states: tuple[State, ...]
    max_chunk: int
    max_batch: int
    files: dict[str, str]

    @cached_property
    def digest(self) -> bytes:
        """Which graphs these are: sha256 over the names and digests of those that every bundle may
        have. Not of the one for CUDA, which computes what `single.onnx` does: sessions go from the
        CPU to a GPU and back, and between servers of versions that do not know it."""
        served = sorted((name, self.files[name]) for name in DIGESTED if name in self.files)
        return hashlib.sha256(json.dumps(served).encode()).digest()

    @cached_property
    def inputs_width(self) -> int:
        """Values in one observation."""
        return len(self.features)

    @cached_property
    def may_miss(self) -> NDArray[np.bool_]:
        """bool [I]: features in which NaN means that nothing was observed."""
        return np.array([each.missing for each in self.features])

    @property
    def feedback(self) -> tuple[int, ...] | None:
        """For each feature the output value of its name, if every feature has one.

        A plain value is named by its output, or where that has several values, by its labels.
        """
        at: dict[str, int] = {}
        start = 0
        for output in self.outputs:
            names = output.labels or ((output.name,) if output.size == 1 else ())
            if output.kind == "value":
                at |= {name: start + k for k, name in enumerate(names)}
            start += output.size
        if any(feature.name not in at for feature in self.features):
            return None
        return tuple(at[feature.name] for feature in self.features)

    @cached_property
    def outputs_width(self) -> int:
        """Values in one step's output."""
        return sum(output.size for output in self.outputs)


def parse(text: bytes, where: str) -> Manifest:
    """Parse and check `model.json`; `where` names the bundle in errors.

    Raises:
        BadModel: not JSON, of another format, or a field is missing, mistyped or out of range.
    """
    try:
        raw = json.loads(text)
        json.dumps(raw, ensure_ascii=False).encode()  # half a character is none
        _check_format(raw, where)
        manifest = _read(raw)
        _check(manifest)
    except BadModel:
        raise
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise BadModel(f"{where}/model.json is malformed: {repr(error)[:300]}") from error
    return manifest


def _check_format(raw: Any, where: str) -> None:
    if not isinstance(raw, dict):
        raise ValueError("not an object")
    if raw["format"] != FORMAT:
        found = repr(raw["format"])[:100]
        raise BadModel(f"{where}/model.json has format {found}; this server reads format {FORMAT}")


def _read(raw: dict[str, Any]) -> Manifest:
    return Manifest(
        name=str(raw["name"]),
        version=int(raw["version"]),
        description=str(raw.get("description", "")),
        features=tuple(feature.read(each) for each in raw["features"]),
        outputs=tuple(_read_output(output) for output in raw["outputs"]),
        states=tuple(
            State(
                str(s["name"]),
                tuple(map(int, s["shape"])),
                str(s["dtype"]),
                float(s.get("initial", 0.0)),
            )
            for s in raw["states"]
        ),
        max_chunk=int(raw["max_chunk"]),
        max_batch=int(raw["max_batch"]),
        files={str(name): str(digest) for name, digest in raw["files"].items()},
    )


def _read_output(raw: dict[str, Any]) -> Output:
    labels = tuple(map(str, raw.get("labels", ())))
    size = int(raw["size"])
    if labels and len(labels) != size:
        raise ValueError(f"output {raw['name']!r} has {size} values but {len(labels)} labels")
    return Output(str(raw["name"]), size, str(raw["kind"]), str(raw.get("unit", "")), labels)


def _check(manifest: Manifest) -> None:
    if not (manifest.features and manifest.outputs and manifest.states):
        raise ValueError("features, outputs and states must not be empty")
    if manifest.version < 1:
        raise ValueError("version must be at least 1")
    for name, value, limit in (
        ("max_chunk", manifest.max_chunk, MAX_CHUNK),
        ("max_batch", manifest.max_batch, MAX_BATCH),
    ):
        if not 1 <= value <= limit:
            raise ValueError(f"{name} must be 1 to {limit}, not {value}")
    if any(not 1 <= output.size <= MAX_SIZE for output in manifest.outputs):
        raise ValueError(f"every output must have 1 to {MAX_SIZE} values")
    if len({state.name for state in manifest.states}) < len(manifest.states):
        raise ValueError("a state's name occurs twice")
    for state in manifest.states:
        if any(size < 1 for size in state.shape) or prod(state.shape) > MAX_SIZE:
            shape = str(state.shape)[:100]
            raise ValueError(f"state {state.name!r} has the impossible shape {shape}")
        _check_values(state)
    if len(manifest.files) > MAX_FILES:
        raise ValueError(f"more than {MAX_FILES:,} files are listed")
    for name in manifest.files:
        if not _FILE_NAME.fullmatch(name):
            raise ValueError(f"file {name!r} is not a plain name within the bundle's folder")
    for name in (STEP, READ, WRITE):
        if name not in manifest.files:
            raise ValueError(f"{name} is not listed")


def _check_values(state: State) -> None:
    if state.dtype not in DTYPES:
        raise ValueError(f"state {state.name!r} has unsupported dtype {state.dtype!r}")
    whole = np.dtype(state.dtype).kind in "ib"
    if whole and np.array(state.initial).astype(state.dtype) != state.initial:
        raise ValueError(f"state {state.name!r} begins at {state.initial}, no {state.dtype}")
