"""The outcomes of a submission's rows, one step each, for callers that are each told their own. A
leaf between a run and its replies (`step`, `columns`): to take numbers out of columns one by one
would cost more than to encode the reply."""

from __future__ import annotations

from dataclasses import dataclass

from server.scheduler.submission import Submission
from server.serving.model import ServedModel


@dataclass(frozen=True, slots=True)
class Outcomes:
    """By row: its status, the number of its step, how many steps of its session are stored (None:
    there is no store), and its outputs, `size` bytes of little-endian f32."""

    status: list[int]
    first_steps: list[int]
    durable: list[int] | None
    packed: bytes
    size: int

    def outputs(self, row: int) -> bytes:
        """A row's."""
        return self.packed[row * self.size : (row + 1) * self.size]


def outcomes(submission: Submission, model: ServedModel) -> Outcomes:
    """Those of a submission that is done; made once."""
    if not isinstance(submission.told, Outcomes):
        outputs = submission.room(model.manifest.outputs_width)
        durable = model.durable(submission.handles)
        submission.told = Outcomes(
            submission.status.tolist(),
            submission.first_steps.tolist(),
            None if durable is None else durable.tolist(),
            outputs.astype("<f4", copy=False).tobytes(),
            outputs.shape[1] * 4,
        )
    return submission.told
