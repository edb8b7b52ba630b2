"""Networks of every kind, with weights large enough that a mistake shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from training.network import (
    Embedding,
    Fan,
    Floats,
    Layer,
    Mirror,
    Network,
    random_network,
    with_random_linear,
)

WIDTH, OUTPUTS, HIDDEN = 5, 3, 8
LABELS = 4  # known labels of feature 4, where it is a category
ROUNDING = 1e-2
"""What a state in fewer bits may turn an output by where it lies between two of its values: another
processor, or another batch, adds in another order and rounds it to the other one."""


def _projected(seed: int) -> Network:
    """Two lstm layers whose h is 4 wide; the second adds its input."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Floats:
        return rng.normal(scale=0.4, size=shape).astype(np.float32)

    rows = 4 * HIDDEN
    layers = [Layer(draw(rows, width), draw(rows, 4), draw(rows), project=draw(4, HIDDEN),
                    residual=k > 0) for k, width in enumerate((WIDTH, 4))]  # fmt: skip
    plain = random_network(WIDTH, 4, 1, OUTPUTS, seed)
    return replace(plain, layers=tuple(layers))


def _residual(cell: str, seed: int) -> Network:
    plain = random_network(WIDTH, HIDDEN, 3, OUTPUTS, seed, softmax=False, cell=cell)
    first, *others = plain.layers
    return replace(plain, layers=(first, *(replace(each, residual=True) for each in others)))


def _normed(plain: Network, seed: int) -> Network:
    """Each of its layers normalised."""
    rng = np.random.default_rng(seed)

    def draw(around: float, layer: Layer) -> Floats:
        return (around + 0.3 * rng.normal(size=layer.width)).astype(np.float32)

    normed = (replace(each, gain=draw(1, each), shift=draw(0, each)) for each in plain.layers)
    return replace(plain, layers=tuple(normed))


def _gappy(cell: str, seed: int) -> Network:
    """Feature 4 is a category in 2 numbers, 1 and 3 may be missing, and outputs say changes."""
    plain = random_network(4 + 2 + 1, HIDDEN, 2, OUTPUTS, seed, softmax=False, cell=cell)
    table = np.random.default_rng(seed).normal(size=(LABELS + 1, 2)).astype(np.float32)
    mean, std = (np.append(each[:4], base) for each, base in ((plain.mean, 0), (plain.std, 1)))
    return replace(
        plain,
        mean=mean.astype(np.float32),
        std=std.astype(np.float32),
        embeddings=(Embedding(4, table),),
        missing=(1,),
        add=(1, 0, 3),
    )


def _fanned(plain: Network, levels: tuple[float, ...]) -> Network:
    """Quantiles of each of its values."""
    rng = np.random.default_rng(len(levels))
    values, count = plain.outputs, plain.outputs * len(levels)
    weights = rng.normal(scale=0.5, size=(count, HIDDEN)).astype(np.float32)
    bias = rng.normal(size=count).astype(np.float32)
    scale = rng.uniform(0.2, 3.0, values).astype(np.float32)
    return replace(plain, head_w=weights, head_b=bias, fan=Fan(levels, scale))


def _one_value(seed: int) -> Network:
    return random_network(WIDTH, HIDDEN, 1, 1, seed, softmax=False)


NETWORKS = {
    "lstm": random_network(WIDTH, HIDDEN, 2, OUTPUTS, 1),
    "gru": random_network(WIDTH, HIDDEN, 2, OUTPUTS, 2, cell="gru"),
    "rnn": random_network(WIDTH, HIDDEN, 2, OUTPUTS, 3, cell="rnn"),
    "mirrored": replace(
        random_network(WIDTH, HIDDEN, 1, OUTPUTS, 4), mirror=Mirror(4, (1.0, 0.0, 1.0, 0.0, 0.0))
    ),
    "projected": _projected(5),
    "residual lstm": _residual("lstm", 6),
    "residual gru": _residual("gru", 7),
    "gappy lstm": _gappy("lstm", 8),
    "gappy rnn": _gappy("rnn", 9),
    "normed lstm": _normed(_residual("lstm", 14), 14),
    "calibrated": replace(random_network(WIDTH, HIDDEN, 1, OUTPUTS, 10), temperature=1.7),
    "fan": _fanned(_one_value(11), (0.1, 0.5, 0.9)),
    "fans of gappy": _fanned(_gappy("lstm", 12), (0.05, 0.25, 0.5, 0.75, 0.9, 0.95)),
    "linear lstm": with_random_linear(random_network(WIDTH, HIDDEN, 1, OUTPUTS, 10), 1, 10),
    "linear gappy": with_random_linear(_gappy("gru", 11), 33, 11, scale=0.1),
    "linear fans": with_random_linear(_fanned(_gappy("lstm", 13), (0.1, 0.5, 0.9)), 2, 13),
}


def drawn(network: Network, lengths: list[int], seed: int) -> list[Floats]:
    """Sessions [T, F] as its features may lie: gaps, unknown labels, a mirror's 0 or 1."""
    rng = np.random.default_rng(seed)
    signals = []
    for length in lengths:
        x = (network.mean + network.std * rng.normal(size=(length, WIDTH))).astype(np.float32)
        for k in network.missing:
            x[rng.random(length) < 0.3, k] = np.nan
        for embedding in network.embeddings:
            x[:, embedding.feature] = rng.choice([-1, 0, 1, 2, 3, 4, 9, np.nan], length)
        if network.mirror is not None:
            x[:, network.mirror.by] = rng.integers(0, 2)
        signals.append(x)
    return signals
