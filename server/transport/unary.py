"""The unary `Step`: one request, one row."""

from __future__ import annotations

import asyncio
import math
import time

import numpy as np

from server.batcher.submission import REMEMBERED, UNNUMBERED, Submission
from server.errors import BadInput
from server.sessions import inputs
from server.sessions.models import Models
from server.sessions.served_model import ServedModel
from server.transport.mailbox import Deliver, Mailbox
from tidegate.v1 import tidegate_pb2 as pb

MAX_STEP = 2**62


async def step(
    models: Models, mailbox: Mailbox, request: pb.StepRequest, remaining: float | None
) -> pb.StepReply:
    """Step one session; `remaining` seconds until the caller's deadline, if it has one.

    Raises:
        ServingError: as the session, the input or the run has it.
    """
    model = models.holder(request.model, request.version, request.session_id)
    done: asyncio.Future[Submission] = asyncio.get_running_loop().create_future()
    submission = _decode(model, request, remaining, mailbox.address(_resolve(done)))
    model.submit(submission)
    try:
        await done
    except asyncio.CancelledError:
        submission.cancelled = True
        raise
    if submission.errors:
        raise submission.errors[0]
    return _encode(submission, model)


def _decode(
    model: ServedModel, request: pb.StepRequest, remaining: float | None, on_done: Deliver
) -> Submission:
    slot, generation = model.locate(request.session_id)
    steps = request.steps or 1
    inputs.check_length(steps, model.manifest)
    values = np.fromiter(request.features, dtype=np.float32, count=len(request.features))
    features = inputs.shape(values, steps, model.manifest)
    if problem := inputs.problem(features, model.manifest):
        raise problem
    first = request.first_step if request.HasField("first_step") else UNNUMBERED
    if first > MAX_STEP:
        raise BadInput(f"first_step {first} is out of range", field="first_step")
    return Submission(
        slots=np.array([slot], dtype=np.int64),
        generations=np.array([generation], dtype=np.int64),
        first_steps=np.array([first], dtype=np.int64),
        lengths=np.array([steps], dtype=np.int32),
        features=features,
        session_id=lambda _: request.session_id,
        on_done=on_done,
        deadline=math.inf if remaining is None else time.monotonic() + remaining,
    )


def _resolve(done: asyncio.Future[Submission]) -> Deliver:
    def resolve(submission: Submission) -> None:
        if not done.done():
            done.set_result(submission)

    return resolve


def _encode(submission: Submission, model: ServedModel) -> pb.StepReply:
    outputs = submission.room(model.manifest.outputs_width)
    return pb.StepReply(
        first_step=int(submission.first_steps[0]),
        steps=len(outputs),
        outputs=outputs.ravel().tolist(),
        remembered=bool(submission.status[0] == REMEMBERED),
    )
