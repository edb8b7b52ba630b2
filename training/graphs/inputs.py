"""From raw features [..., F] to what the first layer sees; the leading axes may be any.

`encode` follows `training.network.Network`, word for word.
"""

from __future__ import annotations

import numpy as np

from training.graphs.builder import FLOAT, INT64, Builder
from training.network import Embedding, Mirror, Network


def encode(b: Builder, network: Network, raw: str) -> str:
    """The normalised numbers, the flags of missing ones, the embeddings.

    A NaN in a feature that may not be missing stays one, for the guard to see.
    """
    parts = [_numbers(b, network, raw)] if network.numbers else []
    if network.missing:
        seen = b.add("Gather", raw, b.integers(*network.missing), axis=-1)
        parts.append(b.add("Cast", b.add("IsNaN", seen), to=FLOAT))
    parts += [_embedded(b, embedding, raw) for embedding in network.embeddings]
    return parts[0] if len(parts) == 1 else b.add("Concat", *parts, axis=-1)


def base(b: Builder, network: Network, raw: str) -> str:
    """What `add` adds to the outputs: raw features, their means where they are missing."""
    assert network.add is not None
    columns = list(network.add)
    now = b.add("Gather", raw, b.integers(*columns), axis=-1)
    mean = b.constant("add_mean", network.mean[columns])
    return b.add("Where", b.add("IsNaN", now), mean, now)


def _numbers(b: Builder, network: Network, raw: str) -> str:
    """(x - mean) / std, clipped: no finite input, however large, can make the cell overflow."""
    numbers = list(network.numbers)
    turned = raw if network.mirror is None else _mirrored(b, network.mirror, raw)
    if len(numbers) < network.inputs:
        turned = b.add("Gather", turned, b.integers(*numbers), axis=-1)
    centred = b.add("Sub", turned, b.constant("mean", network.mean[numbers]))
    scaled = b.add("Div", centred, b.constant("std", network.std[numbers]))
    clipped = b.add("Clip", scaled, b.number(-network.clip), b.number(network.clip))
    if not network.missing:
        return clipped
    may = b.constant("may_miss", np.isin(numbers, network.missing))
    return b.add("Where", b.add("And", b.add("IsNaN", turned), may), b.number(0.0), clipped)


def _mirrored(b: Builder, mirror: Mirror, raw: str) -> str:
    """x * (1 - 2 * x[by] * flip)."""
    twice = b.constant("mirror_flip", 2 * np.array(mirror.flip, np.float32))
    turned = b.add("Mul", b.add("Gather", raw, b.integers(mirror.by), axis=-1), twice)
    return b.add("Mul", raw, b.add("Sub", b.number(1.0), turned))


def _embedded(b: Builder, embedding: Embedding, raw: str) -> str:
    """The row of the table; comparisons with NaN are false, so it takes the last one."""
    index = b.constant(f"feature_{embedding.feature}", np.array(embedding.feature, np.int64))
    label = b.add("Round", b.add("Gather", raw, index, axis=-1))
    unknown = b.number(float(embedding.labels))
    above = b.add("GreaterOrEqual", label, b.number(0.0))
    known = b.add("And", above, b.add("Less", label, unknown))
    row = b.add("Cast", b.add("Where", known, label, unknown), to=INT64)
    return b.add("Gather", b.constant(f"table_{embedding.feature}", embedding.table), row, axis=0)
