"""Records: what goes in comes out; anything else is told."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from server.bundle.manifest import Manifest, Output, State
from server.errors import BadRecord
from server.store.record import Codec, Columns, Record

STATES = (
    State("hidden", (3, 2), "float32", 0.0),
    State("half", (5,), "float16", 0.0),
    State("seen", (), "bool", 0.0),
    State("place", (1,), "int64", 0.0),
)
MANIFEST = Manifest(
    "small",
    1,
    "",
    (),
    (Output("y", 3, "value", "", ()), Output("z", 1, "value", "", ())),
    STATES,
    1,
    1,
    {"step.onnx": "a", "read.onnx": "b", "write.onnx": "c"},
)
CODEC = Codec(MANIFEST, "small/1")
TIMES = st.floats(0, 1e11)


def values(dtype: str, shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    floats = {"allow_nan": False, "allow_infinity": False} if "float" in dtype else None
    # Most elements are alike, so that an example is not too large to be drawn.
    fill = st.just(np.zeros((), dtype)[()])
    return arrays.arrays(dtype, shape, elements=floats, fill=fill)


@st.composite
def records(draw: st.DrawFn, most: int = 4) -> Record:
    steps = draw(st.integers(0, 3) | st.integers(0, 2**62))
    kept = draw(st.integers(0, min(steps, most)))
    states = [draw(values(each.dtype, each.shape)) for each in STATES] if steps else []
    return Record(
        MANIFEST.digest,
        draw(st.integers(0, 2**63 - 1)),
        draw(st.integers(0, 2**64 - 1)),
        steps,
        draw(TIMES),
        draw(TIMES),
        states,
        draw(values("float32", (kept, MANIFEST.outputs_width))),
        draw(values("uint64", (kept,))),
    )


def a_record(steps: int = 7, kept: int = 2) -> Record:
    states = [np.ones(each.shape, dtype=each.dtype) for each in STATES] if steps else []
    outputs = np.arange(kept * 4, dtype=np.float32).reshape(kept, 4)
    prints = np.arange(kept, dtype=np.uint64) + 1
    return Record(MANIFEST.digest, 3, 2**64 - 1, steps, 1.5, 2.5, states, outputs, prints)


def assert_same(got: Record, put: Record) -> None:
    plain = ("digest", "epoch", "life", "steps", "opened_at", "used_at")
    assert [getattr(got, name) for name in plain] == [getattr(put, name) for name in plain]
    pairs: list[tuple[Any, Any]] = [(got.outputs, put.outputs), (got.prints, put.prints)]
    pairs += list(zip(got.states, put.states, strict=True))
    for ours, theirs in pairs:
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.tobytes() == theirs.tobytes()


def why(data: bytes, codec: Codec = CODEC, session_id: str = "a") -> str:
    with pytest.raises(BadRecord) as caught:
        codec.unpack(session_id, data)
    return str(caught.value)


@settings(deadline=None, max_examples=60)
@given(records(), st.text(min_size=1, max_size=20))
def test_a_record_comes_back_as_it_was(record: Record, session_id: str) -> None:
    assert_same(CODEC.unpack(session_id, CODEC.pack(session_id, record)), record)


@settings(deadline=None, max_examples=30)
@given(st.lists(records(most=1), max_size=2))
def test_sessions_packed_together_are_as_if_packed_alone(those: list[Record]) -> None:
    ids = [f"s{k}" for k in range(len(those))]
    packed = CODEC.pack_many(columns(ids, those))
    assert packed == [CODEC.pack(*each) for each in zip(ids, those, strict=True)]


def columns(ids: list[str], those: list[Record], depth: int = 5) -> Columns:
    """Sessions as the keeper has them: the replies right-aligned in rings, rubbish before them."""
    outputs = np.full((len(those), depth, MANIFEST.outputs_width), np.nan, dtype=np.float32)
    prints = np.full((len(those), depth), 99, dtype=np.uint64)
    states = [np.ones((len(those), *each.shape), dtype=each.dtype) for each in STATES]
    for i, record in enumerate(those):
        first = depth - len(record.prints)
        outputs[i, first:], prints[i, first:] = record.outputs, record.prints
        for column, state in zip(states, record.states, strict=False):
            column[i] = state
    return Columns(
        ids,
        np.array([each.epoch for each in those], dtype=np.int64),
        np.array([each.life for each in those], dtype=np.uint64),
        np.array([each.steps for each in those], dtype=np.int64),
        np.array([each.opened_at for each in those]),
        np.array([each.used_at for each in those]),
        states,
        outputs,
        prints,
        np.array([len(each.prints) for each in those], dtype=np.int64),
    )


@pytest.mark.parametrize("steps", [0, 7])
def test_any_flipped_byte_is_told(steps: int) -> None:
    data = CODEC.pack("a", a_record(steps, kept=2 if steps else 0))
    for at in range(len(data)):
        for bit in (0x01, 0x80):
            spoiled = bytearray(data)
            spoiled[at] ^= bit
            assert "newer" not in why(bytes(spoiled)) and "format" not in why(bytes(spoiled))


def test_a_record_cut_short_anywhere_or_drawn_out_is_told() -> None:
    data = CODEC.pack("a", a_record())
    for length in range(len(data)):
        why(data[:length])
    why(data + b"\0")


def test_a_record_of_a_newer_format_is_told_as_such() -> None:
    newer = bytearray(CODEC.pack("a", a_record()))
    newer[4:8] = (2).to_bytes(4, "little")
    newer[8:12] = zlib_sum(bytes(newer[:8]))
    assert "it has format 2; this server reads 1" in why(bytes(newer[:16]) + b"whatever it holds")


def zlib_sum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def test_a_record_of_another_bundle_is_told_as_such() -> None:
    other = Codec(replace(MANIFEST, files={**MANIFEST.files, "step.onnx": "x"}), "small/1")
    assert "it is of another bundle" in why(CODEC.pack("a", a_record()), other)


def test_a_record_under_another_id_or_version_is_told() -> None:
    data = CODEC.pack("a", a_record())
    assert "another session's" in why(data, session_id="b")
    assert "another session's" in why(data, Codec(MANIFEST, "small/2"))


@pytest.mark.parametrize("spoiled", ["state", "outputs", "used_at"])
def test_values_that_are_not_finite_are_told(spoiled: str) -> None:
    record = a_record()
    if spoiled == "state":
        record.states[0][1, 1] = np.inf
    elif spoiled == "outputs":
        record.outputs[0, 2] = np.nan
    else:
        record = replace(record, used_at=float("nan"))
    assert "not finite" in why(CODEC.pack("a", record))


def test_a_record_that_remembers_more_steps_than_it_has_is_told() -> None:
    assert "it remembers 2 of 1 steps" in why(CODEC.pack("a", a_record(steps=1, kept=2)))


def test_a_record_of_other_states_is_told() -> None:
    wider = replace(MANIFEST, states=(*STATES[:3], State("place", (2,), "int64", 0.0)))
    assert "its size" in why(CODEC.pack("a", a_record()), Codec(wider, "small/1"))
