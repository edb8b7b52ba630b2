"""A trained network as plain arrays, which every part of training meets at, and its file.

One observation x [F] of raw features goes through, in this order: the mirror; normalisation to
(x - mean) / std, clipped to ±clip; embeddings in place of categories; recurrent layers; a linear
head. What that says becomes outputs: probabilities, by softmax; values, which may be added to
features; or a fan of quantiles about each value. A linear path may add to what the head says.

`network.npz` holds plain arrays and one line of JSON, and is never pickled.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError

Floats = NDArray[np.float32]

GATES = {"lstm": 4, "gru": 3, "rnn": 1}

FILE = "network.npz"
ARRAYS = ("w", "r", "b", "rb", "project", "gain", "shift")
LAGS = "lags"
EPSILON = 1e-5
"""What a layer's variance is taken to be more than it is, where it is normalised."""
FAR = 1000.0
"""Deviations from the mean that the linear path takes no value beyond: no finite input, however
large, can make its state or what it says overflow."""


@dataclass(frozen=True)
class Layer:
    """One recurrent layer of H units, G gates a unit, P values out (P = H without a projection).

    w [G·H, I], r [G·H, P], b [G·H]; rows in blocks of gates as in torch: i, f, g, o (lstm),
    r, z, n (gru), one block (rnn, tanh). What b holds is the sum of torch's two biases, except for
    a gru, whose reset gate multiplies the recurrent one: that is `rb` [G·H].
    """

    w: Floats
    r: Floats
    b: Floats
    cell: str = "lstm"
    rb: Floats | None = None
    project: Floats | None = None
    """[P, H], lstm only: h = project @ (o * tanh(c)) (Sak, Senior & Beaufays 2014)."""
    gain: Floats | None = None
    shift: Floats | None = None
    """[P] each, if it is normalised: what it puts out is gain * (h - m) / sqrt(v + EPSILON) +
    shift, with h's mean m and variance v over its values (Ba, Kiros & Hinton 2016). Its state is
    h."""
    residual: bool = False
    """Whether what the layer puts out is that and its input (of the same width) added."""

    @property
    def hidden(self) -> int:
        """H: units in the layer."""
        return len(self.w) // GATES[self.cell]

    @property
    def width(self) -> int:
        """P: values it puts out."""
        return int(self.r.shape[1])

    @property
    def states(self) -> tuple[tuple[str, int], ...]:
        """Its state tensors and their widths: h, and for an lstm c."""
        h = ("h", self.width)
        return (h, ("c", self.hidden)) if self.cell == "lstm" else (h,)


@dataclass(frozen=True)
class Mirror:
    """Features to negate where feature `by` is 1 (and to leave where it is 0); flip [F] is 0 or 1.

    A watch on the other arm sees a movement's mirror image; with this, both arms train one model.
    """

    by: int
    flip: tuple[float, ...]


@dataclass(frozen=True)
class Embedding:
    """A categorical feature, sent as the index k of its label: row k of table [labels + 1, E].

    The last row stands for whatever is not 0..labels-1 (rounded), or missing.
    """

    feature: int
    table: Floats

    @property
    def labels(self) -> int:
        """How many labels are known."""
        return len(self.table) - 1


def outputs_order(levels: Sequence[float]) -> list[int]:
    """The places of ascending levels as outputs have them: the median first, so that whoever reads
    outputs by their places finds values where they are without quantiles; then the others."""
    middle = levels.index(0.5)
    return [middle, *(k for k in range(len(levels)) if k != middle)]


def ascending(outputs: NDArray[Any], levels: Sequence[float]) -> NDArray[Any]:
    """Outputs [..., Q·V] as quantiles [..., V, Q] of each value, the lowest first."""
    by_level = outputs.reshape(*outputs.shape[:-1], len(levels), -1)
    return np.swapaxes(by_level[..., np.argsort(outputs_order(levels)), :], -1, -2)


@dataclass(frozen=True)
class Fan:
    """Quantiles at ascending `levels` in place of each of V values; scale [V].

    Outputs are all values' medians, then all values' lowest quantiles, and so on. The head says
    medians as it says values without a fan; every other score z says how far its quantile lies
    beyond the next one towards the median: scale[v] · softplus(z). That is never below 0, so
    quantiles never cross.
    """

    levels: tuple[float, ...]
    scale: Floats

    @property
    def middle(self) -> int:
        """The place of the median among the levels."""
        return self.levels.index(0.5)


@dataclass(frozen=True)
class Linear:
    """What is linear in the present step and the `lags` before it: w [O, (lags + 1) W].

    It adds w @ s to the head's scores, where s are W values of each step, from the oldest to the
    present one: the normalised numbers, clipped to ±FAR, and of each embedding in order a 1 at its
    label, none where that is unknown. A number that is missing is the last one known, or the mean
    before there is any; and before the first step is the first. The state holds the lags, as s.
    Of a fan it adds to the medians alone: all other rows of w are 0.
    """

    w: Floats
    lags: int

    @property
    def width(self) -> int:
        """W: values that it sees of a step."""
        return int(self.w.shape[1]) // (self.lags + 1)


