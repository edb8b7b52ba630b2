"""The plain request, one that is not its sequence's first or last and asks for nothing special: the
shortest way from its message to a gathered step, and back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

from inference import grpc_service_pb2 as pb
from server.api.gathering import Deliver, Gathering, Single
from server.api.oip import requests, tensors
from server.api.oip.refusals import NoStart
from server.api.oip.sequences import Sequences, is_gone
from server.api.outcomes import outcomes
from server.errors import ServingError
from server.scheduler.submission import UNNUMBERED, Submission
from server.serving.model import ServedModel
from server.serving.registry import Registry
from tidegate.wire import FAILED

OnReply = Callable[[pb.ModelInferResponse | ServingError, Submission | None], None]
"""Takes a request's outcome, and what stepped it, if it came as far."""
Address = Callable[[Deliver], Deliver]


class Plain:
    """One plain request under way. It implements `gathering.Caller`.

    Args:
        on_wait: called with what may be cancelled, should the step not be done at once.
    """

    __slots__ = (
        "_described",
        "_model",
        "_on_reply",
        "_on_wait",
        "_request_id",
        "_session_id",
        "address",
    )

    def __init__(
        self,
        request_id: str,
        model: ServedModel,
        described: pb.ModelInferResponse,
        session_id: str,
        on_reply: OnReply,
        address: Address,
        on_wait: Callable[[Single], None],
    ) -> None:
        self._request_id, self._session_id = request_id, session_id
        self._model, self._described = model, described
        self._on_reply, self.address, self._on_wait = on_reply, address, on_wait

    def waits(self, single: Single) -> None:
        """It can be cancelled from now on."""
        self._on_wait(single)

    def done(self, submission: Submission, row: int) -> None:
        """The step has its outcome."""
        found = outcomes(submission, self._model)
        if found.status[row] == FAILED:
            self._on_reply(self._failed(submission.error(row)), submission)
            return
        reply = tensors.reply_all(
            self._request_id, found.outputs(row), self._described, self._model.manifest
        )
        self._on_reply(reply, submission)

    def _failed(self, error: ServingError) -> ServingError:
        if is_gone(error):
            error = NoStart(self._model.name, self._session_id, error)
        self._model.metrics.error(error.code, error.reason)
        error.counted = True
        return error


class PlainWay:
    """Takes in plain requests, beside `Inference`, which takes in all others."""

    def __init__(self, registry: Registry, sequences: Sequences, gathering: Gathering) -> None:
        self._registry, self._sequences, self._gathering = registry, sequences, gathering
        self._described = WeakKeyDictionary[ServedModel, pb.ModelInferResponse]()

    def take(
        self,
        request: pb.ModelInferRequest,
        remaining: float | None,
        on_reply: OnReply,
        address: Address,
        on_wait: Callable[[Single], None],
    ) -> bool:
        """Gather the request's step; False, and nothing is done, where it is not plain, or wrong:
        `Inference` tells how."""
        try:
            found = self._read(request)
        except ServingError:
            return False
        if found is None:
            return False
        model, session_id, handle, features = found
        deadline = math.inf if remaining is None else time.monotonic() + remaining
        described = self._reply_of(model)
        caller = Plain(request.id, model, described, session_id, on_reply, address, on_wait)
        self._gathering.add(model, Single(handle, UNNUMBERED, features, deadline, caller))
        return True

    def _reply_of(self, model: ServedModel) -> pb.ModelInferResponse:
        """What all replies of a model say: to copy it is faster than to say it anew."""
        if (described := self._described.get(model)) is None:
            described = self._described[model] = tensors.described(model.manifest)
        return described

    def _read(self, request: pb.ModelInferRequest) -> tuple[ServedModel, str, int, bytes] | None:
        """The model, the sequence's id and session, and the features."""
        if request.model_version:
            return None
        sequence = requests.sequence(request.parameters)
        if sequence.start or sequence.end or sequence.timeout is not None:
            return None
        session_id = sequence.session_id
        model = self._registry.holding(request.model_name, 0, session_id)
        if model is None or not self._sequences.quiet(model, session_id):
            return None
        if request.outputs and not tensors.asks_for_all(request, self._reply_of(model)):
            return None
        features = tensors.raw(request, model.manifest)
        handle = model.directory.handle(session_id)
        return (model, session_id, handle, features) if features and handle else None
