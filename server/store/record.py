"""The bytes of one session at rest: what the keeper writes to a store, and reads after a restart.

A record is, little-endian and without padding:

| bytes | what |
|---|---|
| 4 | `TGSR` |
| 4 | u32, the format's number, 1 |
| 4 | u32, the CRC-32 of these 8 bytes: a damaged number is not taken for a newer format |
| 4 | u32, the CRC-32 of the record's key, `MODEL/VERSION/ID`, and of all bytes that follow |
| 32 | the bundle's digest |
| 8 | i64 epoch |
| 8 | u64 life |
| 8 | i64 steps |
| 8 | f64 opened at, seconds since 1970 |
| 8 | f64 used at, seconds since 1970 |
| 4 | u32 n, the replies that follow |
|   | the states in the manifest's order, each of its shape and dtype; none where steps is 0 |
| 4·n·O | f32 [n, O], the outputs of the latest n steps, oldest first |
| 8·n | u64 [n], the fingerprints of their features |

Since the key is under the checksum, a record that lies under another session's id is told, like a
torn or a damaged one. Records of one model version differ in length only by what they remember, so
many are laid out at once, as rows of one numpy array.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from server.bundle.manifest import Manifest
from server.errors import BadRecord
from tidegate.wire import MAX_STEP

MAGIC: Final = b"TGSR"
FORMAT: Final = 1
PREFACE: Final = np.dtype([("magic", "S4"), ("format", "<u4"), ("check", "<u4"), ("sum", "<u4")])
HEAD: Final = [
    *((name, PREFACE[name]) for name in PREFACE.names or ()),
    ("digest", "V32"),
    ("epoch", "<i8"),
    ("life", "<u8"),
    ("steps", "<i8"),
    ("opened_at", "<f8"),
    ("used_at", "<f8"),
    ("kept", "<u4"),
]
_HEAD: Final = np.dtype(HEAD)
_NUMBERED: Final = MAGIC + FORMAT.to_bytes(4, "little")


@dataclass(frozen=True)
class Record:
    """A session at rest."""

    digest: bytes
    """Which bundle it is of."""
    epoch: int
    life: int
    steps: int
    opened_at: float
    used_at: float
    """Both seconds since 1970."""
    states: Sequence[NDArray[Any]]
    """One a state of the bundle, of its shape and dtype; none where `steps` is 0."""
    outputs: NDArray[np.float32]
    """[n, O]: what the latest n steps were answered, oldest first."""
    prints: NDArray[np.uint64]
    """[n]: the fingerprints of their features."""


@dataclass(frozen=True)
class Columns:
    """Many sessions of one model version, B rows."""

    ids: Sequence[str]
    epochs: NDArray[np.int64]
    lives: NDArray[np.int64] | NDArray[np.uint64]
    steps: NDArray[np.int64]
    opened_at: NDArray[np.float64]
    used_at: NDArray[np.float64]
    states: Sequence[NDArray[Any]]
    """[B, *shape] each; the rows of sessions without a step are not read."""
    outputs: NDArray[np.float32]
    """[B, N, O], of which each row's last `kept` are valid."""
    prints: NDArray[np.uint64]
    """[B, N], likewise."""
    kept: NDArray[np.int64]