@dataclass(frozen=True)
class Network:
    """mean, std [F] of all features (unused where embedded); head_w [O, P], head_b [O].

    The first layer sees: the normalised features that are not embedded, in order; for each feature
    in `missing` a 1 where it was NaN, else 0; the embeddings in order. NaN is allowed in those of
    `missing` and in embedded features alone, and is normalised to 0. With `add` [V], value k is
    added to the raw feature add[k] (to its mean where NaN): the head says the change. Scores of
    classes are divided by `temperature` before softmax. Without a `fan`, V is O. With `linear`
    the head says what that leaves over.
    """

    mean: Floats
    std: Floats
    clip: float
    layers: tuple[Layer, ...]
    head_w: Floats
    head_b: Floats
    softmax: bool
    mirror: Mirror | None = None
    embeddings: tuple[Embedding, ...] = ()
    missing: tuple[int, ...] = ()
    add: tuple[int, ...] | None = None
    temperature: float = 1.0
    fan: Fan | None = None
    linear: Linear | None = None

    @property
    def inputs(self) -> int:
        """F: features in one observation."""
        return len(self.mean)

    @property
    def outputs(self) -> int:
        """O: values in one step's output."""
        return len(self.head_b)

    @property
    def values(self) -> int:
        """V: how many of the outputs, the first ones, say a value itself (or are probabilities)."""
        return self.outputs if self.fan is None else len(self.fan.scale)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The features that are normalised: all that are not embedded."""
        embedded = {embedding.feature for embedding in self.embeddings}
        return tuple(k for k in range(self.inputs) if k not in embedded)

    def states(self) -> Iterator[tuple[str, int]]:
        """All state tensors in order, with their widths: h0, c0, h1, c1, ..., and any lags."""
        for k, layer in enumerate(self.layers):
            yield from ((f"{kind}{k}", width) for kind, width in layer.states)
        if self.linear is not None:
            yield LAGS, self.linear.lags * self.linear.width


def random_network(
    inputs: int,
    hidden: int,
    layers: int,
    outputs: int,
    seed: int,
    softmax: bool = True,
    cell: str = "lstm",
) -> Network:
    """Weights drawn as torch draws them, for tests and measurements."""
    rng = np.random.default_rng(seed)
    bound = hidden**-0.5
    rows = GATES[cell] * hidden

    def draw(*shape: int) -> Floats:
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    stack = [
        Layer(
            draw(rows, inputs if depth == 0 else hidden),
            draw(rows, hidden),
            draw(rows),
            cell,
            draw(rows) if cell == "gru" else None,
        )
        for depth in range(layers)
    ]
    mean = rng.normal(size=inputs).astype(np.float32)
    std = rng.uniform(0.5, 2.0, inputs).astype(np.float32)
    return Network(mean, std, 20.0, tuple(stack), draw(outputs, hidden), draw(outputs), softmax)


def with_random_linear(network: Network, lags: int, seed: int, scale: float = 0.3) -> Network:
    """The same beside a linear path, for tests and measurements."""
    width = len(network.numbers) + sum(embedding.labels for embedding in network.embeddings)
    drawn = np.random.default_rng(seed).normal(size=(network.outputs, (lags + 1) * width))
    return replace(network, linear=Linear((scale * drawn).astype(np.float32), lags))


def network_to_bytes(network: Network) -> bytes:
    """The same bytes for the same network."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"structure": np.array(json.dumps(_structure(network)))}
    arrays |= dict(_arrays(network))
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def network_from_bytes(content: bytes) -> Network:
    """The network of `network_to_bytes`.

    Raises:
        TrainingError: it is none.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return _from_arrays(json.loads(str(arrays["structure"])), arrays)
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{FILE} does not hold a network: {error}") from error


def _structure(network: Network) -> dict[str, Any]:
    mirror, linear = network.mirror, network.linear
    told = {} if linear is None else {"linear": {"lags": linear.lags}}
    return {
        "clip": network.clip,
        "softmax": network.softmax,
        "mirror": None if mirror is None else {"by": mirror.by, "flip": list(mirror.flip)},
        "missing": list(network.missing),
        "add": None if network.add is None else list(network.add),
        "temperature": network.temperature,
        "levels": None if network.fan is None else list(network.fan.levels),
        "layers": [{"cell": each.cell, "residual": each.residual} for each in network.layers],
        "embeddings": [embedding.feature for embedding in network.embeddings],
        **told,
    }


def _arrays(network: Network) -> Iterator[tuple[str, Floats]]:
    for name in ("mean", "std", "head_w", "head_b"):
        yield name, getattr(network, name)
    for k, layer in enumerate(network.layers):
        held = ((f"{name}{k}", getattr(layer, name)) for name in ARRAYS)
        yield from ((name, array) for name, array in held if array is not None)
    for k, embedding in enumerate(network.embeddings):
        yield f"table{k}", embedding.table
    if network.fan is not None:
        yield "fan_scale", network.fan.scale
    if network.linear is not None:
        yield "linear_w", network.linear.w


def _from_arrays(structure: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Network:
    mirror, add, linear = structure["mirror"], structure["add"], structure.get("linear")
    levels = structure.get("levels")  # networks were written before there were fans
    return Network(
        mean=arrays["mean"],
        std=arrays["std"],
        clip=float(structure["clip"]),
        layers=tuple(_layer(k, each, arrays) for k, each in enumerate(structure["layers"])),
        head_w=arrays["head_w"],
        head_b=arrays["head_b"],
        softmax=bool(structure["softmax"]),
        mirror=None if mirror is None else Mirror(mirror["by"], tuple(mirror["flip"])),
        embeddings=tuple(
            Embedding(feature, arrays[f"table{k}"])
            for k, feature in enumerate(structure["embeddings"])
        ),
        missing=tuple(structure["missing"]),
        add=None if add is None else tuple(add),
        temperature=float(structure.get("temperature", 1.0)),
        fan=None if levels is None else Fan(tuple(levels), arrays["fan_scale"]),
        linear=None if linear is None else Linear(arrays["linear_w"], linear["lags"]),
    )


def _layer(k: int, told: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Layer:
    held = {name: arrays[f"{name}{k}"] for name in ARRAYS if f"{name}{k}" in arrays}
    return Layer(**held, cell=told["cell"], residual=told["residual"])
