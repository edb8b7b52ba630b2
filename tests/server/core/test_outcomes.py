"""Rows that were gathered are each told their own outcome, in both forms of reply."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from server.api import columns, step
from server.bundle.repository import Bundle
from server.errors import StepGap
from server.scheduler.submission import Submission
from tests.server.core.test_keeping import XS, keeping, name, serving, wait_durable
from tests.server.core.test_keeping import step as take
from tidegate.v1 import packed_pb2
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.wire import APPLIED, FAILED, REMEMBERED


def test_each_row_of_a_run_is_told_its_own_status_number_outputs_and_what_is_stored(
    bundle: Bundle, tmp_path: Path
) -> None:
    """Of k stored steps of session k the next is applied; one is sent again, and one is ahead."""
    with keeping(tmp_path) as (_, kept), serving(bundle, tmp_path, kept) as (model, caller):
        sessions = [f"s{k}" for k in range(5)]
        name(model, *sessions)
        for k, session in enumerate(sessions[1:], start=1):
            take(caller, session, 0, XS[:k])
            wait_durable(model, session, k)
        first_steps = [0, 1, 1, 3, 9]  # the third again, the last ahead
        done = threading.Event()
        submission = Submission(
            np.array([model.directory.find(session)[0] for session in sessions]),
            np.array(first_steps),
            np.ones(5, np.int32),
            XS[first_steps],
            lambda _: done.set(),
        )
        model.submit(submission)
        assert done.wait(20)
        for row, first in enumerate(first_steps):
            told = pb.StepBatchReply.FromString(columns.reply_single(7, submission, row, model))
            assert told.id == 7
            if row == 4:
                assert told.status == bytes([FAILED]) and not told.outputs
                assert told.errors[0].error.expected_step == 4
                with pytest.raises(StepGap):
                    step.reply_packed(submission, row, model)
                continue
            reply = packed_pb2.PackedStepReply.FromString(step.reply_packed(submission, row, model))
            again = row == 2
            assert told.status == bytes([REMEMBERED if again else APPLIED])
            assert reply.remembered is again
            assert reply.first_step == int.from_bytes(told.first_steps, "little") == first
            assert reply.outputs == told.outputs == submission.room(3)[row].tobytes()
            assert reply.durable_step == int.from_bytes(told.durable_steps, "little")
            assert row <= reply.durable_step <= row + 1
