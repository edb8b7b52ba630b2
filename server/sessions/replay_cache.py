"""The replay cache: for each slot a ring of the last outputs, with a fingerprint of their inputs.

A retried step is answered from here and moves nothing. The fingerprint tells a retry (the same
features) from another observation sent under a number already used. Only whoever holds the engine
touches it, so it needs no lock.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.errors import StepConflict, StepMismatch, StepTooOld

Floats = NDArray[np.float32]
Prints = NDArray[np.uint64]

BLOCK = 8  # bits of a slot that tell its place in its block, at most
UNKNOWN = 0  # in place of the fingerprint of a step that a snapshot did not bring


class ReplayCache:
    """Outputs of the last `depth` steps of every slot. Features `may_miss` where NaN is a value."""

    def __init__(
        self, capacity: int, depth: int, inputs: int, outputs: int, may_miss: bool = False
    ) -> None:
        self.depth, self._may_miss = depth, may_miss
        # Of each block of slots by place in the ring: what sessions that go in step are given lies
        # side by side, and slots that nobody has had yet take no memory.
        bits = self._bits = _bits(capacity)
        self._within = (1 << bits) - 1
        laid = rows(capacity) >> bits, depth, 1 << bits
        self._outputs = np.zeros((*laid, outputs), dtype=np.float32)
        self._prints = np.zeros(laid, dtype=np.uint64)
        self._lay_flat()
        self.latest = np.zeros(capacity + 1, dtype=np.int32)
        """How many of each slot's latest steps came in one row."""
        self._weights = _multipliers(inputs)
        self._offset = self._weights.sum()

    def keep(
        self,
        slots: NDArray[np.int64],
        counts: NDArray[np.int64],
        lengths: NDArray[np.int32],
        features: Floats,
        outputs: Floats,
    ) -> None:
        """Keep steps counts..counts+lengths of each slot: features [B, T, I], outputs [B, T, O]."""
        prints = self._fingerprints(features)
        self.latest[slots] = lengths
        if features.shape[1] == 1:
            self._keep_single(slots, counts, prints, outputs)
            return
        for t in range(features.shape[1]):
            some = slice(None) if t == 0 else np.flatnonzero(lengths > t)
            at = (counts[some] + t) % self.depth
            where = self._where(slots[some], at)
            self._outputs[where], self._prints[where] = outputs[some, t], prints[some, t]

    def _keep_single(
        self,
        slots: NDArray[np.int64],
        counts: NDArray[np.int64],
        prints: Prints,
        outputs: Floats,
    ) -> None:
        """One step of each: a step's outputs are moved as one item, which takes half as long."""
        at = slots >> self._bits  # its block, and by and by its place in all of them
        at *= self.depth - 1
        at += counts % self.depth
        at <<= self._bits
        at += slots
        self._flat_prints[at] = prints[:, 0]
        self._flat_outputs[at] = outputs[:, 0].view(self._flat_outputs.dtype)[:, 0]

    def keep_one(self, slot: int, count: int, features: Floats, outputs: Floats) -> None:
        """As `keep`, of one step of one slot: features [1, 1, I], outputs [1, 1, O]."""
        where = self._where(slot, count % self.depth)
        self.latest[slot] = 1
        self._prints[where] = self._fingerprints(features)[0, 0]
        self._outputs[where] = outputs[0, 0]

    def recall(self, slot: int, first: int, features: Floats) -> Floats | type[StepMismatch]:
        """Outputs of the steps from `first` on, all of them applied and at most `depth` ago; or why
        not: their features [T, I] were others, or nothing is known of them."""
        where = self._where(slot, (first + np.arange(len(features))) % self.depth)
        prints = self._prints[where]
        if (prints == UNKNOWN).any():
            return StepTooOld
        if (prints != self._fingerprints(features)).any():
            return StepConflict
        outputs: Floats = self._outputs[where]
        return outputs

    def tail(self, slot: int, count: int) -> tuple[Floats, Prints]:
        """What is remembered of a session at step `count`, oldest first: outputs [n, O], and the
        fingerprints of their features [n]; n is `depth` or less."""
        where = self._where(slot, np.arange(max(0, count - self.depth), count) % self.depth)
        outputs, prints = self._outputs[where], self._prints[where]
        unknown = np.flatnonzero(prints == UNKNOWN)
        known = int(unknown[-1]) + 1 if len(unknown) else 0
        return outputs[known:], prints[known:]

    def restore(self, slot: int, count: int, outputs: Floats, prints: Prints) -> None:
        """Put back a `tail` of a session at step `count`; of a longer one, the latest `depth`.
        Steps of which nothing was brought are too old to be answered."""
        self.latest[slot] = known = min(len(prints), self.depth)
        # What lies there is a former holder's, and must not be taken for this session's.
        ring = self._where(slot, slice(None))
        self._prints[ring], self._outputs[ring] = UNKNOWN, 0.0
        where = self._where(slot, np.arange(count - known, count) % self.depth)
        self._outputs[where] = outputs[len(outputs) - known :]
        self._prints[where] = prints[len(prints) - known :]

    def newest(
        self, slots: NDArray[np.int64], counts: NDArray[np.int64], least: int
    ) -> tuple[Floats, Prints, NDArray[np.int64]]:
        """What is remembered of each session's latest row, or latest `least` steps: outputs
        [B, n, O], fingerprints [B, n], and how many of the n, counted from the last, are valid."""
        kept, at = span(self.latest[slots], counts, least, self.depth)
        where = self._where(slots[:, None], at)
        prints = self._prints[where]
        return self._outputs[where], prints, known(prints, kept)

    def rings(self, slots: NDArray[np.int64]) -> tuple[Floats, Prints]:
        """Copies of whole rings: outputs [B, depth, O] and fingerprints [B, depth]."""
        where = self._where(slots, slice(None))
        return self._outputs[where], self._prints[where]

    def put_rings(self, slots: NDArray[np.int64], outputs: Floats, prints: Prints) -> None:
        """Put rings back as `rings` gave them."""
        where = self._where(slots, slice(None))
        self._outputs[where], self._prints[where] = outputs, prints

    def release(self) -> None:
        """Give the memory back; nothing is kept any more."""
        self._outputs, self._prints = self._outputs[:0].copy(), self._prints[:0].copy()
        self._lay_flat()

    def _lay_flat(self) -> None:
        """The same memory by one index, a step's outputs being one item."""
        item = f"V{4 * self._outputs.shape[-1]}"
        self._flat_outputs = self._outputs.view(item).reshape(-1)
        self._flat_prints = self._prints.reshape(-1)

    def _where(self, slots: int | NDArray[np.int64], at: Any) -> tuple[Any, Any, Any]:
        """The index of places `at` in the rings of a slot, or of slots."""
        return slots >> self._bits, at, slots & self._within

    def _fingerprints(self, features: Floats) -> Prints:
        if self._may_miss:  # NaN has many bit patterns and one meaning: not observed
            features = np.where(np.isnan(features), np.float32(np.nan), features)
        bits = np.ascontiguousarray(features).view(np.uint32)
        prints: Prints = np.vecdot(bits, self._weights)
        prints += self._offset  # of (bits + 1), modulo 2**64
        return prints


