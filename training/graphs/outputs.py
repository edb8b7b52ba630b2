"""From the head's scores to a step's outputs, as nodes: probabilities, values, or their quantiles.

Always in float32, for outputs have units. Quantiles are sums and not sorted: a sum costs a CUDA
graph less than a sort, and each score learns of its own gap alone, where sorting would hand
gradients from one to another.
"""

from __future__ import annotations

import numpy as np

from training.graphs.builder import Builder
from training.network import Fan, Network, outputs_order


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
    median, gaps = _gaps(b, fan, scores)
    if network.add is not None:
        median = b.add("Add", _base(b, network, raw), median)
    places = {fan.middle: median}
    for level in reversed(range(fan.middle)):
        places[level] = b.add("Sub", places[level + 1], gaps[level])
    for level in range(fan.middle + 1, len(fan.levels)):
        places[level] = b.add("Add", places[level - 1], gaps[level])
    ordered = (places[level] for level in outputs_order(fan.levels))
    b.add("Concat", *ordered, outputs=[name], axis=-1)


def _gaps(b: Builder, fan: Fan, scores: str) -> tuple[str, dict[int, str]]:
    """The scores of medians [..., V], and by level how far each quantile lies beyond the next."""
    _, *others = outputs_order(fan.levels)
    values, more = len(fan.scale), len(others)
    parts = ["fan_median", "fan_scores"]
    b.add("Split", scores, b.integers(values, values * more), outputs=parts, axis=-1)
    scale = b.constant("fan_scale", np.tile(fan.scale, more))
    gaps = b.add("Mul", b.add("Softplus", parts[1]), scale)
    if more == 1:
        return parts[0], {others[0]: gaps}
    names = {level: f"fan_gap_{level}" for level in others}
    b.add("Split", gaps, b.integers(*[values] * more), outputs=list(names.values()), axis=-1)
    return parts[0], names
