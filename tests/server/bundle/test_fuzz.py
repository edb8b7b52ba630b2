"""Spoiled at random, a bundle is served or refused with a sentence: it ends and hangs nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from server.bundle import proto
from server.bundle.soundness import Unsound, check
from tests.harness import ROOT, small_model
from tests.server.bundle.malicious import UNSOUND, plain

SHIPPED = sorted((ROOT / "models" / "exercise" / "1").glob("*.onnx"))
SEEDS = [file.read_bytes() for file in SHIPPED] + [
    make().SerializeToString() for make in (plain, UNSOUND["data in Scan"][0])
]


def test_a_bundle_that_was_spoiled_at_random_is_served_or_refused(tmp_path: Path) -> None:
    """In a process of its own, which must live through all of them."""
    small_model(tmp_path)
    words = [str(tmp_path / "small" / "1"), "11", "60"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.server.bundle.fuzz", *words],
        cwd=ROOT, capture_output=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    told = done.stdout.decode()
    assert "is unsound" in told
    assert "model.json is malformed" in told


def held(message: onnx.ModelProto) -> set[str]:
    """The names of all tensors and operators that protobuf finds, and where tensors' data lie."""
    found = set()

    def look(each: object) -> None:
        for field, value in each.ListFields():  # type: ignore[attr-defined]
            if field.message_type is not None:
                for inner in value if field.is_repeated else [value]:
                    look(inner)
            elif field.name == "op_type":
                found.add(f"op {value}")
            elif field.name == "location" or field.name == "data_location":
                found.add(f"at {value}")

    look(message)
    return found


def read_here(message: object) -> set[str]:
    """The same as our reader finds it."""
    found = set()
    if isinstance(message, dict):
        for name, value in message.items():
            if name == "op_type":
                found.add(f"op {value}")
            elif name == "data_location":
                found.add(f"at {value}")
            found |= read_here(value)
    elif isinstance(message, list):
        for each in message:
            found |= read_here(each)
    return found


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """A model's bytes, with pieces changed, cut, doubled or put in."""
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, min(len(content), 4000) - 1)))
        end = at + draw(st.integers(0, 12))
        piece = draw(st.one_of(st.binary(max_size=12), st.just(bytes(content[at:end]) * 2)))
        content[at:end] = piece
    return bytes(content)


@settings(max_examples=300, deadline=None)
@given(spoiled())
def test_what_is_found_sound_is_what_protobuf_reads_in_it(content: bytes) -> None:
    """So nothing in the bytes is there for onnxruntime alone."""
    try:
        check(content)
    except Unsound as error:
        assert len(str(error)) < 400
        return
    try:
        whole = onnx.ModelProto.FromString(content)
    except DecodeError:
        return
    assert held(whole) == read_here(proto.read(content))
