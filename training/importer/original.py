"""The model file as its author wrote it, run by plain onnxruntime: what an import must equal.

It is read whole and its edges are listed; then it is stepped a session at a time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError, EncodeError
from numpy.typing import NDArray
from onnx import ModelProto, TypeProto, ValueInfoProto, checker, helper

from server.engine.device import Device
from server.engine.graph import GraphError, open_session
from training.errors import TrainingError
from training.importer.plan import Output, Plan, State
from training.network import Floats

MAIN_DOMAINS = ("", "ai.onnx")
KINDS = {
    "float": "float32",
    "double": "float64",
    **{each: each for each in ("float16", "bool", "int8", "int16", "int32", "int64")},
    **{each: each for each in ("uint8", "uint16", "uint32", "uint64")},
}
RAW = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |(?<= )/\S+:\d+ \S+ [\w:]+\([^)]*\) ")
OLDEST_OPSET = 11  # the first with ScatterND, which updates the arenas

Values = dict[str, NDArray[Any]]
"""States' rows [B, ...] by their names in the bundle."""


@dataclass(frozen=True)
class Edge:
    """An input or output as the graph declares it; None where it leaves a size, or all of them,
    open. `axes` are the names of sizes left open, '' for others."""

    name: str
    dtype: str
    sizes: tuple[int | None, ...] | None
    axes: tuple[str, ...] = ()

    @property
    def batch(self) -> int:
        """The axis that the graph names as the batch's, if it is one alone; else the first."""
        named = [k for k, name in enumerate(self.axes) if "batch" in name.lower()]
        return named[0] if len(named) == 1 else 0

    @property
    def open_axis(self) -> int:
        """The batch's, or where the graph names none, the only axis that it leaves open."""
        left_open = [k for k, size in enumerate(self.sizes or ()) if size is None]
        return self.batch or (left_open[0] if len(left_open) == 1 else 0)

    def told(self) -> str:
        """Its shape, in words."""
        if self.sizes is None:
            return "no shape declared"
        names = self.axes or ("",) * len(self.sizes)
        shown = (name or "?" if size is None else str(size)
                 for size, name in zip(self.sizes, names, strict=True))  # fmt: skip
        return f"[{', '.join(shown)}]"


@dataclass(frozen=True)
class Original:
    """A readable model. `inputs` are those that a caller must give; of `outputs` a graph need not
    declare the shapes."""

    name: str
    sha256: str
    model: ModelProto
    inputs: Mapping[str, Edge]
    outputs: Mapping[str, Edge]
    session: onnxruntime.InferenceSession

    def run(self, feeds: Mapping[str, NDArray[Any]], wanted: list[str]) -> list[NDArray[Any]]:
        """Those outputs of one plain run.

        Raises:
            TrainingError: onnxruntime cannot run it so.
        """
        try:
            got = self.session.run(wanted, dict(feeds))
        except Exception as error:
            raise TrainingError(f"{self.name} does not run: {first_line(error)}") from error
        return [np.asarray(each) for each in got]


def read_original(path: Path) -> Original:
    """Read the model with the data that lies in files beside it.

    Raises:
        TrainingError: no such file, no ONNX model, its data is missing, its operators are too old,
            or onnxruntime does not load it.
    """
    model = _parse(path)
    opset = main_opset(model)
    if opset is None:  # its operators are all of other domains; ours are of this one
        model.opset_import.append(helper.make_opsetid("", 18))
    elif opset < OLDEST_OPSET:
        raise TrainingError(
            f"{path.name} is of opset {opset}; export it with opset {OLDEST_OPSET} or later"
        )
    content = _whole(path, model)
    try:
        session = open_session(content, Device("cpu"), 1)
    except GraphError as error:
        raise TrainingError(f"{path.name} {first_line(error)}") from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    inputs = _edges(model.graph.input, session.get_inputs())
    outputs = _edges(model.graph.output, session.get_outputs())
    return Original(path.name, digest, model, inputs, outputs, session)


def main_opset(model: ModelProto) -> int | None:
    """The version of ONNX's own operators that the model is written in, if it names one."""
    return next((each.version for each in model.opset_import if each.domain in MAIN_DOMAINS), None)


