"""Rows of several callers in one run that are all ahead, as after a crash: each is told its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from server.api import columns
from server.bundle.repository import Bundle
from server.scheduler.submission import Submission
from server.serving.model import ServedModel
from server.sessions.step_protocol import NAMED
from tests.server.core.parts import Caller, make_model
from tidegate._stream.answers import row_errors
from tidegate.v1 import tidegate_pb2 as pb

EACH = 2 * NAMED
MESSAGES = 5  # together more rows than errors that one submission tells in full


@pytest.fixture
def model(bundle: Bundle, folder: Path) -> Iterator[ServedModel]:
    """Of session k of message m: m + k % 7 steps were applied."""
    served = make_model(bundle, folder, max_sessions=MESSAGES * EACH)
    served.start()
    caller = Caller(served)
    for message in range(MESSAGES):
        for k in range(EACH):
            served.open(f"{message}-{k}")
            if count := message + k % 7:
                x = np.zeros((count, 5), np.float32)
                caller.step([(f"{message}-{k}", 0, x)])
    yield served
    served.stop()


def ahead(model: ServedModel, names: list[str]) -> tuple[Submission, threading.Event]:
    """A message of a step of each, numbered 100; the event tells when it is done."""
    handles = np.array([model.directory.find(name)[0] for name in names], dtype=np.int64)
    count, done = len(names), threading.Event()
    submission = Submission(
        handles, np.full(count, 100), np.ones(count, np.int32), np.zeros((count, 5), np.float32),
        lambda _: done.set(),
    )  # fmt: skip
    return submission, done


def run(model: ServedModel, messages: Sequence[tuple[Submission, threading.Event]]) -> None:
    """Have them all wait for the next run."""

    def submit(_: object) -> None:
        for submission, _done in messages:
            model.submit(submission)

    model._scheduler.between_runs(submit).result(20)
    for _, done in messages:
        assert done.wait(20)


def test_rows_of_several_messages_are_told_their_own_numbers(model: ServedModel) -> None:
    messages = [ahead(model, [f"{m}-{k}" for k in range(EACH)]) for m in range(MESSAGES)]
    run(model, messages)
    for m, (each, _) in enumerate(messages):
        reply = pb.StepBatchReply.FromString(b"".join(columns.outcome(1, each, (), model)))
        told = [error.expected_step for _, error in sorted(row_errors(reply).items())]  # type: ignore[attr-defined]
        assert told == [m + k % 7 for k in range(EACH)]
        assert reply.errors[0].error.message.startswith(f"session '{m}-0'")


def test_rows_of_several_callers_are_told_of_no_session_but_theirs(model: ServedModel) -> None:
    names = [f"{m}-{k}" for m in range(MESSAGES) for k in range(EACH)]
    gathered, done = ahead(model, names)
    gathered.deadlines = np.full(len(names), np.inf)
    run(model, [(gathered, done)])
    for row, name in enumerate(names):
        reply = pb.StepBatchReply.FromString(columns.reply_single(1, gathered, row, model))
        m, k = map(int, name.split("-"))
        (error,) = reply.errors
        assert error.error.expected_step == m + k % 7 == int.from_bytes(reply.first_steps, "little")
        assert error.error.message.startswith(f"session '{name}'")
