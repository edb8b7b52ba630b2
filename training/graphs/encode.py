"""From raw features to what the first layer sees, and what the linear path sees, as `Network` says
it, word for word.
"""

from __future__ import annotations

import numpy as np

from training.graphs.builder import FLOAT, INT64, Builder
from training.network import FAR, Embedding, Mirror, Network


def encode(b: Builder, network: Network, raw: str) -> str:
    """From raw features [..., F] to what the first layer sees: the normalised numbers, the flags of
    missing ones, the embeddings.

    A NaN in a feature that may not be missing stays one, for the guard to see.
    """
    parts = [_numbers(b, network, raw)] if network.numbers else []
    if network.missing:
        seen = b.add("Gather", raw, b.integers(*network.missing), axis=-1)
        parts.append(b.add("Cast", b.add("IsNaN", seen), to=FLOAT))
    for embedding in network.embeddings:
        table = b.constant(f"table_{embedding.feature}", embedding.table)
        parts.append(b.add("Gather", table, _label(b, embedding, raw), axis=0))
    return _joined(b, parts)


def see(b: Builder, network: Network, raw: str) -> tuple[str, str]:
    """From raw features [..., F] to what the linear path sees of a step [..., W], 0 where missing;
    and where that is, bool [..., W], or "" where nothing may be missing.

    What else is NaN stays so.
    """
    parts, unseen = list[str](), ""
    if network.numbers:
        turned, scaled = _scaled(b, network, raw)
        numbers = b.add("Clip", scaled, b.number(-FAR), b.number(FAR))
        if network.missing:
            unseen = _unseen(b, network, turned)
            numbers = b.add("Where", unseen, b.number(0.0), numbers)
        parts.append(numbers)
    for embedding in network.embeddings:
        ones = np.eye(embedding.labels + 1, embedding.labels, dtype=np.float32)
        table = b.constant(f"ones_{embedding.feature}", ones)
        parts.append(b.add("Gather", table, _label(b, embedding, raw), axis=0))
    return _joined(b, parts), _wide(b, network, unseen) if unseen else ""


def _joined(b: Builder, parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else b.add("Concat", *parts, axis=-1)


def _numbers(b: Builder, network: Network, raw: str) -> str:
    """(x - mean) / std, clipped: no finite input, however large, can make the cell overflow."""
    turned, scaled = _scaled(b, network, raw)
    clipped = b.add("Clip", scaled, b.number(-network.clip), b.number(network.clip))
    if not network.missing:
        return clipped
    return b.add("Where", _unseen(b, network, turned), b.number(0.0), clipped)


def _scaled(b: Builder, network: Network, raw: str) -> tuple[str, str]:
    """The numbers after the mirror, and normalised."""
    numbers = list(network.numbers)
    turned = raw if network.mirror is None else _mirrored(b, network.mirror, raw)
    if len(numbers) < network.inputs:
        turned = b.add("Gather", turned, b.integers(*numbers), axis=-1)
    centred = b.add("Sub", turned, b.constant("mean", network.mean[numbers]))
    return turned, b.add("Div", centred, b.constant("std", network.std[numbers]))


def _unseen(b: Builder, network: Network, turned: str) -> str:
    """Where a number is missing that may be."""
    may = b.constant("may_miss", np.isin(network.numbers, network.missing))
    return b.add("And", b.add("IsNaN", turned), may)


def _wide(b: Builder, network: Network, unseen: str) -> str:
    """The same beside the ones of categories, none of which is ever missing."""
    count = sum(embedding.labels for embedding in network.embeddings)
    if not count:
        return unseen
    choice = b.integers(*range(len(network.numbers)), *[len(network.numbers)] * count)
    never = b.constant("never", np.zeros(1, np.bool_))
    one = b.add("And", b.add("Gather", unseen, b.integers(0), axis=-1), never)
    return b.add("Gather", b.add("Concat", unseen, one, axis=-1), choice, axis=-1)


def _mirrored(b: Builder, mirror: Mirror, raw: str) -> str:
    """x * (1 - 2 * x[by] * flip)."""
    twice = b.constant("mirror_flip", 2 * np.array(mirror.flip, np.float32))
    turned = b.add("Mul", b.add("Gather", raw, b.integers(mirror.by), axis=-1), twice)
    return b.add("Mul", raw, b.add("Sub", b.number(1.0), turned))


def _label(b: Builder, embedding: Embedding, raw: str) -> str:
    """The row of its table; comparisons with NaN are false, so it takes the last one."""
    index = b.constant(f"feature_{embedding.feature}", np.array(embedding.feature, np.int64))
    label = b.add("Round", b.add("Gather", raw, index, axis=-1))
    unknown = b.number(float(embedding.labels))
    above = b.add("GreaterOrEqual", label, b.number(0.0))
    known = b.add("And", above, b.add("Less", label, unknown))
    return b.add("Cast", b.add("Where", known, label, unknown), to=INT64)
