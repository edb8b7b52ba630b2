"""Small recurrent graphs as people write them, and bundles made of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import parser

from server.bundle.repository import Bundle, Entry, load
from server.engine.device import Device
from server.engine.engine import Engine, EngineRows
from training.__main__ import main
from training.network import Floats

CPU = Device("cpu")

LEAKY = """<ir_version: 8, opset_import: ["" : 17]>
leaky (float[batch, 3] x, float[batch, 3] h) => (float[batch, 3] y, float[batch, 3] hn)
{
    half = Constant<value = float {0.5}>()
    kept = Mul(h, half)
    hn = Add(kept, x)
    y = Tanh(hn)
}
"""

COUNTER = """<ir_version: 8, opset_import: ["" : 17]>
counter (float[batch, 2] x, int64[batch, 1] n) => (float[batch, 2] y, int64[batch, 1] nn)
{
    one = Constant<value = int64 {1}>()
    nn = Add(n, one)
    known = Cast<to = 1>(nn)
    y = Mul(x, known)
}
"""

# A sum in another type; y tells the type's own rounding. KIND and NUMBER stand for the type.
TYPED = """<ir_version: 8, opset_import: ["" : 17]>
typed (float[batch, 2] x, KIND[batch, 2] s) => (float[batch, 2] y, KIND[batch, 2] sn)
{
    given = Cast<to = NUMBER>(x)
    sn = Add(s, given)
    y = Cast<to = 1>(sn)
}
"""

FLIP = """<ir_version: 8, opset_import: ["" : 17]>
flip (float[batch, 2] x, bool[batch, 2] s) => (float[batch, 2] y, bool[batch, 2] sn)
{
    zero = Constant<value = float {0}>()
    above = Greater(x, zero)
    sn = Xor(s, above)
    y = Cast<to = 1>(sn)
}
"""

# An LSTM of 4 units as exporters take it apart: products, slices, gates. Its states are
# [layers, batch, units].
LSTM = """<ir_version: 8, opset_import: ["" : 17]>
lstm (float[batch, 1, 3] x, float[1, batch, 4] h, float[1, batch, 4] c)
    => (float[batch, 1, 2] y, float[1, batch, 4] hn, float[1, batch, 4] cn)
<float[3, 16] W, float[4, 16] R, float[16] b, float[4, 2] V>
{
    time = Constant<value = int64[1] {1}>()
    layer = Constant<value = int64[1] {0}>()
    row = Squeeze(x, time)
    h0 = Squeeze(h, layer)
    c0 = Squeeze(c, layer)
    xw = MatMul(row, W)
    hr = MatMul(h0, R)
    sum = Add(xw, hr)
    gates = Add(sum, b)
    i, f, g, o = Split<axis = 1>(gates)
    si = Sigmoid(i)
    sf = Sigmoid(f)
    so = Sigmoid(o)
    tg = Tanh(g)
    kept = Mul(sf, c0)
    new = Mul(si, tg)
    c1 = Add(kept, new)
    tc = Tanh(c1)
    h1 = Mul(so, tc)
    hn = Unsqueeze(h1, layer)
    cn = Unsqueeze(c1, layer)
    flat = MatMul(h1, V)
    y = Unsqueeze(flat, time)
}
"""


def model_of(text: str, **weights: NDArray[Any]) -> onnx.ModelProto:
    """The graph with those weights."""
    model = parser.parse_model(text)
    del model.graph.initializer[:]
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in weights.items()
    )
    onnx.checker.check_model(model)
    return model


def lstm() -> onnx.ModelProto:
    """`LSTM` with weights."""
    rng = np.random.default_rng(3)
    shapes = {"W": (3, 16), "R": (4, 16), "b": (16,), "V": (4, 2)}
    drawn = {name: rng.normal(0, 0.7, shape).astype("f4") for name, shape in shapes.items()}
    return model_of(LSTM, **drawn)


def typed(dtype: str) -> onnx.ModelProto:
    """`TYPED` with a state of that numpy type; `FLIP` for bool."""
    if dtype == "bool":
        return model_of(FLIP)
    number = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    kind = {"float32": "float", "float64": "double"}.get(dtype, dtype)
    return model_of(TYPED.replace("KIND", kind).replace("NUMBER", str(int(number))))


def save(model: onnx.ModelProto, folder: Path) -> Path:
    """As a file."""
    path = folder / "given.onnx"
    onnx.save(model, path)
    return path


def bundle_of(model: onnx.ModelProto, folder: Path, options: str) -> Bundle:
    """Import it by the command as `taken/1`, and read the bundle as the server does."""
    return import_file(save(model, folder), folder / "models" / "taken" / "1", options)


def import_file(path: Path, out: Path, options: str) -> Bundle:
    """Import a file by the command."""
    assert main(["import", str(path), *options.split(), "--out", str(out)]) == 0
    entry = Entry(out.parent.name, int(out.name), out)
    return load(entry, out.parent.parent)


def steps(bundle: Bundle, signals: Floats) -> tuple[Floats, list[NDArray[Any]]]:
    """Outputs [B, T, O] of signals [B, T, I], a session each, and their states at the end."""
    engine, slots = Engine(bundle, CPU, len(signals)), np.arange(1, len(signals) + 1)
    found, most = [], bundle.manifest.max_batch
    for t in range(signals.shape[1]):
        frames = np.ascontiguousarray(signals[:, t : t + 1])
        runs = [
            engine.run(rows(slots[k : k + most], frames[k : k + most], t == 0))
            for k in range(0, len(slots), most)
        ]
        found.append(np.concatenate(runs)[:, 0])
    return np.stack(found, axis=1), engine.read(slots)


def rows(slots: NDArray[np.int64], frames: Floats, fresh: bool) -> EngineRows:
    """A step of each slot: frames [B, 1, I]."""
    lengths = np.ones(len(slots), np.int32)
    return EngineRows(np.ascontiguousarray(slots), np.full(len(slots), fresh), lengths, frames)


def plain(model: onnx.ModelProto, signal: Floats, feed: Mapping[str, Any], pairs: Mapping[str, str],
          shape: tuple[int, ...]) -> list[NDArray[Any]]:  # fmt: skip
    """What onnxruntime makes of one session by hand: input `x` of that shape, output `y` by step;
    `feed` is the states at first, `pairs` the output that each becomes."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    kind = session.get_inputs()[0].type
    states, found = dict(feed), []
    for frame in signal:
        x = frame.reshape(shape).astype("i8" if "int64" in kind else "f4")
        y, *after = session.run(["y", *pairs.values()], {"x": x, **states})
        states = dict(zip(pairs, after, strict=True))
        found.append(y)
    return found