class Codec:
    """Writes and reads the records of one model version; `key` is `MODEL/VERSION`."""

    def __init__(self, manifest: Manifest, key: str) -> None:
        self._digest = manifest.digest
        self._shapes = [
            (f"state.{k}", np.dtype(each.dtype).newbyteorder("<"), each.shape)
            for k, each in enumerate(manifest.states)
        ]
        self._width = manifest.outputs_width
        self._key_sum = zlib.crc32(f"{key}/".encode())
        self._layout = lru_cache(maxsize=256)(self._lay_out)

    def pack_many(self, columns: Columns) -> list[bytes]:
        """The records of many sessions, in their order."""
        packed = [b""] * len(columns.ids)
        lengths = np.where(columns.steps > 0, columns.kept + 1, 0)
        for length in np.unique(lengths):
            at = np.flatnonzero(lengths == length)
            for i, record in zip(at.tolist(), self._pack_alike(columns, at), strict=True):
                packed[i] = record
        return packed

    def pack(self, session_id: str, record: Record) -> bytes:
        """The record of one session."""
        return self.pack_many(
            Columns(
                [session_id],
                np.array([record.epoch], dtype=np.int64),
                np.array([record.life], dtype=np.uint64),
                np.array([record.steps], dtype=np.int64),
                np.array([record.opened_at]),
                np.array([record.used_at]),
                [np.asarray(each)[None] for each in record.states],
                record.outputs[None],
                record.prints[None],
                np.array([len(record.prints)], dtype=np.int64),
            )
        )[0]

    def unpack(self, session_id: str, data: bytes) -> Record:
        """Read a record that lay under this id.

        Raises:
            BadRecord: damaged, misplaced, of a newer format or of another bundle; it says which.
        """
        try:
            self._check(session_id, data)
            return self._read(data)
        except ValueError as error:
            raise BadRecord(session_id, str(error)) from None

    def _pack_alike(self, columns: Columns, at: NDArray[np.intp]) -> list[bytes]:
        """The records of rows `at`, which are of one length."""
        started, kept = bool(columns.steps[at[0]] > 0), int(columns.kept[at[0]])
        layout = self._layout(started, kept if started else 0)
        rows = np.empty(len(at), dtype=layout)
        self._fill(rows, columns, at, started)
        ids = [columns.ids[i] for i in at.tolist()]
        rows["sum"] = self._sums(ids, rows.tobytes(), layout.itemsize)
        data, size = rows.tobytes(), layout.itemsize
        return [data[start : start + size] for start in range(0, len(data), size)]

    def _fill(
        self, rows: NDArray[Any], columns: Columns, at: NDArray[np.intp], started: bool
    ) -> None:
        rows["magic"], rows["format"], rows["check"] = MAGIC, FORMAT, zlib.crc32(_NUMBERED)
        rows["digest"] = np.void(self._digest)
        rows["epoch"], rows["life"] = columns.epochs[at], columns.lives[at]
        rows["steps"] = columns.steps[at]
        rows["opened_at"], rows["used_at"] = columns.opened_at[at], columns.used_at[at]
        rows["kept"] = kept = rows["prints"].shape[1]
        if started:
            for (name, _, _), values in zip(self._shapes, columns.states, strict=True):
                rows[name] = values[at]
        first = columns.prints.shape[1] - kept
        rows["outputs"], rows["prints"] = columns.outputs[at, first:], columns.prints[at, first:]

    def _sums(self, ids: Sequence[str], data: bytes, size: int) -> list[int]:
        view, crc32, key_sum = memoryview(data), zlib.crc32, self._key_sum
        starts = range(PREFACE.itemsize, len(data), size)
        body = size - PREFACE.itemsize
        return [
            crc32(view[start : start + body], crc32(session_id.encode(), key_sum))
            for session_id, start in zip(ids, starts, strict=True)
        ]

    def _lay_out(self, started: bool, kept: int) -> np.dtype[Any]:
        replies = [("outputs", "<f4", (kept, self._width)), ("prints", "<u8", (kept,))]
        return np.dtype([*HEAD, *(self._shapes if started else ()), *replies])

    def _check(self, session_id: str, data: bytes) -> None:
        """Is this what was written under this id, byte for byte, in this format?"""
        if len(data) < PREFACE.itemsize or data[:4] != MAGIC:
            raise ValueError("it is no record, or cut short")
        preface = np.frombuffer(data, PREFACE, 1)[0]
        if zlib.crc32(data[:8]) != preface["check"]:
            raise ValueError("it is damaged")
        if preface["format"] != FORMAT:
            raise ValueError(f"it has format {preface['format']}; this server reads {FORMAT}")
        if self._sums([session_id], data, len(data)) != [preface["sum"]]:
            raise ValueError("it is damaged, or another session's")
        if len(data) < _HEAD.itemsize:
            raise ValueError("it is cut short")

    def _read(self, data: bytes) -> Record:
        head = np.frombuffer(data, _HEAD, 1)[0]
        digest, steps, kept = head["digest"].tobytes(), int(head["steps"]), int(head["kept"])
        if digest != self._digest:
            raise ValueError(f"it is of another bundle, {digest.hex()}, not {self._digest.hex()}")
        if not 0 <= steps <= MAX_STEP or kept > steps:
            raise ValueError(f"it remembers {kept} of {steps} steps")
        if len(data) != self._size(steps > 0, kept):
            raise ValueError("its size is not that of the model's states")
        row = np.frombuffer(data, self._layout(steps > 0, kept), 1)[0]
        return self._record(row, digest)

    def _size(self, started: bool, kept: int) -> int:
        """Asked before a layout is made, as a false `kept` could be larger than one may be."""
        return self._layout(started, 0).itemsize + kept * (4 * self._width + 8)

    def _record(self, row: Any, digest: bytes) -> Record:
        names = [name for name, _, _ in self._shapes] if row["steps"] > 0 else []
        states = [_native(row[name]) for name in names]
        outputs, prints = _native(row["outputs"]), _native(row["prints"])
        times = float(row["opened_at"]), float(row["used_at"])
        if not all(np.isfinite(each).all() for each in (*states, outputs, np.array(times))):
            raise ValueError("it has values that are not finite")
        counts = int(row["epoch"]), int(row["life"]), int(row["steps"])
        return Record(digest, *counts, *times, states, outputs, prints)


def _native(values: Any) -> NDArray[Any]:
    """A copy in the machine's byte order, for a record's memory is not to be kept."""
    array = np.array(values)
    if array.dtype == np.bool_ and (array.view(np.uint8) > 1).any():
        raise ValueError("it has truth values other than 0 and 1")
    return array.astype(array.dtype.newbyteorder("="))
