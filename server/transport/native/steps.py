"""The unary `Step`: calls that are ready at once are stepped in one run, and answered.

A plain call, a single step of a session known here, never leaves the loop's thread. Any other goes
the long way, over the bridge, to the coroutine that knows all there is to know.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Protocol

from google.protobuf.message import DecodeError

from server.access.caller import Caller
from server.api import step
from server.api.gathering import Gathering, Single
from server.errors import Internal, QuotaReached, ServingError
from server.scheduler.submission import Submission
from server.serving.model import ServedModel
from server.serving.registry import Registry
from server.transport.http2.call import Call
from server.transport.native.tallies import Tallies
from server.transport.rpcs.calls import Gate, about

log = logging.getLogger(__name__)


class LongWay(Protocol):
    """Serves calls by coroutines."""

    def __call__(self, call: Call, packed: bytes | None = None) -> object:
        """Serve a call; `packed` is its message, if that was read."""


class Steps:
    """Takes in calls of `Step`.

    Args:
        tallies: count the calls by model.
        long_way: serves a call whose message is not plain.
    """

    def __init__(
        self,
        registry: Registry,
        gathering: Gathering,
        gate: Gate,
        tallies: Tallies,
        long_way: LongWay,
    ) -> None:
        self.registry, self.gathering, self.gate = registry, gathering, gate
        self.tallies, self.long_way = tallies, long_way

    def begin(self, call: Call) -> None:
        """A call has come; its message follows."""
        call.receive(_Step(self, call).take)


class _Step:
    """One call under way."""

    __slots__ = ("_call", "_entered", "_model", "_steps", "address")
    _model: ServedModel
    _entered: float

    def __init__(self, steps: Steps, call: Call) -> None:
        self._steps, self._call, self.address = steps, call, call.address

    def take(self, packed: bytes | None) -> None:
        """The message is there."""
        try:
            caller = self._call.caller
            plain = _plain(packed, self._steps.registry, caller)
            if plain is None:
                self._steps.long_way(self._call, packed)
                return
            if caller is not None:
                caller.usage.take(len(packed or b""), 1)
            self._gather(*plain)
        except QuotaReached as error:
            self._steps.registry.count_error(error)
            self._call.refuse(error)
        except Exception:
            log.exception("a call failed unexpectedly", extra=about(self._call.metadata))
            self._call.refuse(Internal())

    def _gather(self, model: ServedModel, handle: int, first: int, features: bytes) -> None:
        self._model = model
        self._call.tally = self._steps.tallies.of(model)
        try:
            self._entered = self._steps.gate.enter()
        except ServingError as error:
            self._refuse(error)
            return
        remaining = self._call.remaining
        deadline = math.inf if remaining is None else time.monotonic() + remaining
        self._steps.gathering.add(model, Single(handle, first, features, deadline, self))

    def waits(self, single: Single) -> None:
        """It is cancelled with its call."""
        self._call.watch(single.cancel)

    def done(self, submission: Submission, row: int) -> None:
        """Answer the call."""
        self._steps.gate.leave(self._entered)
        try:
            self._call.answer(step.reply_packed(submission, row, self._model), submission)
        except ServingError as error:
            self._refuse(error)
        except Exception:
            log.exception("a reply could not be made", extra=about(self._call.metadata))
            self._refuse(Internal())

    def _refuse(self, error: ServingError) -> None:
        self._model.metrics.error(error.code, error.reason)
        self._call.refuse(error)


def _plain(
    packed: bytes | None, registry: Registry, caller: Caller | None
) -> tuple[ServedModel, int, int, bytes] | None:
    """As `step.read_packed`; None, too, where there is no message or it is none."""
    prefix = "" if caller is None else caller.prefix
    try:
        return step.read_packed(packed, registry, prefix) if packed else None
    except DecodeError:
        return None
