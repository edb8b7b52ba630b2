"""Spoils a bundle at random, many times, in a process of its own: FOLDER SEED COUNT.

Each is loaded as the server does, with its digests made right, so that nothing but what is in the
files can be why it is refused. It ends with a traceback at all but a model or a sentence.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import server.engine.probe
from server.bundle.repository import Entry
from server.config import Config
from server.engine.device import Device
from server.errors import BadModel
from server.metrics import Metrics
from server.serving.loader import Loader
from server.serving.model import ServedModel
from server.serving.registry import Registry
from tests.server.bundle.malicious import rewrite

GRAPHS = ("single.onnx", "step.onnx", "read.onnx", "write.onnx")
NUMBERS = (0, 1, 7, 127, 128, 255, 2**31, 2**32, 2**40, 2**63 - 1, 2**64 - 1)
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**40, 10**400, 1e300, float("nan"), float("inf"), "", "x", "\0", "é\ud800",
    "../x", [], {}, [[]], [0], {"a": 1}, "9" * 30,
)  # fmt: skip


def spoil_bytes(content: bytes, rng: random.Random) -> bytes:
    """One to three changes of bytes: other ones, fewer, more, twice, or another number."""
    found = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randrange(len(found) + 1), rng.randint(1, 40)
        kind = rng.randrange(6)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del found[at : at + length]
        elif kind == 2:
            found[at:at] = rng.randbytes(length)
        elif kind == 3:
            found[at:at] = found[at : at + length]
        elif kind == 4:
            found[at : at + 1] = varint(rng.choice(NUMBERS))
        elif len(found) > 1:
            found[at:] = b""
        if not found:
            break
    return bytes(found)


def varint(number: int) -> bytes:
    """As protobuf writes it."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def spoil_value(value: Any, rng: random.Random) -> Any:
    """One value somewhere in a manifest is odd, twice or gone."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: spoil_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            return [*value, value[at]]
        return [*value[:at], spoil_value(value[at], rng), *value[at + 1 :]]
    return rng.choice(ODD)


def spoil(folder: Path, rng: random.Random) -> None:
    """Change one file of a bundle."""
    file = folder / "model.json"
    kind = rng.random()
    if kind < 0.3:
        text = json.dumps(spoil_value(json.loads(file.read_text()), rng))
        file.write_text(text)
    elif kind < 0.35:
        file.write_bytes(spoil_bytes(file.read_bytes(), rng))
    else:
        name = rng.choice(GRAPHS)
        rewrite(folder, name, spoil_bytes((folder / name).read_bytes(), rng))


def main(folder: Path, seed: int, count: int) -> None:
    """Print how many were refused for what."""
    server.engine.probe.ROUNDS = 2
    server.engine.probe.RUN_SECONDS = 5.0
    rng, told = random.Random(seed), Counter[str]()
    config = Config(model_repository=folder.parent.parent, store="none", max_sessions=20)
    good = {file.name: file.read_bytes() for file in folder.iterdir()}
    for _ in range(count):
        metrics = Metrics()
        loader = Loader(config, Device("cpu"), metrics, Registry(metrics), lambda: None)
        spoil(folder, rng)
        try:
            ServedModel(*loader.open(Entry("small", 1, folder), config), metrics)
            told["served"] += 1
        except BadModel as error:
            assert str(error).startswith("small/1"), error
            assert len(str(error)) < 700, error
            assert "\n" not in str(error), error
            told[str(error)[:60]] += 1
        for name, content in good.items():
            (folder / name).write_bytes(content)
    for reason, times in told.most_common():
        print(times, reason)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