def rows(capacity: int) -> int:
    """Of how many slots a cache has room for the rings: whole blocks, at most a quarter more than
    there are."""
    bits = _bits(capacity)
    return ((capacity >> bits) + 1) << bits


def _bits(capacity: int) -> int:
    return min(BLOCK, max(0, capacity.bit_length() - 3))


def span(
    latest: NDArray[np.int32], counts: NDArray[np.int64], least: int, depth: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where in their rings the latest rows of sessions at step `counts`, or their latest `least`
    steps, lie: how many steps of each [B], and places [B, n], of which the last so many count."""
    kept = np.minimum(np.maximum(latest, least), np.minimum(counts, depth))
    most = int(kept.max(initial=0))
    return kept, (counts[:, None] - most + np.arange(most)) % depth


def known(prints: Prints, kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of the last `kept` steps there is something known of, without a gap."""
    found: NDArray[np.int64] = np.cumprod(prints[:, ::-1] != UNKNOWN, axis=1).sum(axis=1)
    return np.minimum(kept, found)


def _multipliers(inputs: int) -> Prints:
    """Odd, so that each feature's contribution is reversible modulo 2**64; the same for ever, since
    snapshots carry fingerprints from one server to another."""
    drawn = hashlib.shake_128(b"tidegate fingerprint 1").digest(8 * inputs)
    odd: Prints = np.frombuffer(drawn, dtype="<u8").astype(np.uint64) | np.uint64(1)
    return odd
