"""The unary `Step`: one request, one row, one reply."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from server.errors import BadInput
from server.scheduler.submission import UNNUMBERED, Submission
from server.serving.model import ServedModel
from server.sessions import validation
from tidegate.v1 import tidegate_pb2 as pb
from tidegate.wire import MAX_STEP, REMEMBERED


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
