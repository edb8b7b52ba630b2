"""The packed columns: what fits is read as it was written, anything else is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.api import columns
from server.api.lanes import Lanes
from server.bundle.manifest import Manifest
from server.errors import BadInput, StepGap
from server.scheduler.submission import Submission
from tests.server.core.parts import make_bundle, make_model
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.wire import APPLIED, FAILED, REMEMBERED

FIELDS = {"lanes", "first_steps", "lengths", "features", "steps"}


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Lanes:
    """Of lanes 0 to 19 those of even number name a session."""
    folder: Path = tmp_path_factory.mktemp("models")
    lanes = Lanes(make_model(make_bundle(folder), folder))
    named = [pb.LaneOpen(lane=k, session_id=str(k), create=True) for k in range(0, 20, 2)]
    for _ in lanes.open(named):
        pass
    return lanes


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder: Path = tmp_path_factory.mktemp("models")
    return make_bundle(folder).manifest


ROWS = st.lists(
    st.tuples(
        st.integers(0, 25) | st.integers(0, 2**32 - 1), st.integers(0, 2**62), st.integers(1, 64)
    ),
    max_size=20,
)


@settings(deadline=None)
@given(rows=ROWS, numbered=st.booleans(), single=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_columns_are_read_as_they_were_written(
    lanes: Lanes,
    manifest: Manifest,
    rows: list[tuple[int, int, int]],
    numbered: bool,
    single: bool,
    seed: int,
) -> None:
    lengths = [1 if single else length for _, _, length in rows]
    values = np.random.default_rng(seed).normal(size=sum(lengths) * 5).astype("<f4")
    message = pb.StepBatch(
        lanes=np.array([lane for lane, _, _ in rows], "<u4").tobytes(),
        first_steps=np.array([s for _, s, _ in rows], "<u8").tobytes() if numbered else b"",
        lengths=b"" if single else np.array(lengths, "<u4").tobytes(),
        features=values.tobytes(),
    )
    read = columns.read(
        pb.StepBatch.FromString(message.SerializeToString()), lanes, manifest, print
    )
    assert (
        read.handles.tolist()
        == lanes.handles(np.array([lane for lane, _, _ in rows], "u4")).tolist()
    )
    assert read.lengths.tolist() == lengths
    assert read.first_steps.tolist() == [step if numbered else -1 for _, step, _ in rows]
    np.testing.assert_array_equal(read.features.ravel(), values)


@settings(deadline=None, max_examples=500)
@given(
    numbers=st.binary(max_size=40),
    first_steps=st.binary(max_size=80),
    lengths=st.binary(max_size=40),
    features=st.binary(max_size=400),
)
def test_any_bytes_are_read_consistently_or_refused_by_name(
    lanes: Lanes,
    manifest: Manifest,
    numbers: bytes,
    first_steps: bytes,
    lengths: bytes,
    features: bytes,
) -> None:
    message = pb.StepBatch(
        lanes=numbers, first_steps=first_steps, lengths=lengths, features=features
    )
    try:
        read = columns.read(message, lanes, manifest, print)
    except BadInput as error:
        assert error.field in FIELDS
        assert str(error)
    else:
        assert len(read.handles) == len(read.lengths) == len(read.first_steps)
        assert read.features.shape == (read.lengths.sum(), 5)
        assert not len(read.lengths) or 1 <= read.lengths.min() <= read.lengths.max() <= 64


OUTCOMES = st.lists(
    st.tuples(
        st.sampled_from([APPLIED, REMEMBERED, FAILED]), st.integers(0, 2**62), st.integers(1, 9)
    ),
    min_size=1,
    max_size=20,
)


@settings(deadline=None)
@given(rows=OUTCOMES, single=st.booleans(), number=st.integers(0, 2**64 - 1))
def test_a_reply_tells_each_row_s_outcome_where_its_reader_looks_for_it(
    manifest: Manifest, rows: list[tuple[int, int, int]], single: bool, number: int
) -> None:
    lengths = np.array([1 if single else length for _, _, length in rows], np.int32)
    width, steps = manifest.outputs_width, int(lengths.sum())
    values = np.random.default_rng(steps).normal(size=(steps, width)).astype(np.float32)
    submission = Submission(
        handles=np.arange(1, len(rows) + 1),
        first_steps=np.array([first for _, first, _ in rows], np.int64),
        lengths=lengths,
        features=np.zeros((steps, 5), np.float32),
        on_done=lambda _: None,
    )
    for row, (status, first, _) in enumerate(rows):
        if status == FAILED:
            submission.fail(row, StepGap(str(row), first, first // 2))
            submission.first_steps[row] = first // 2  # as the step protocol does
        else:
            submission.answer(row, values[submission.span(row)], status)
    packed = b"".join(columns.reply(number, submission, [], manifest))

    reply = pb.StepBatchReply.FromString(packed)
    assert reply.id == number
    assert list(reply.status) == [status for status, _, _ in rows]
    errors = {}
    for each in reply.errors:
        for row in [each.row, *np.frombuffer(each.also, "<u4").tolist()]:
            assert row not in errors
            errors[row] = each.error
    told = np.frombuffer(reply.first_steps, "<u8").tolist()
    read, at = np.frombuffer(reply.outputs, "<f4").reshape(-1, width), 0
    for row, (status, first, _) in enumerate(rows):
        assert told[row] == (first // 2 if status == FAILED else first)
        assert (row in errors) == (status == FAILED)
        if status == FAILED:
            assert errors[row].expected_step == first // 2
        else:
            np.testing.assert_array_equal(
                read[at : at + lengths[row]], values[submission.span(row)]
            )
            at += lengths[row]
    assert at == len(read)
