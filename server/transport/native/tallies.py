"""The methods of the native transport, and where their calls and replies are counted."""

from __future__ import annotations

from server.serving.model import ServedModel
from server.transport.http2.tally import Method, Tally, Trace


class Tallies:
    """Of one method, by model version. Used by the loop's thread alone.

    Args:
        due: the loop's.
        ends: whether they count calls; else replies on streams.
        trace: who hears of each reply, if anybody.
    """

    def __init__(
        self, due: list[Tally], method: Method, ends: bool, trace: Trace | None = None
    ) -> None:
        self._due, self._method, self._ends, self._trace = due, method, ends, trace
        self._tallies: dict[ServedModel, Tally] = {}

    def of(self, model: ServedModel) -> Tally:
        """Where what concerns a model version is counted."""
        tally = self._tallies.get(model)
        return tally if tally is not None else self._new(model)

    def _new(self, model: ServedModel) -> Tally:
        for each in [each for each in self._tallies if each.metrics.removed]:
            del self._tallies[each]  # or they would be kept for ever
        replies = model.metrics.reply_seconds(self._method.name)
        seconds = (replies, self._method.seconds) if self._ends else (replies,)
        label = model.name, str(model.version)
        made = Tally(self._due, self._method, seconds, self._ends, label, self._trace)
        if not model.metrics.removed:
            self._tallies[model] = made
        return made