def first_line(error: Exception) -> str:
    """What onnxruntime says, without where in its code it says so."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return RAW.sub("", first)


def _parse(path: Path) -> ModelProto:
    try:
        model = onnx.load(path, format="protobuf")
    except DecodeError as error:
        raise TrainingError(f"{path} is no ONNX model, or is cut short") from error
    except (OSError, ValueError, checker.ValidationError) as error:
        raise TrainingError(f"{path} cannot be read: {first_line(error)}") from error
    if not (model.graph.node and model.graph.output):
        raise TrainingError(f"{path} is no ONNX model: it holds no graph")
    return model


def _whole(path: Path, model: ModelProto) -> bytes:
    """The model's bytes, which hold the data that lay in other files."""
    try:
        content: bytes = model.SerializeToString()
    except (ValueError, EncodeError) as error:
        raise TrainingError(f"{path.name} is larger than 2 GiB with its data") from error
    return content


def _edges(declared: Iterable[ValueInfoProto], there: Iterable[Any]) -> dict[str, Edge]:
    """Those that onnxruntime lists: inputs without a value of their own. Shapes are the model's:
    onnxruntime tells a scalar and an open shape alike."""
    tensors = {each.name: each.type.tensor_type for each in declared}
    return {
        each.name: Edge(each.name, _dtype(each.type), _sizes(tensors[each.name]),
                        tuple(size.dim_param for size in tensors[each.name].shape.dim))
        for each in there
    }  # fmt: skip


def _dtype(text: str) -> str:
    """numpy's name of a type that onnxruntime calls tensor(float); others keep their own."""
    return KINDS.get(text.removeprefix("tensor(").removesuffix(")"), text)


def _sizes(tensor: TypeProto.Tensor) -> tuple[int | None, ...] | None:
    if not tensor.HasField("shape"):
        return None
    return tuple(s.dim_value if s.HasField("dim_value") else None for s in tensor.shape.dim)


def run_once(
    original: Original, plan: Plan, frame: Floats, rows: Values
) -> tuple[list[NDArray[Any]], Values]:
    """One step of a session: the frame [width] and its states' rows [1, ...] by their names in the
    bundle. Returns the outputs as the graph shapes them, and the next rows.

    Raises:
        TrainingError: it does not run, or a state comes out with another shape than it went in.
    """
    taken, outputs = plan.input, [each.name for each in plan.outputs]
    given = frame.reshape(1, *taken.row).astype(taken.dtype)
    feeds = {taken.name: np.moveaxis(given, 0, taken.axis), **plan.constants}
    feeds |= {each.enters: np.moveaxis(rows[each.name], 0, each.axis) for each in plan.states}
    got = original.run(feeds, [*outputs, *(each.leaves for each in plan.states)])
    after = zip(plan.states, got[len(outputs) :], strict=True)
    return got[: len(outputs)], {each.name: _row(each, left) for each, left in after}


class Plain:
    """One session of the original. `rows` is its state, and may be changed between steps."""

    def __init__(self, original: Original, plan: Plan) -> None:
        self._original, self._plan = original, plan
        self.rows = plan.start()

    def step(self, sent: Floats) -> Floats:
        """One observation as callers send it; the outputs side by side, float32 [O]."""
        plan = self._plan
        before = self.rows[plan.context_name][0] if plan.context else np.empty(0, np.float32)
        frame = np.concatenate([before, sent])
        got, self.rows = run_once(self._original, plan, frame, self.rows)
        if plan.context:
            self.rows[plan.context_name] = frame[None, -plan.context :]
        return np.concatenate(list(map(_flat, plan.outputs, got)))


def _row(state: State, left: NDArray[Any]) -> NDArray[Any]:
    whole = [*state.row[: state.axis], 1, *state.row[state.axis :]]
    if list(left.shape) != whole:
        raise TrainingError(
            f"state {state.enters!r} is {whole} for one session, "
            f"and {state.leaves!r} comes out as {list(left.shape)}"
        )
    return np.ascontiguousarray(np.moveaxis(left, state.axis, 0))


def _flat(output: Output, value: NDArray[Any]) -> Floats:
    with np.errstate(over="ignore"):  # too large for float32 is infinite here as in the graph
        return np.moveaxis(np.atleast_1d(value), output.axis, 0).astype(np.float32).ravel()
