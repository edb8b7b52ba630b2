"""The unary `Step`: one request, one row, one reply."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from server.api.outcomes import outcomes
from server.errors import BadInput
from server.names import SEPARATOR
from server.scheduler.submission import UNNUMBERED, Submission
from server.serving.model import ServedModel
from server.serving.registry import Registry
from server.sessions import validation
from tidegate.v1 import packed_pb2
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.wire import FAILED, MAX_STEP, REMEMBERED


def read(
    request: pb.StepRequest,
    model: ServedModel,
    remaining: float | None,
    on_done: Callable[[Submission], None],
) -> Submission:
    """The request as a submission; `remaining` seconds until its caller's deadline, if any.

    Raises:
        BadInput: the features or the number of the step.
        ServingError: the session is not live, as `Directory.find` has it.
    """
    handle, _ = model.directory.find(request.session_id)
    steps, manifest = request.steps or 1, model.manifest
    validation.check_length(steps, manifest)
    validation.check_size(len(request.features), steps, manifest)
    values = np.array(request.features, dtype=np.float32)
    features = values.reshape(steps, manifest.inputs_width)
    if problem := validation.problem(features, manifest):
        raise problem
    first = request.first_step if request.HasField("first_step") else UNNUMBERED
    if first > MAX_STEP:
        raise BadInput(f"first_step {first} is out of range", field="first_step")
    return Submission(
        handles=np.array([handle], dtype=np.int64),
        first_steps=np.array([first], dtype=np.int64),
        lengths=np.array([steps], dtype=np.int32),
        features=features,
        on_done=on_done,
        deadline=math.inf if remaining is None else time.monotonic() + remaining,
    )


def read_packed(
    packed: bytes, registry: Registry, prefix: str = ""
) -> tuple[ServedModel, int, int, bytes] | None:
    """A plain request, one that is a single step of a session known here, in the shortest way: its
    model, the session's handle, the step's number, and its features. None for any other, wrong ones
    too: `read` tells what to do with those."""
    request = packed_pb2.PackedStepRequest.FromString(packed)
    request.DiscardUnknownFields()
    if request.ByteSize() != len(packed):  # said in another way, in which more may be said
        return None
    if SEPARATOR in request.session_id:
        return None
    session_id = prefix + request.session_id
    model = registry.holding(request.model, request.version, session_id)
    if model is None or request.steps > 1:
        return None
    first = request.first_step if request.HasField("first_step") else UNNUMBERED
    features = request.features
    if len(features) != 4 * model.manifest.inputs_width or first > MAX_STEP:
        return None
    return model, model.directory.handle(session_id), first, features


def reply_packed(submission: Submission, row: int, model: ServedModel) -> bytes:
    """The outcome of one of the submission's rows, each of one step.

    Raises:
        ServingError: why the step was not applied.
    """
    found = outcomes(submission, model)
    if found.status[row] == FAILED:
        raise submission.error(row)
    reply = packed_pb2.PackedStepReply(steps=1, outputs=found.outputs(row))
    reply.first_step = found.first_steps[row]
    if found.status[row] == REMEMBERED:
        reply.remembered = True
    if found.durable is not None:
        reply.durable_step = found.durable[row]
    return reply.SerializeToString()


def reply(submission: Submission, model: ServedModel) -> pb.StepReply:
    """The submission's outcome.

    Raises:
        ServingError: why the steps were not applied.
    """
    if submission.failed:
        raise submission.errors[0]
    outputs = submission.room(model.manifest.outputs_width)
    return pb.StepReply(
        first_step=int(submission.first_steps[0]),
        steps=len(outputs),
        outputs=outputs.ravel().tolist(),
        remembered=bool(submission.status[0] == REMEMBERED),
        durable_step=model.directory.told(int(submission.handles[0]))[0],
    )
