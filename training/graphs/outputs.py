"""From the head's scores to a step's outputs, as nodes: probabilities, values, or their quantiles.

Always in float32, for outputs have units. Quantiles are sums and not sorted: a sum costs a CUDA
graph less than a sort, and each score learns of its own gap alone, where sorting would hand
gradients from one to another.
"""

from __future__ import annotations

import numpy as np

from training.graphs.builder import Builder
from training.network import Fan, Network


def write_outputs(b: Builder, network: Network, scores: str, raw: str, name: str) -> None:
    """Write `name` [..., O] from scores [..., O] and raw features [..., F]."""
    if network.softmax:
        if network.temperature != 1.0:
            scores = b.add("Div", scores, b.number(network.temperature))
        b.add("Softmax", scores, outputs=[name], axis=-1)
    elif network.fan is not None:
        _fan(b, network, network.fan, scores, raw, name)
    else:
        b.add("Add", _base(b, network, raw), scores, outputs=[name])


def _base(b: Builder, network: Network, raw: str) -> str:
    """What `add` adds to values: raw features, their means where they are missing."""
    assert network.add is not None
    columns = list(network.add)
    now = b.add("Gather", raw, b.integers(*columns), axis=-1)
    mean = b.constant("add_mean", network.mean[columns])
    return b.add("Where", b.add("IsNaN", now), mean, now)


def _fan(b: Builder, network: Network, fan: Fan, scores: str, raw: str, name: str) -> None:
    """Out from the median, whatever it adds to first: adding what is not below 0 never makes a
    float32 smaller, so rounding cannot make quantiles cross either."""
    levels, values = len(fan.levels), len(fan.scale)
    median = b.add("Gather", scores, b.integers(*network.medians), axis=-1)
    if network.add is not None:
        median = b.add("Add", _base(b, network, raw), median)
    places = {fan.middle: median}
    gaps = _gaps(b, fan, scores)
    for level in reversed(range(fan.middle)):
        places[level] = b.add("Sub", places[level + 1], gaps[level])
    for level in range(fan.middle + 1, levels):
        places[level] = b.add("Add", places[level - 1], gaps[level])
    inner = [name] if values == 1 else []
    whole = b.add("Concat", *(places[k] for k in range(levels)), outputs=inner, axis=-1)
    if values > 1:
        by_value = np.arange(levels * values).reshape(levels, values).T.ravel()
        b.add("Gather", whole, b.integers(*by_value.tolist()), outputs=[name], axis=-1)


def _gaps(b: Builder, fan: Fan, scores: str) -> list[str]:
    """How far each level of all values [..., V] lies beyond the next; the median's has no use."""
    levels, values = len(fan.levels), len(fan.scale)
    if values > 1:
        by_level = np.arange(values * levels).reshape(values, levels).T.ravel()
        scores = b.add("Gather", scores, b.integers(*by_level.tolist()), axis=-1)
    scale = b.constant("fan_scale", np.tile(fan.scale, levels))
    gaps = b.add("Mul", b.add("Softplus", scores), scale)
    names = [f"gap_{k}" for k in range(levels)]
    b.add("Split", gaps, b.integers(*[values] * levels), outputs=names, axis=-1)
    return names
